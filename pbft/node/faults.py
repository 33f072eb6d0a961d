"""Named misbehaviour on a real replica that allows it (operations.md section 6)."""

import asyncio
import concurrent.futures
import json
import secrets
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from random import Random
from typing import Any

from pbft.core.effects import Effect, Event, EventName
from pbft.core.ports import Records, Signer
from pbft.errors import ConfigurationError
from pbft.faults.api import Behaviour, Corruption, Rewriter
from pbft.faults.delivery import Drop
from pbft.faults.registry import ON_DEMAND, Several, make_behaviour
from pbft.genesis import Genesis
from pbft.node import disk_faults
from pbft.types import Instant, ReplicaId

DROP_PERCENT = 30
"""What `drop` loses unless told otherwise: everything would be `silent`."""
SHARE = "share"
"""Option of every behaviour: how many percent of its opportunities it takes."""
ANSWER_SECONDS = 5.0
"""How long the event loop has to take a command."""
BODY_BYTES_MAX = 64 << 10
FLIPPED_RECORDS = 100
"""So many that some are still there at the next checkpoint, whatever is written until then."""


def parse_fault(text: str) -> tuple[str, dict[str, str]]:
    """Reads `NAME` or `NAME:KEY=VALUE,KEY=VALUE`. Raises ConfigurationError."""
    name, _, rest = text.partition(":")
    options: dict[str, str] = {}
    for part in rest.split(",") if rest else []:
        key, separator, value = part.partition("=")
        if not key or not separator:
            raise ConfigurationError(f"fault {text!r}: options are KEY=VALUE, separated by commas")
        options[key] = value
    return name, options


class CorruptState(Rewriter):
    """The replica's state was flipped behind its back. In force until it has repaired itself."""

    name = "corrupt-state"

    def __init__(self, corruption: Corruption, records: Records) -> None:
        """Flips the last bit of some of the service's records. Raises ConfigurationError if there
        are none."""
        super().__init__(corruption)
        self.is_repaired = False
        victims = []
        for victim in records.scan(b"", None):
            victims.append(victim)
            if len(victims) == FLIPPED_RECORDS:
                break
        if not victims:
            raise ConfigurationError("corrupt-state: the state is empty; write something first")
        for key, version, value in victims:
            records.put(key, version, value[:-1] + bytes((value[-1] ^ 1,)))
        self.acted = len(victims)

    def rewrite(self, effects: list[Effect], now: Instant) -> list[Effect]:
        """Changes nothing that leaves: a corrupt state does harm enough."""
        finished = EventName.STATE_TRANSFER_FINISHED
        if any(isinstance(effect, Event) and effect.name is finished for effect in effects):
            self.is_repaired = True
        return effects


class FaultBoard:
    """The faults of one replica. All of it belongs to the event loop's thread."""

    def __init__(
        self,
        replica: ReplicaId,
        genesis: Genesis,
        signer: Signer,
        data: Path,
        allowed: bool,
    ) -> None:
        """`data`: the replica's data directory."""
        self.allowed = allowed
        self.on_change: Callable[[Behaviour | None], None] = lambda behaviour: None
        """Told what stands between core and outbox from now on."""
        self.records: Records | None = None
        """What `corrupt-state` flips; None until the state is open."""
        self._replica = replica
        self._genesis = genesis
        self._signer = signer
        self._data = data
        self._active: dict[str, tuple[Behaviour, dict[str, str]]] = {}
        self._configured: dict[str, dict[str, str]] = {}
        """Faults of the disk at this start."""
        self._at_start: dict[str, dict[str, str]] = {}
        """Faults of the disk at the next one."""

    @property
    def behaviour(self) -> Behaviour | None:
        """All that is in force as one behaviour; None if the replica is honest."""
        if not self._active:
            return None
        return Several(tuple(behaviour for behaviour, _ in self._active.values()))

    def names(self) -> list[str]:
        """What is in force, and what waits for the next start."""
        for name, (behaviour, _) in list(self._active.items()):
            if isinstance(behaviour, CorruptState) and behaviour.is_repaired:
                del self._active[name]
                self.on_change(self.behaviour)
        return [*self._active, *self._at_start]

    def take(self, faults: tuple[str, ...]) -> None:
        """The faults of the configuration; those of the disk wait for `begin`. Raises
        ConfigurationError."""
        for text in faults:
            name, options = parse_fault(text)
            if name in disk_faults.DISK_FAULTS:
                self._configured[name] = disk_faults.check_disk_fault(name, options)
            else:
                self.set(name, options)

    def begin(self) -> list[str]:
        """Before the data directory is opened: does to the disk what was asked for, by the
        configuration or by a note of `set`. Returns the names. Raises ConfigurationError."""
        noted = disk_faults.noted(self._data)
        if noted and not self.allowed:
            raise ConfigurationError(
                f"{self._data}: {', '.join(noted)} was asked for by `pbft fault set`, but this "
                "start does not allow faults: add --allow-fault-injection, or remove the note"
            )
        for name, options in (noted | self._configured).items():
            disk_faults.perform(self._data, name, options)
        if noted:
            disk_faults.note(self._data, {})
        return list(noted | self._configured)

    def set(self, name: str, options: dict[str, str]) -> None:
        """Begins a fault, in place of one of the same name. Raises ConfigurationError."""
        if name in disk_faults.DISK_FAULTS:
            self._at_start[name] = disk_faults.check_disk_fault(name, options)
            disk_faults.note(self._data, self._at_start)
            return
        self._active[name] = (self._make(name, dict(options)), dict(options))
        self.on_change(self.behaviour)

    def clear(self, name: str | None) -> list[str]:
        """Ends one fault, or all (None); returns their names. What a delay still holds is lost.
        Raises ConfigurationError if the named one is not in force."""
        ended = self.names() if name is None else [name]
        for one in ended:
            if one in self._at_start:
                del self._at_start[one]
                disk_faults.note(self._data, self._at_start)
            elif one in self._active:
                del self._active[one]
            else:
                raise ConfigurationError(f"{one} is not in force on replica {self._replica}")
        self.on_change(self.behaviour)
        return ended

    def report(self) -> dict[str, Any]:
        """For `pbft fault list`."""
        self.names()
        active = [
            {"behaviour": name, "options": options, "acted": behaviour.acted, "when": "now"}
            for name, (behaviour, options) in self._active.items()
        ]
        waiting = [
            {"behaviour": name, "options": options, "acted": 0, "when": "next start"}
            for name, options in self._at_start.items()
        ]
        return {"replica": self._replica, "allowed": self.allowed, "faults": active + waiting}

    def _make(self, name: str, options: dict[str, str]) -> Behaviour:
        default = DROP_PERCENT if name == Drop.name else 100
        share = options.pop(SHARE, str(default))
        if not share.isdecimal() or not 1 <= int(share) <= 100:
            raise ConfigurationError(f"share is a whole number from 1 to 100, not {share!r}")
        random = Random(secrets.randbits(64))
        corruption = Corruption(self._replica, self._genesis, self._signer, random, int(share))
        if name != CorruptState.name:
            if name not in ON_DEMAND:
                known = ", ".join(sorted({*ON_DEMAND, CorruptState.name, *disk_faults.DISK_FAULTS}))
                raise ConfigurationError(f"no behaviour {name!r}; known are {known}")
            return make_behaviour(name, corruption, options)
        if options:
            raise ConfigurationError("corrupt-state takes no options")
        if self.records is None:
            raise ConfigurationError("corrupt-state: only while the replica runs")
        return CorruptState(corruption, self.records)


class FaultDesk:
    """Takes commands in any thread and has the event loop carry them out."""

    def __init__(self, board: FaultBoard, loop: asyncio.AbstractEventLoop) -> None:
        self._board = board
        self._loop = loop

    def command(self, body: bytes) -> tuple[HTTPStatus, dict[str, Any]]:
        """One command as JSON: action (set, clear), behaviour, options. Answers with the report,
        or with an error. Blocks for at most ANSWER_SECONDS; not in the event loop's thread."""
        if not self._board.allowed:
            return HTTPStatus.FORBIDDEN, {
                "error": "this replica does not allow faults: start it with --allow-fault-injection"
            }
        try:
            action, name, options = _read_command(body)
            return HTTPStatus.OK, self._in_loop(lambda: self._carry_out(action, name, options))
        except ConfigurationError as error:
            return HTTPStatus.BAD_REQUEST, {"error": str(error)}
        except TimeoutError:
            return HTTPStatus.SERVICE_UNAVAILABLE, {"error": "the event loop does not turn"}

    def report(self) -> tuple[HTTPStatus, dict[str, Any]]:
        """What is in force. Blocks like `command`."""
        try:
            return HTTPStatus.OK, self._in_loop(self._board.report)
        except TimeoutError:
            return HTTPStatus.SERVICE_UNAVAILABLE, {"error": "the event loop does not turn"}

    def _carry_out(self, action: str, name: str | None, options: dict[str, str]) -> dict[str, Any]:
        if action == "clear":
            self._board.clear(name)
        else:
            assert name is not None
            self._board.set(name, options)
        return self._board.report()

    def _in_loop(self, act: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Between two turns of the runtime, which it cannot interrupt."""
        done: concurrent.futures.Future[dict[str, Any]] = concurrent.futures.Future()

        def run() -> None:
            # One that was given up must not happen later: nobody would know of it.
            if not done.set_running_or_notify_cancel():
                return
            try:
                done.set_result(act())
            except ConfigurationError as error:
                done.set_exception(error)

        try:
            self._loop.call_soon_threadsafe(run)
        except RuntimeError as error:
            raise TimeoutError("the event loop is closed") from error
        try:
            return done.result(ANSWER_SECONDS)
        except concurrent.futures.TimeoutError:
            done.cancel()
            raise


def _read_command(body: bytes) -> tuple[str, str | None, dict[str, str]]:
    """Raises ConfigurationError for anything that is no command."""
    try:
        document = json.loads(body)
    except ValueError as error:
        raise ConfigurationError("a command is a JSON object") from error
    if not isinstance(document, dict) or document.keys() - {"action", "behaviour", "options"}:
        raise ConfigurationError("a command has action, behaviour and options")
    action, name = document.get("action"), document.get("behaviour")
    options = document.get("options", {})
    if action not in ("set", "clear"):
        raise ConfigurationError("action is set or clear")
    if not isinstance(name, str) and (action == "set" or name is not None):
        raise ConfigurationError("behaviour is a name")
    texts = isinstance(options, dict) and all(isinstance(one, str) for one in options.values())
    if not texts:
        raise ConfigurationError("options are texts by name")
    return action, name, options
