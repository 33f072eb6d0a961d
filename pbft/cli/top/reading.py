"""What one look at one replica brought: its process, its status, its events since the last look.

Nothing of it is verified: each replica speaks for itself, and a corrupt one may say anything. So
everything is checked for its type here, and no number of a single replica decides what is shown of
the others (pbft.cli.top.model).
"""

from dataclasses import asdict, dataclass
from typing import Any

from pbft.cli.process_table import ProcessState
from pbft.cli.untrusted import (
    LIST_MAX,
    TEXT_MAX,
    is_count,
    items_of,
    number_of,
    parse_json,
    text_of,
    texts_of,
)
from pbft.errors import printable
from pbft.node.event_stream import Entry


@dataclass(frozen=True, slots=True)
class Status:
    """The document of /status, as far as it is shown."""

    view: int
    role: str
    mode: str
    low_water_mark: int
    executed: int
    state_digest: str
    state_digest_sequence: int
    pending_requests: int
    clients_connected: int
    operations: int
    peers_connected: tuple[int, ...]
    faults: tuple[str, ...]
    rejections: dict[str, int]


@dataclass(frozen=True, slots=True)
class Reading:
    """One look."""

    replica: int
    at_us: int
    """Wall clock of who looked, microseconds since 1970."""
    process: ProcessState | None
    """None: not a process of this machine that `pbft up` started."""
    status: Status | None
    """None: no answer."""
    run: str = ""
    """Changes when the process was started again; empty without an answer."""
    entries: tuple[Entry, ...] = ()
    missed: int = 0

    def to_json(self) -> dict[str, Any]:
        """For a recording; `from_json` reads it."""
        return asdict(self) | {"process": None if self.process is None else self.process.value}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> "Reading":
        """Reads what `to_json` wrote."""
        return cls(
            replica=document["replica"],
            at_us=document["at_us"],
            process=ProcessState(document["process"]) if document["process"] else None,
            status=parse_status(document["status"]),
            run=document["run"],
            entries=tuple(Entry(**entry) for entry in document["entries"]),
            missed=document["missed"],
        )


def parse_status(document: object) -> Status | None:
    """The status in a JSON document; None if that is something else."""
    if not isinstance(document, dict):
        return None
    rejections = document.get("rejections")
    return Status(
        view=_number(document, "view"),
        role=_text(document, "role"),
        mode=_text(document, "mode"),
        low_water_mark=_number(document, "low_water_mark"),
        executed=_number(document, "executed"),
        state_digest=_text(document, "state_digest"),
        state_digest_sequence=_number(document, "state_digest_sequence"),
        pending_requests=_number(document, "pending_requests"),
        clients_connected=_number(document, "clients_connected"),
        operations=_number(document, "operations"),
        peers_connected=tuple(
            one for one in items_of(document, "peers_connected") or () if is_count(one)
        ),
        faults=tuple(texts_of(document, "faults") or ()),
        rejections={
            printable(reason[:TEXT_MAX]): count
            for reason, count in list(rejections.items())[:LIST_MAX]
            if is_count(count)
        }
        if isinstance(rejections, dict)
        else {},
    )


@dataclass(frozen=True, slots=True)
class Page:
    """The document of /events."""

    run: str
    following: int
    """Where to read on."""
    missed: int
    entries: tuple[Entry, ...]


def parse_page(body: bytes) -> Page | None:
    """The page in a body of JSON lines; None if it is something else. Odd entries are left out."""
    try:
        head, *lines = [parse_json(line) for line in body.splitlines()]
    except ValueError:
        return None
    if not isinstance(head, dict):
        return None
    entries = (_entry(line) for line in lines if isinstance(line, dict))
    return Page(
        run=_text(head, "run"),
        following=_number(head, "next"),
        missed=_number(head, "missed"),
        entries=tuple(entry for entry in entries if entry is not None),
    )


def _entry(document: dict[str, Any]) -> Entry | None:
    names = ("number", "at_us", "view", "sequence", "value")
    if not all(is_count(document.get(name)) for name in names):
        return None
    return Entry(
        number=document["number"],
        at_us=document["at_us"],
        event=_text(document, "event"),
        view=document["view"],
        sequence=document["sequence"],
        value=document["value"],
        detail=_text(document, "detail"),
    )


def _number(document: dict[str, Any], name: str) -> int:
    return number_of(document, name) or 0


def _text(document: dict[str, Any], name: str) -> str:
    return text_of(document, name) or ""
