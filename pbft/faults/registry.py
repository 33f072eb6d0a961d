"""Behaviours by name: what `pbft sim --faults` and `pbft fault set` accept."""

from collections.abc import Callable, Mapping

from pbft.core.effects import Effect
from pbft.core.settings import MILLISECOND
from pbft.errors import ConfigurationError
from pbft.faults.api import Behaviour, Corruption
from pbft.faults.delivery import Delay, Drop, Partition, Replay, Silent, SlowPrimary
from pbft.faults.primary import (
    BadSignature,
    Censor,
    Equivocate,
    SkewedProposal,
    Split,
    WithholdBody,
)
from pbft.faults.small_scope import SmallScope
from pbft.faults.testimony import LyingCheckpoint, LyingStatus, PoisonTransfer, WrongReply
from pbft.faults.view_change import ForgeViewChange, OmitViewChange, WrongNewView
from pbft.faults.votes import ConflictingVotes, StrayVotes, WrongDigest
from pbft.messages import Inbound
from pbft.types import KEY_BYTES, Instant, Micros, ReplicaId

Options = Mapping[str, str]


def _plain(make: Callable[[Corruption], Behaviour]) -> Callable[[Corruption, Options], Behaviour]:
    def build(corruption: Corruption, options: Options) -> Behaviour:
        _refuse_unknown(options)
        return make(corruption)

    return build


def _equivocate(corruption: Corruption, options: Options) -> Behaviour:
    _refuse_unknown(options, "split")
    if "split" not in options:
        return Equivocate(corruption)
    try:
        return Equivocate(corruption, Split(options["split"]))
    except ValueError as error:
        known = ", ".join(split.value for split in Split)
        raise ConfigurationError(f"equivocate: split must be one of {known}") from error


def _censor(corruption: Corruption, options: Options) -> Behaviour:
    _refuse_unknown(options, "client")
    if "client" not in options:
        return Censor(corruption)
    try:
        client = bytes.fromhex(options["client"])
    except ValueError as error:
        raise ConfigurationError("censor: client must be a key in hexadecimal") from error
    if len(client) != KEY_BYTES:
        raise ConfigurationError(f"censor: a client's key has {KEY_BYTES} bytes")
    return Censor(corruption, client)


def _delay(
    make: Callable[[Corruption, Micros], Behaviour], default_ms: int
) -> Callable[[Corruption, Options], Behaviour]:
    def build(corruption: Corruption, options: Options) -> Behaviour:
        _refuse_unknown(options, "ms")
        delay_ms = _number(options.get("ms", str(default_ms)), "ms")
        return make(corruption, delay_ms * MILLISECOND)

    return build


def _partition(corruption: Corruption, options: Options) -> Behaviour:
    _refuse_unknown(options, "peers")
    if "peers" not in options:
        return Partition(corruption, frozenset(corruption.others))
    peers = set()
    for text in options["peers"].split(","):
        if not text.isdecimal() or int(text) not in corruption.others:
            known = ",".join(map(str, corruption.others))
            raise ConfigurationError(f"partition: peers are some of {known}, not {text!r}")
        peers.add(int(text))
    return Partition(corruption, frozenset(peers))


BEHAVIOURS: Mapping[str, Callable[[Corruption, Options], Behaviour]] = {
    BadSignature.name: _plain(BadSignature),
    Censor.name: _censor,
    ConflictingVotes.name: _plain(ConflictingVotes),
    Delay.name: _delay(Delay, 50),
    Drop.name: _plain(Drop),
    Equivocate.name: _equivocate,
    ForgeViewChange.name: _plain(ForgeViewChange),
    LyingCheckpoint.name: _plain(LyingCheckpoint),
    LyingStatus.name: _plain(LyingStatus),
    OmitViewChange.name: _plain(OmitViewChange),
    PoisonTransfer.name: _plain(PoisonTransfer),
    Replay.name: _plain(Replay),
    Silent.name: _plain(Silent),
    SkewedProposal.name: _plain(SkewedProposal),
    SlowPrimary.name: _delay(SlowPrimary, 200),
    StrayVotes.name: _plain(StrayVotes),
    WithholdBody.name: _plain(WithholdBody),
    WrongDigest.name: _plain(WrongDigest),
    WrongNewView.name: _plain(WrongNewView),
    WrongReply.name: _plain(WrongReply),
}
"""Every behaviour that the simulator draws from, in alphabetical order."""
ON_DEMAND: Mapping[str, Callable[[Corruption, Options], Behaviour]] = {
    **BEHAVIOURS,
    Partition.name: _partition,
    SmallScope.name: _plain(SmallScope),
}
"""Every behaviour that can be asked for by name. The simulator has cuts of its own, and what it
draws from must not change: its seeds stand for what they drew."""


def make_behaviour(name: str, corruption: Corruption, options: Options | None = None) -> Behaviour:
    """The behaviour of this name for one replica.

    Options: equivocate takes split=half|weak|one, censor client=KEY, delay and slow-primary ms=N,
    partition peers=I,I. Raises ConfigurationError for an unknown name or option, saying what is
    known.
    """
    build = ON_DEMAND.get(name)
    if build is None:
        known = ", ".join(sorted(ON_DEMAND))
        raise ConfigurationError(f"no behaviour {name!r}; known are {known}")
    return build(corruption, options or {})


class Several:
    """Several behaviours of one replica, each rewriting what the one before it made."""

    def __init__(self, behaviours: tuple[Behaviour, ...]) -> None:
        self.behaviours = behaviours
        self.name = "+".join(behaviour.name for behaviour in behaviours)

    @property
    def acted(self) -> int:
        """How many times any of them acted."""
        return sum(behaviour.acted for behaviour in self.behaviours)

    def rewrite(self, effects: list[Effect], now: Instant) -> list[Effect]:
        """See Behaviour."""
        for behaviour in self.behaviours:
            effects = behaviour.rewrite(effects, now)
        return effects

    def observe(self, sender: ReplicaId, inbound: Inbound, now: Instant) -> None:
        """See Behaviour."""
        for behaviour in self.behaviours:
            behaviour.observe(sender, inbound, now)

    def hears(self, sender: ReplicaId) -> bool:
        """See Behaviour: one that is deaf is enough."""
        return all(behaviour.hears(sender) for behaviour in self.behaviours)

    def next_deadline_us(self) -> Micros | None:
        """See Behaviour."""
        deadlines = [behaviour.next_deadline_us() for behaviour in self.behaviours]
        return min((due for due in deadlines if due is not None), default=None)


def _refuse_unknown(options: Options, *known: str) -> None:
    for option in options:
        if option not in known:
            hint = f"; known: {', '.join(known)}" if known else ": it takes none"
            raise ConfigurationError(f"unknown option {option!r} of the behaviour{hint}")


def _number(text: str, option: str) -> int:
    if not text.isdigit() or int(text) == 0:
        raise ConfigurationError(f"{option} must be a whole number above 0, not {text!r}")
    return int(text)
