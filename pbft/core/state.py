"""The state of one replica in one dataclass; the protocol's functions take it as their first
argument."""

from collections import Counter, OrderedDict, defaultdict
from dataclasses import dataclass, field
from enum import Enum

from pbft.core.certificates import GENESIS_CHECKPOINT, CheckpointCertificate, ValidViewChange
from pbft.core.effects import Effect, Event, EventName, Rejection
from pbft.core.held_reads import HeldReads
from pbft.core.log import MessageLog
from pbft.core.ports import CertificateVerifier, Service, Signer, Snapshot, State
from pbft.core.pushes import Pushes
from pbft.core.requests import RequestPool
from pbft.core.sessions import SessionTable
from pbft.core.settings import Settings
from pbft.core.tail import Hold, Tail
from pbft.errors import Reason
from pbft.genesis import Genesis
from pbft.messages import (
    Authenticated,
    Checkpoint,
    Kind,
    ReadReply,
    Reply,
    Signed,
    StateRequest,
    Status,
    ViewChange,
    Vote,
)
from pbft.quorum import Thresholds
from pbft.types import ClientKey, Digest, Instant, Micros, ReplicaId, SequenceNumber, View


class Mode(Enum):
    """Where a replica stands with its view."""

    NORMAL = "normal"
    VIEW_CHANGING = "view_changing"
    """It signed the view-change for `view` and waits for the new-view."""


@dataclass(slots=True)
class Pace:
    """How often each peer may do something: one per interval in the long run, a few at once."""

    next_us: dict[ReplicaId, Micros] = field(default_factory=dict)
    """Per peer the moment until which what it did so far pays."""

    def allows(self, peer: ReplicaId, now_us: Micros, interval_us: Micros) -> bool:
        """Whether this peer may do it now; pure."""
        return self.next_us.get(peer, 0) <= now_us + PACE_BURST * interval_us

    def count(self, peer: ReplicaId, now_us: Micros, interval_us: Micros) -> None:
        """This peer did it."""
        self.next_us[peer] = max(self.next_us.get(peer, 0), now_us) + interval_us


PACE_BURST = 8
UNLIMITED_REQUESTS = 1 << 30


@dataclass(slots=True)
class Suspicion:
    """What this replica and its peers hold against the primary of the present view (protocol.md
    7)."""

    mine: bool = False
    """I suspect my view: a request timer or the unreachable-primary timer fired and was not
    settled."""
    unreachable_fired: bool = False
    """The unreachable-primary timer fired in this view and a quorum still finds it unreachable."""
    unreachable_deadline_us: Micros | None = None
    """Live while a quorum says that the primary is unreachable."""
    told: tuple[View, bool, bool] = (0, False, False)
    """(view, suspects, unreachable) in my last status; a change is told at once."""


@dataclass(slots=True)
class ViewChangeState:
    """Section 4.4 of the paper."""

    received: dict[ReplicaId, Authenticated[ViewChange]] = field(default_factory=dict)
    """Per signer the view-change of the highest view (mine among them); outer signature
    verified."""
    pace: Pace = field(default_factory=Pace)
    """Limits how fast one signer can make work."""
    highest: dict[ReplicaId, Signed] = field(default_factory=dict)
    """Per signer the highest view-change ever seen, for when it asks (Recall)."""
    valid: dict[ReplicaId, ValidViewChange] = field(default_factory=dict)
    """Those of `received` for my view whose certificates were verified (by its primary)."""
    void: dict[ReplicaId, View] = field(default_factory=dict)
    """Signers whose view-change for this view held a bad certificate."""
    deadline_us: Micros | None = None
    """When the new-view is overdue; live while VIEW_CHANGING and q signers are at or above my
    view."""
    failed_views: int = 0
    """Views left in a row in which nothing was executed; the unreachable-primary timer backs
    off."""
    executed_at_entry: SequenceNumber = 0
    """Last executed when the present view was entered."""

    def forget_earlier(self, signer: ReplicaId, incarnation: int) -> None:
        """What a peer signed before it lost its votes is void: it suspects nothing, joins nothing,
        is no part of a new-view, and does not stand in the way of what it signs now."""
        known = self.received.get(signer)
        if known is not None and known.message.incarnation < incarnation:
            del self.received[signer]
            self.valid.pop(signer, None)


@dataclass(slots=True)
class Fetch:
    """What one source was asked for."""

    buckets: int
    """Bitmap of its share."""
    begun_us: Micros
    due_us: Micros
    """When the share must be here: a trickle does not hold a transfer up."""
    patience_us: Micros
    """For so long it may deliver nothing."""
    cursor: bytes = b""
    """Where its last chunk ended."""
    number: int = 0
    """Of the running request: an answer to an earlier one says nothing about this one."""
    progress_us: Micros = 0
    """When it was asked, or last delivered."""


@dataclass(slots=True)
class Transfer:
    """The target side of a state transfer (protocol.md section 9)."""

    certificate: CheckpointCertificate | None = None
    """Of the state under transfer; None until a source's leaves matched a certificate."""
    sources: set[ReplicaId] = field(default_factory=set)
    """Peers that hold exactly that checkpoint."""
    others: dict[ReplicaId, SequenceNumber] = field(default_factory=dict)
    """Peers that hold another one, and which."""
    demoted: set[ReplicaId] = field(default_factory=set)
    """Peers that lied in this transfer; asked again only when no other is left."""
    stalled: dict[ReplicaId, Micros] = field(default_factory=dict)
    """Sources that delivered nothing for a while, which an honest one may do under load, and until
    when they are passed over."""
    stalls: Counter[ReplicaId] = field(default_factory=Counter)
    """How often each stalled: the patience with it doubles."""
    slow: set[ReplicaId] = field(default_factory=set)
    """Peers whose share took too long: they are asked again only when no other is left."""
    todo: int = 0
    """Bitmap of the buckets that nobody is fetching."""
    fetching: dict[ReplicaId, Fetch] = field(default_factory=dict)
    """What each busy source was asked for."""
    sizes: tuple[int, ...] = ()
    """Bytes per bucket, by the leaves."""
    walk_bytes: int = 0
    """What it weighs beside that to look for any part of them."""
    asked_us: Micros = 0
    """When leaves were last asked for."""
    takes_any: bool = False
    """Nobody had a state that was worth fetching: any above the own one will do."""
    installing: bool = False


@dataclass(slots=True)
class Pin:
    """The source side of a state transfer: what is pinned for one peer."""

    snapshot: Snapshot
    begun_us: Micros
    used_us: Micros
    """When its peer last asked."""
    ends_us: Micros
    """When it is released even if its peer still asks."""


@dataclass(slots=True)
class Recalling:
    """After a start: nothing is signed until q - 1 peers answered (protocol.md section 10)."""

    nonce: bytes
    persisted_view: View
    """The highest view that the log knows of: entered, or a view-change signed for."""
    is_empty: bool
    """No recall was answered yet: the directory is new, or everything was lost."""
    answered: set[ReplicaId] = field(default_factory=set)
    lacking: bool = False
    """Somebody showed a vote of mine that my log lacks."""
    ask_us: Micros = 0


@dataclass(slots=True)
class Rejoining:
    """Amnesia: no vote, view-change, new-view or read answer until the rejoin is settled."""

    incarnation: int
    ask_us: Micros = 0
    asked_us: Micros | None = None
    """When this incarnation was first asked for."""
    shown_to: SequenceNumber = 0
    """The highest sequence of a vote of mine that a peer showed, at the recall after a restart."""


@dataclass(slots=True)
class Evidence:
    """Two signed statements that no honest replica makes."""

    kind: str
    accused: ReplicaId
    first: Signed
    second: Signed


@dataclass(slots=True)
class Core:
    """All that a replica knows. Handlers change it and append effects; `now` is the running
    step's."""

    settings: Settings
    genesis: Genesis
    signer: Signer
    verifier: CertificateVerifier
    state: State
    service: Service
    pool: RequestPool
    sessions: SessionTable
    tail: Tail
    """Decided batches at or below h - K and above the durable state or what peers fetch."""
    held_reads: HeldReads

    view: View = 0
    """v: the view I am in, or the one I move to while VIEW_CHANGING."""
    mode: Mode = Mode.NORMAL
    new_view: Signed | None = None
    """The new-view by which I entered my last view; None in view 0."""
    entered_view: View = 0
    """The last view entered."""
    new_view_max_sequence: SequenceNumber = 0
    """max-s of that new-view."""
    next_sequence: SequenceNumber = 1
    """As primary: the sequence of the next proposal."""

    highest_prepared: SequenceNumber = 0
    """Highest slot with a prepared or commit certificate that is not void (protocol.md section
    11)."""
    log: MessageLog = field(default_factory=MessageLog)
    dirty: set[SequenceNumber] = field(default_factory=set)
    """Slots that may have become prepared or committed."""
    held: set[SequenceNumber] = field(default_factory=set)
    """Slots whose batch is ahead of my clock."""
    held_due_us: Micros = 0
    """When to look at them again; live while there are any."""
    votes_needed_until_us: Micros = 0
    """The others could not decide without this replica: until then it votes at once, though it
    fetches state ..."""
    votes_needed_span_us: Micros = 0
    """... and so long did that last, or does."""
    stable: CheckpointCertificate = GENESIS_CHECKPOINT
    """The last stable checkpoint known here, with its certificate; its sequence is h."""
    executed: SequenceNumber = 0
    """Last executed sequence; below h while the state is still to come."""
    restored_end: SequenceNumber = 0
    """Up to here the vote log held, at the start, what was decided above the durable state."""
    agreed_time_us: Micros = 0
    proposed_time_us: Micros = 0
    """Of the batch under execution."""
    work_in_step: int = 0
    """Operations executed since the step began, or what they looked at if that is more."""
    execution_due: bool = False
    """The step ended with something left that could be executed."""
    results_room: int = 0
    """Bytes of results after which the batch under execution has no room for another request."""
    records_room: int = 0
    """Records that it looks at until then."""
    requests_at_once: int = UNLIMITED_REQUESTS
    """At most so many requests are proposed as one batch: as many as the last one had room for, and
    twice as many after each that had room for all."""
    checkpoints: dict[SequenceNumber, dict[ReplicaId, Authenticated[Checkpoint]]] = field(
        default_factory=dict
    )
    """Checkpoint messages above h, per sequence and signer."""
    sealed: dict[SequenceNumber, Digest] = field(default_factory=dict)
    """Own state digests at executed checkpoints at or above h."""
    unsealed: set[SequenceNumber] = field(default_factory=set)
    """Executed checkpoints whose digest is being computed."""
    certified: dict[SequenceNumber, CheckpointCertificate] = field(default_factory=dict)
    """Of these, and of checkpoints that are executed soon, the certificates that peers pushed
    because h had passed them."""
    mergeable: CheckpointCertificate | None = None
    """The last certificate that my own state agrees with."""
    merging: SequenceNumber | None = None
    """A Merge effect under way."""
    diverged: bool = False
    """A quorum certified another state than mine: no votes and no answers until repaired."""

    recalling: Recalling | None = None
    rejoining: Rejoining | None = None
    incarnation: int = 0
    """0 until this replica first loses its votes."""
    own_votes: dict[tuple[Kind, View, SequenceNumber], Digest] = field(default_factory=dict)
    """What the log says I voted for; live while recalling."""
    incarnations: dict[ReplicaId, int] = field(default_factory=dict)
    """Replicated: the incarnation of each replica that ever rejoined."""
    rejoins: dict[ReplicaId, SequenceNumber] = field(default_factory=dict)
    """Replicated: s of its last rejoin."""
    rejoin_deadline_us: Micros | None = None
    rejoin_mark: tuple[SequenceNumber, View] = (0, 0)
    """(executed, v) when that deadline was set."""
    view_floor: View = 0
    """After a rejoin: no view below that of the highest commit certificate known then."""

    suspicion: Suspicion = field(default_factory=Suspicion)
    view_change: ViewChangeState = field(default_factory=ViewChangeState)
    timeout_us: Micros = 0
    """T_now"""
    links_down: dict[ReplicaId, Micros] = field(default_factory=dict)
    """Peers to or from which there is no stream, since when."""
    behind_since_us: Micros | None = None
    """Since when `executed` has been below h and `behind_goal`; None while it is not below h."""
    behind_goal: SequenceNumber = 0
    """What has to be executed for the patience to begin anew ..."""
    behind_bytes: int = 0
    """... or so many bytes since the start."""
    follows_transfer: bool = False
    """A state was installed, and what came after it is not all executed."""
    recount_due_us: Micros = 0
    """When the own leaves are counted on, before a diverged replica fetches."""
    transfer: Transfer | None = None
    chunk_requests: int = 0
    """Number of the last request for a chunk. It begins at random: peers may still answer who ran
    here before."""
    holds: dict[ReplicaId, Hold] = field(default_factory=dict)
    """Peers that fetch a state, or have fetched it and are executing what came after."""
    reading_back: set[ReplicaId] = field(default_factory=set)
    """Peers for which a ReadBack is under way."""
    snapshots: dict[ReplicaId, Pin] = field(default_factory=dict)
    """Pinned for a peer's transfer; at most one per peer."""
    chunks_asked: dict[ReplicaId, StateRequest] = field(default_factory=dict)
    """Requests for records that wait until those served before are paid for; one per peer."""
    chunks_due_us: Micros = 0
    """When they are."""
    served_us: dict[ReplicaId, Micros] = field(default_factory=dict)
    """When peers were sent records last, of what they have pinned now."""
    haste: dict[ReplicaId, int] = field(default_factory=dict)
    """How often in a row each peer had to ask again."""

    peers: dict[ReplicaId, Status] = field(default_factory=dict)
    """The last status of each peer: advice."""
    status_pace: Pace = field(default_factory=Pace)
    leaves_pace: Pace = field(default_factory=Pace)
    recall_pace: Pace = field(default_factory=Pace)
    chunk_pace: Pace = field(default_factory=Pace)
    expired_pace: Pace = field(default_factory=Pace)
    clock_offsets_us: dict[ReplicaId, Micros] = field(default_factory=dict)
    """Peer's clock minus mine at its last status."""
    pushes: defaultdict[ReplicaId, Pushes] = field(default_factory=lambda: defaultdict(Pushes))
    """What healing sent to each peer lately."""
    status_due_us: Micros = 0
    stalled_since_us: Micros | None = None
    """Since when the slot after `stalled_at` has been waiting; None while nothing waits."""
    stalled_at: SequenceNumber = 0

    evidence: OrderedDict[tuple[str, ReplicaId, int, int], Evidence] = field(
        default_factory=OrderedDict
    )

    # Of the running step.
    now: Instant = field(default_factory=lambda: Instant(0, 0))
    effects: list[Effect] = field(default_factory=list)
    replies: dict[ClientKey, list[Reply]] = field(default_factory=dict)
    read_replies: dict[ClientKey, list[ReadReply]] = field(default_factory=dict)

    @property
    def me(self) -> ReplicaId:
        """i"""
        return self.settings.replica

    @property
    def thresholds(self) -> Thresholds:
        """The certificate sizes."""
        return self.genesis.thresholds

    @property
    def low_water_mark(self) -> SequenceNumber:
        """h"""
        return self.stable.sequence

    @property
    def high_water_mark(self) -> SequenceNumber:
        """H = h + L"""
        return self.stable.sequence + self.genesis.constants.window

    @property
    def log_floor(self) -> SequenceNumber:
        """h - K: slots at or below it are gone, but for `to_execute`."""
        return self.stable.sequence - self.genesis.constants.checkpoint_interval

    @property
    def catch_up(self) -> range:
        """Sequences of which commit certificates are taken although h - K has passed them."""
        return range(self.executed + 1, self.executed + self.genesis.constants.window + 1)

    @property
    def to_execute(self) -> range:
        """Slots that stay although h - K has passed them: `catch_up`, and what was decided before
        the restart. After a power loss of all it may be nobody but this replica that has that,
        however far h was above what is durable."""
        return range(self.executed + 1, max(self.catch_up.stop, self.restored_end + 1))

    @property
    def is_replaying(self) -> bool:
        """Whether what was decided before the restart is not all executed again: the replicated
        state, incarnations included, is older than what this replica signed for."""
        return self.executed < self.restored_end

    @property
    def primary(self) -> ReplicaId:
        """p = v mod n"""
        return self.thresholds.primary_of(self.view)

    @property
    def is_primary(self) -> bool:
        """Whether I am the primary of my view."""
        return self.primary == self.me

    @property
    def is_voting(self) -> bool:
        """Whether I may sign votes in my view now."""
        return self.mode is Mode.NORMAL and self.is_trusted and self.view >= self.view_floor

    @property
    def is_trusted(self) -> bool:
        """Whether I trust my own memory and state, and so may sign what others rely on."""
        return not self.diverged and self.recalling is None and self.rejoining is None

    def is_accused(self, kind: str, signer: ReplicaId, vote: Vote) -> bool:
        """Whether this signer is already convicted for this (v, n): more proofs are not worth
        work."""
        return (kind, signer, vote.view, vote.sequence) in self.evidence

    def emit(self, effect: Effect) -> None:
        """Appends an effect to the running step."""
        self.effects.append(effect)

    def report(
        self, name: EventName, sequence: SequenceNumber = 0, value: int = 0, detail: str = ""
    ) -> None:
        """Appends an Event."""
        self.effects.append(Event(name, self.view, sequence, value, detail))

    def reject(self, message: str, reason: Reason, peer: ReplicaId | None) -> None:
        """Counts a message that was not accepted."""
        self.effects.append(Rejection(message, reason, peer))

    def accuse(self, kind: str, sequence: int, view: View, first: Signed, second: Signed) -> None:
        """Stores two conflicting statements of one signer, bounded: the oldest goes."""
        assert isinstance(first.signer, int) and first.signer == second.signer
        key = (kind, first.signer, view, sequence)
        if key in self.evidence:
            return
        self.evidence[key] = Evidence(kind, first.signer, first, second)
        if len(self.evidence) > self.settings.limits.evidence:
            self.evidence.popitem(last=False)
        self.report(EventName.EVIDENCE, sequence, first.signer, kind)
