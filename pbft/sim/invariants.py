"""What must hold after every event (adversary.md section 3), checked where something changed.

The watch sees each step of each honest core, and each thing that leaves it. It keeps what was said
across restarts. A breach raises `Violation`, which ends the run.
"""

from dataclasses import dataclass, field

from pbft.codec import decode_batch, decode_message, decode_signed
from pbft.core.effects import (
    Answer,
    Broadcast,
    DecidedRecord,
    Effect,
    Event,
    EventName,
    Install,
    NewViewRecord,
    Persist,
    PreparedRecord,
    ReadBack,
    Send,
)
from pbft.core.ports import CertificateVerifier
from pbft.crypto.digest import NULL_DIGEST
from pbft.genesis import Genesis
from pbft.messages import (
    Checkpoint,
    Commit,
    Kind,
    NewView,
    Outcome,
    PeerItem,
    Proposal,
    Replies,
    Signed,
    ViewChange,
    Vote,
)
from pbft.sim.new_views import NewViewWatch
from pbft.types import ClientKey, Digest, ReplicaId, SequenceNumber, View


class Violation(Exception):
    """A promise was broken."""

    def __init__(
        self, invariant: str, detail: str, culprits: frozenset[ReplicaId] = frozenset()
    ) -> None:
        super().__init__(f"{invariant}: {detail}")
        self.invariant = invariant
        self.detail = detail
        self.culprits = culprits
        """Whom two statements of its own convict, both in certificates of honest replicas (I16)."""


@dataclass(slots=True)
class Counters:
    """What happened in a run, to show that the runs together saw something."""

    new_views: int = 0
    """New-views entered by an honest replica, each view counted once."""
    new_views_nonempty_o: int = 0
    unequal_h: int = 0
    """New-views whose view-changes had different stable checkpoints."""
    null_slots: int = 0
    """Null batches put in order by those new-views."""
    state_transfers: int = 0
    read_backs: int = 0
    """Times that decided batches were read from a vote log for a peer."""
    restarts: int = 0
    suspicions: int = 0
    evidence: int = 0
    batches: int = 0
    """Sequence numbers decided."""
    power_losses_of_all: int = 0
    """Moments at which no replica was left."""
    disk_faults: int = 0
    """Times that a disk refused, lost or damaged something."""
    corrupt_disks: int = 0
    """Times that a replica noticed what a disk had damaged, and was given a new one."""
    amnesias: int = 0
    """Times that a replica noticed that it lacks its own votes."""
    rejoins: int = 0
    """Times that such a replica came to vote again."""
    delivered_again: int = 0
    """Messages that were handed to an honest replica twice."""
    fast_reads: int = 0
    """Reads that were answered without being ordered."""
    undecided_histories: int = 0
    """Histories with so many unknown outcomes at once that the black-box checker gave up; the
    witness checker judged them."""


@dataclass(slots=True)
class _Identity:
    """What is known of one (client, session, number)."""

    executed: Digest | None = None
    """The request that was executed under it."""
    said: dict[Digest, tuple[int, int, Digest]] = field(default_factory=dict)
    """Per request digest: sequence, time and results digest of its execution."""


class Watch:
    """The memory of the checker; one per run."""

    def __init__(
        self,
        genesis: Genesis,
        verifier: CertificateVerifier,
        issued: set[bytes],
        counters: Counters,
    ) -> None:
        self.counters = counters
        self.decided: dict[SequenceNumber, tuple[Digest, View]] = {}
        """Per sequence the digest, and the lowest view in which it was seen committed."""
        self._certificates: dict[SequenceNumber, tuple[View, frozenset[ReplicaId]]] = {}
        """Per sequence the view and the signers of the commits by which it was first decided."""
        self._genesis = genesis
        self._issued = issued
        self._committed: dict[SequenceNumber, tuple[Digest, View]] = {}
        """The same, of what q commits say that have left their honest signers."""
        self._uncommitted: dict[tuple[View, SequenceNumber, Digest], list[set[ReplicaId]]] = {}
        """What was decided on commits of which some are yet to leave: their signers."""
        self._new_views = NewViewWatch(genesis, verifier, self._committed)
        self._prepared: dict[tuple[View, SequenceNumber, Digest], set[ReplicaId]] = {}
        self._executed: dict[ReplicaId, SequenceNumber] = {}
        self._states: dict[SequenceNumber, tuple[Digest, ReplicaId]] = {}
        self._votes: dict[tuple[Kind, ReplicaId, View, SequenceNumber], Digest] = {}
        self._view_changes: dict[tuple[Kind, ReplicaId, View], bytes] = {}
        self._heard: set[tuple[Kind, ReplicaId, bytes]] = set()
        """Payloads that were looked at; the same again is nothing new."""
        self._identities: dict[tuple[ClientKey, int, int], _Identity] = {}
        self._entered: set[View] = set()
        self._honest: set[ReplicaId] = set()
        self._blank: set[ReplicaId] = set()
        self.damaged: set[ReplicaId] = set()
        """Replicas whose disk has lost something that was synced."""

    def began(
        self, replica: ReplicaId, executed: SequenceNumber, *, first: bool, blank: bool = False
    ) -> None:
        """An honest replica started, with the state at `executed`; `blank`: its disk holds nothing
        of its own, which it cannot tell from a disk that was lost."""
        self._honest.add(replica)
        (self._blank.add if blank else self._blank.discard)(replica)
        self._executed[replica] = executed
        self.counters.restarts += not first

    # Steps of an honest core.

    def stepped(self, replica: ReplicaId, effects: list[Effect]) -> None:
        """Checks what an honest core wants done."""
        for effect in effects:
            if isinstance(effect, Persist):
                self._on_record(replica, effect)
            elif isinstance(effect, Event):
                self._on_event(replica, effect)
            elif isinstance(effect, Install):
                self._executed[replica] = effect.sequence
            elif isinstance(effect, ReadBack):
                self.counters.read_backs += 1
        if self._executed[replica] not in self.decided and self._has_executed(effects):
            raise Violation("I2", f"replica {replica} executed what nobody decided")

    @staticmethod
    def _has_executed(effects: list[Effect]) -> bool:
        return any(
            isinstance(effect, Event) and effect.name is EventName.EXECUTED for effect in effects
        )

    def _on_record(self, replica: ReplicaId, persist: Persist) -> None:
        record = persist.record
        if isinstance(record, DecidedRecord):
            self._on_decided(replica, record)
        elif isinstance(record, PreparedRecord):
            key = (record.view, record.sequence, record.digest)
            self._prepared.setdefault(key, set()).add(replica)
        elif isinstance(record, NewViewRecord) and record.view not in self._entered:
            self._entered.add(record.view)
            self._count_new_view(record.new_view)

    def _on_decided(self, replica: ReplicaId, record: DecidedRecord) -> None:
        """I1, I3, and that a commit stands on prepared certificates of the honest."""
        vote = decode_message(Kind.COMMIT, record.commits[0].payload)
        assert isinstance(vote, Commit)
        known = self.decided.get(record.sequence)
        signers = {commit.signer for commit in record.commits if isinstance(commit.signer, int)}
        certificate = (vote.view, frozenset(signers))
        if known is not None and known[0] != record.digest:
            raise Violation(
                "I1",
                f"sequence {record.sequence}: replica {replica} decided {record.digest.hex()[:8]}, "
                f"another replica {known[0].hex()[:8]}",
                self._culprits(record.sequence, certificate),
            )
        self._certificates.setdefault(record.sequence, certificate)
        key = (vote.view, record.sequence, record.digest)
        unprepared = (signers & self._honest) - self._prepared.get(key, set())
        if unprepared:
            raise Violation("I4", f"commit of {key[:2]} by {sorted(unprepared)}, not prepared")
        if known is None:
            self.counters.batches += 1
            self._check_validity(record, vote.view)
        if known is None or vote.view < known[1]:
            self.decided[record.sequence] = (record.digest, vote.view)
        self._note_commits(key, self._honest & signers)

    def _culprits(
        self, sequence: SequenceNumber, other: tuple[View, frozenset[ReplicaId]]
    ) -> frozenset[ReplicaId]:
        """I16: who committed two digests in one view. Two quorums share f + 1 replicas or more, and
        none of these is honest (I6)."""
        view, signers = self._certificates[sequence]
        return signers & other[1] if view == other[0] else frozenset()

    def _note_commits(
        self, key: tuple[View, SequenceNumber, Digest], signers: set[ReplicaId]
    ) -> None:
        """A replica decides with its own commit before that is on disk. If it crashes then, nothing
        was decided: nobody heard of it."""
        view, sequence, digest = key
        missing = {
            signer
            for signer in signers
            if self._votes.get((Kind.COMMIT, signer, view, sequence)) != digest
        }
        if missing:
            self._uncommitted.setdefault(key, []).append(missing)
        else:
            self._on_committed(key)

    def _on_committed(self, key: tuple[View, SequenceNumber, Digest]) -> None:
        view, sequence, digest = key
        known = self._committed.get(sequence)
        if known is None or view < known[1]:
            self._committed[sequence] = (digest, view)
            self._check_new_views(self._new_views.on_decided(sequence))

    def _check_validity(self, record: DecidedRecord, view: View) -> None:
        if record.digest == NULL_DIGEST:
            if view == 0:
                raise Violation("I3", f"null batch at {record.sequence} without a new-view")
            return
        for item in decode_batch(record.batch).items:
            signed = decode_signed(item)
            if signed.payload not in self._issued:
                raise Violation("I3", f"sequence {record.sequence} holds a request nobody issued")

    def _check_new_views(self, problem: str | None) -> None:
        if problem is not None:
            raise Violation("I4", problem)

    def _on_event(self, replica: ReplicaId, event: Event) -> None:
        name = event.name
        if name is EventName.EXECUTED:
            expected = self._executed[replica] + 1
            if event.sequence != expected:
                raise Violation(
                    "I2", f"replica {replica} executed {event.sequence}, {expected} was next"
                )
            self._executed[replica] = event.sequence
        elif name is EventName.EVIDENCE:
            self.counters.evidence += 1
            if event.value in self._honest:
                raise Violation("I16", f"replica {replica} accuses honest {event.value}")
        elif name is EventName.STATE_DIVERGED:
            raise Violation("I11", f"replica {replica} diverged at {event.sequence}")
        elif name is EventName.AMNESIA:
            self.counters.amnesias += 1
            if replica not in self._blank and replica not in self.damaged:
                raise Violation("I9", f"replica {replica} was shown a vote that its disk lacks")
        elif name is EventName.REJOINED:
            self.counters.rejoins += 1
        elif name is EventName.STATE_TRANSFER_FINISHED:
            self.counters.state_transfers += 1
        elif name is EventName.SUSPECTED:
            self.counters.suspicions += 1

    def _count_new_view(self, signed: Signed) -> None:
        message = decode_message(Kind.NEW_VIEW, signed.payload)
        assert isinstance(message, NewView)
        self.counters.new_views += 1
        self.counters.new_views_nonempty_o += bool(message.pre_prepares)
        heights = set()
        for view_change in message.view_changes:
            change = decode_message(Kind.VIEW_CHANGE, view_change.payload)
            assert isinstance(change, ViewChange)
            heights.add(change.stable_sequence)
        self.counters.unequal_h += len(heights) > 1
        for pre_prepare in message.pre_prepares:
            vote = decode_message(Kind.PRE_PREPARE, pre_prepare.payload)
            assert isinstance(vote, Vote)
            self.counters.null_slots += vote.digest == NULL_DIGEST

    # What leaves.

    def left(self, replica: ReplicaId, effect: object) -> None:
        """Checks what an honest replica says, once per distinct statement."""
        if isinstance(effect, Send | Broadcast):
            self._on_item(replica, effect.item)
        elif isinstance(effect, Answer):
            self._on_answer(replica, effect)

    def left_corrupt(self, effect: object) -> None:
        """Takes note of the view-changes of a Byzantine replica: valid ones count in new-views."""
        if not isinstance(effect, Send | Broadcast) or not isinstance(effect.item, Signed):
            return
        signed = effect.item
        self._note_rejoin(signed)
        if signed.kind is Kind.VIEW_CHANGE and self._is_news(signed):
            self._check_new_views(self._new_views.on_view_change(signed))

    def _note_rejoin(self, signed: Signed) -> None:
        """A replica's own request, to rejoin, is as good as a client's."""
        if signed.kind is Kind.REQUEST and signed.signer in self._genesis.replicas:
            self._issued.add(signed.payload)

    def _is_news(self, signed: Signed) -> bool:
        assert isinstance(signed.signer, int)
        key = (signed.kind, signed.signer, signed.payload)
        if key in self._heard:
            return False
        self._heard.add(key)
        return True

    def _on_item(self, replica: ReplicaId, item: PeerItem) -> None:
        signed = item.pre_prepare if isinstance(item, Proposal) else item
        if not isinstance(signed, Signed):
            return
        self._note_rejoin(signed)
        if signed.signer != replica:
            return
        if signed.kind is Kind.STATUS or not self._is_news(signed):
            return
        message = decode_message(signed.kind, signed.payload)
        if isinstance(message, Vote):
            self._on_vote(replica, signed.kind, message)
        elif isinstance(message, Checkpoint):
            self._on_checkpoint(replica, message)
        elif isinstance(message, ViewChange | NewView):
            key = (signed.kind, replica, message.view)
            if self._view_changes.setdefault(key, signed.payload) != signed.payload:
                raise Violation(
                    "I6", f"replica {replica} signed two {signed.kind.name} for {message.view}"
                )
            if isinstance(message, ViewChange):
                self._check_new_views(self._new_views.on_view_change(signed))
            else:
                for pre_prepare in message.pre_prepares:
                    self._on_item(replica, pre_prepare)

    def _on_vote(self, replica: ReplicaId, kind: Kind, vote: Vote) -> None:
        key = (kind, replica, vote.view, vote.sequence)
        if self._votes.setdefault(key, vote.digest) != vote.digest:
            raise Violation(
                "I6",
                f"replica {replica} signed two {kind.name} for view {vote.view}, "
                f"sequence {vote.sequence}",
            )
        certified = (vote.view, vote.sequence, vote.digest)
        if kind is Kind.COMMIT and certified in self._uncommitted:
            waiting = self._uncommitted[certified]
            for missing in waiting:
                missing.discard(replica)
            if not all(waiting):
                del self._uncommitted[certified]
                self._on_committed(certified)

    def _on_checkpoint(self, replica: ReplicaId, checkpoint: Checkpoint) -> None:
        digest, first = self._states.setdefault(checkpoint.sequence, (checkpoint.digest, replica))
        if digest != checkpoint.digest:
            raise Violation(
                "I11",
                f"replicas {first} and {replica} have different states at {checkpoint.sequence}",
            )

    def _on_answer(self, replica: ReplicaId, answer: Answer) -> None:
        """I5: an execution is told alike by all, and one number is executed once."""
        signed = answer.replies
        if signed.kind is not Kind.REPLIES or not self._is_news(signed):
            return
        message = decode_message(signed.kind, signed.payload)
        assert isinstance(message, Replies)
        for reply in message.replies:
            if reply.outcome not in (Outcome.EXECUTED, Outcome.RESULT_FORGOTTEN):
                continue
            key = (message.client, reply.session, reply.number)
            identity = self._identities.setdefault(key, _Identity())
            told = (reply.sequence, reply.agreed_time_us, reply.results_digest)
            if identity.said.setdefault(reply.request_digest, told) != told:
                raise Violation("I5", f"replica {replica}: request {key[1:]} is told in two ways")
            if identity.executed is None:
                identity.executed = reply.request_digest
            elif identity.executed != reply.request_digest:
                raise Violation("I5", f"replica {replica}: {key[1:]} was executed twice")
