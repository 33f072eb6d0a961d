"""What the core wants done: values, in the order in which they must happen (protocol.md section
10).

A step returns a list of effects. The runtime performs them so that nothing which leaves the replica
(Send, Broadcast, Answer) leaves before every Persist that came earlier, in this step or in an
earlier one,
is durable; except that `Persist(gates=False)` holds nothing back by itself: it is merely written,
in order.
"""

from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

from pbft.errors import Reason
from pbft.messages import PeerItem, PreparedProof, Signed
from pbft.types import ClientKey, Digest, ReplicaId, SequenceNumber, View

# Records of the vote log.


@dataclass(frozen=True, slots=True)
class AcceptedRecord:
    """A pre-prepare accepted (by the primary: proposed) here, with its body; `batch` is empty for
    null."""

    view: View
    sequence: SequenceNumber
    digest: Digest
    pre_prepare: Signed
    batch: bytes


@dataclass(frozen=True, slots=True)
class PreparedRecord:
    """The prepared certificate behind a commit of this replica. Its body is in an
    AcceptedRecord."""

    view: View
    sequence: SequenceNumber
    digest: Digest
    proof: PreparedProof


@dataclass(frozen=True, slots=True)
class DecidedRecord:
    """A commit certificate with the body it decided."""

    sequence: SequenceNumber
    digest: Digest
    commits: tuple[Signed, ...]
    batch: bytes


@dataclass(frozen=True, slots=True)
class ViewChangeRecord:
    """The exact view-change this replica signed for `view`; a newer one replaces it."""

    view: View
    view_change: Signed


@dataclass(frozen=True, slots=True)
class NewViewRecord:
    """The new-view by which this replica entered `view`; a newer one replaces it."""

    view: View
    new_view: Signed


@dataclass(frozen=True, slots=True)
class StableRecord:
    """The stable checkpoint certificate this replica knows; a newer one replaces it."""

    sequence: SequenceNumber
    digest: Digest
    certificate: tuple[Signed, ...]


@dataclass(frozen=True, slots=True)
class RejoinRecord:
    """This replica lost its votes and rejoins as `incarnation`; `done`: it votes again."""

    incarnation: int
    done: bool


LogRecord: TypeAlias = (
    AcceptedRecord
    | PreparedRecord
    | DecidedRecord
    | ViewChangeRecord
    | NewViewRecord
    | StableRecord
    | RejoinRecord
)


@dataclass(frozen=True, slots=True)
class Persist:
    """Append a record to the vote log."""

    record: LogRecord
    gates: bool = True


@dataclass(frozen=True, slots=True)
class Truncate:
    """Accepted, prepared and decided records at or below `sequence` may leave the disk."""

    sequence: SequenceNumber


@dataclass(frozen=True, slots=True)
class ReadBack:
    """Read the decided records of these sequences, ascending, for a peer from the vote log, up to
    the first that is not there, or about `size` bytes of them; then call `on_read_back`."""

    peer: ReplicaId
    sequences: tuple[SequenceNumber, ...]
    size: int


@dataclass(frozen=True, slots=True)
class Merge:
    """Make the own state at stable checkpoint `sequence` durable, with its certificate; then call
    `on_merged`."""

    sequence: SequenceNumber
    digest: Digest
    certificate: tuple[Signed, ...]


@dataclass(frozen=True, slots=True)
class Install:
    """Install the staged, verified state of `sequence` durably; then call `on_installed`."""

    sequence: SequenceNumber
    digest: Digest
    certificate: tuple[Signed, ...]


@dataclass(frozen=True, slots=True)
class Send:
    """To one peer."""

    to: ReplicaId
    item: PeerItem


@dataclass(frozen=True, slots=True)
class Broadcast:
    """To every other replica."""

    item: PeerItem


@dataclass(frozen=True, slots=True)
class Answer:
    """Signed Replies or ReadReplies for a client; dropped if it is not connected here."""

    client: ClientKey
    replies: Signed


@dataclass(frozen=True, slots=True)
class Refuse:
    """Tell a client that its request was not taken, and why."""

    client: ClientKey
    session: int
    number: int
    reason: str


@dataclass(frozen=True, slots=True)
class Halt:
    """This replica contradicts itself (a bug, or a corrupt disk): stop it, say why."""

    why: str


class EventName(Enum):
    """Stable names of what a replica reports; also the event names in logs and in the event
    stream."""

    PRE_PREPARED = "pre_prepared"
    PREPARED = "prepared"
    COMMITTED = "committed"
    EXECUTED = "executed"
    SUSPECTED = "suspected"
    VIEW_CHANGE_STARTED = "view_change_started"
    VIEW_ENTERED = "view_entered"
    CHECKPOINT_STABLE = "checkpoint_stable"
    STATE_TRANSFER_STARTED = "state_transfer_started"
    STATE_TRANSFER_FINISHED = "state_transfer_finished"
    STATE_DIVERGED = "state_diverged"
    EVIDENCE = "evidence"
    AMNESIA = "amnesia"
    REJOINED = "rejoined"


@dataclass(frozen=True, slots=True)
class Event:
    """Something worth seeing; never needed for correctness. `value` depends on the name: requests
    in the
    batch (PRE_PREPARED, EXECUTED), the accused replica (EVIDENCE), else 0; `detail` is from a
    fixed set."""

    name: EventName
    view: View
    sequence: SequenceNumber
    value: int = 0
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Rejection:
    """A message was not accepted: to be counted. `peer` is the sender's index, None for a
    client."""

    message: str
    reason: Reason
    peer: ReplicaId | None


Effect: TypeAlias = (
    Persist
    | Truncate
    | ReadBack
    | Merge
    | Install
    | Send
    | Broadcast
    | Answer
    | Refuse
    | Halt
    | Event
    | Rejection
)


@dataclass(frozen=True, slots=True)
class SavedLog:
    """What the vote log held at a restart. Records of one list ascend by (sequence, view)."""

    accepted: tuple[AcceptedRecord, ...] = ()
    prepared: tuple[PreparedRecord, ...] = ()
    decided: tuple[DecidedRecord, ...] = ()
    view_change: ViewChangeRecord | None = None
    new_view: NewViewRecord | None = None
    stable: StableRecord | None = None
    rejoin: RejoinRecord | None = None
