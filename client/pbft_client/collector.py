"""When a client believes an answer (OSDI'99 section 4.1; protocol.md sections 4 and 11).

Sans-IO: replies go in, a decision comes out. Of any f + 1 distinct replicas at least one is honest,
so what f + 1 say alike is what the honest say. Here is the only place that counts them.

Signatures are checked last: votes are sorted by equality first, and only when enough replicas
*claim* the same are their envelopes verified. A claim that fails is dropped with everything else in
its envelope.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from pbft.crypto.digest import results_digest
from pbft.messages import Outcome, ReadReply, Reply
from pbft.quorum import Thresholds
from pbft.types import Digest, Micros, ReplicaId, SequenceNumber, View
from pbft_client.envelope import Envelope, ReadEnvelope, ReplyEnvelope

VOTES_PER_REPLICA = 2
"""Different answers of one replica to one request that are kept. An honest one has a reason for a
second: a request of an expired session is decided anew each time it is ordered. More would be
memory for liars."""


class Ignored(Enum):
    """Why a reply did not count; also the label under which it is counted."""

    UNKNOWN_REQUEST = "unknown_request"
    OTHER_REQUEST = "other_request"
    DUPLICATE = "duplicate"
    WRONG_RESULTS = "wrong_results"
    BAD_SIGNATURE = "bad_signature"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Decision:
    """What f + 1 replicas say became of a request."""

    outcome: Outcome
    sequence: SequenceNumber
    agreed_time_us: Micros
    results: tuple[bytes, ...]
    """One per operation if `outcome` is EXECUTED, else none."""
    highest_session: int
    voters: tuple[ReplicaId, ...]
    """The distinct replicas whose signatures were checked, at least f + 1."""


_Claim = tuple[SequenceNumber, Micros, Digest]


class ReplyCollector:
    """Collects the replies to one request.

    Two replies match when sequence, agreed time and results digest are equal, and both name this
    very request. The digest covers outcome, highest session and results, so these match as well; it
    also lets RESULT_FORGOTTEN, which keeps the digest, count for the result it has forgotten. The
    view is not compared.
    """

    __slots__ = (
        "_claims",
        "_forgotten",
        "_meanings",
        "_number",
        "_operations",
        "_request_digest",
        "_session",
        "_thresholds",
        "_votes",
        "lacks_results",
    )

    def __init__(
        self,
        thresholds: Thresholds,
        session: int,
        number: int,
        request_digest: Digest,
        operations: int,
    ) -> None:
        """`operations`: how many results an executed request has."""
        self._thresholds = thresholds
        self._session = session
        self._number = number
        self._request_digest = request_digest
        self._operations = operations
        self._claims: dict[_Claim, dict[ReplicaId, ReplyEnvelope]] = {}
        self._votes: dict[ReplicaId, list[_Claim]] = {}
        self._forgotten: dict[_Claim, set[ReplicaId]] = {}
        self._meanings: dict[Digest, tuple[Outcome, int, tuple[bytes, ...]]] = {}
        self.lacks_results = False
        """f + 1 agree on the digest, but nobody has sent the results that belong to it."""

    @property
    def answered(self) -> tuple[ReplicaId, ...]:
        """Replicas whose replies count, ascending (not all of them verified)."""
        return tuple(sorted(self._votes))

    @property
    def matching(self) -> int:
        """The most replies that match each other."""
        return max((len(voters) for voters in self._claims.values()), default=0)

    def add(self, reply: Reply, envelope: ReplyEnvelope) -> Decision | Ignored | None:
        """Counts one reply. None: counted, but that was not enough yet."""
        if (
            reply.request_digest != self._request_digest
            or reply.number != self._number
            or reply.session != self._session
        ):
            return Ignored.OTHER_REQUEST
        if not self._learn_meaning(reply):
            return Ignored.WRONG_RESULTS
        claim = (reply.sequence, reply.agreed_time_us, reply.results_digest)
        is_new = self._vote(claim, envelope)
        if reply.outcome is Outcome.RESULT_FORGOTTEN:
            self._forgotten.setdefault(claim, set()).add(envelope.replica)
        decision = self._decide(claim)
        if decision is None and envelope.replica not in self._claims.get(claim, ()):
            return Ignored.BAD_SIGNATURE
        if decision is None and not is_new:
            return Ignored.DUPLICATE
        return decision

    def _learn_meaning(self, reply: Reply) -> bool:
        """Remembers the results that hash to the digest, whoever sent them; False if these do
        not."""
        results = reply.results
        if reply.outcome is Outcome.RESULT_FORGOTTEN:
            return results is None or not results
        if results is None:
            if reply.outcome is Outcome.EXECUTED:
                return True
            # Nothing but an execution has results, so the digest alone tells everything.
            results = ()
        if reply.results_digest in self._meanings:
            return True
        if len(results) != (self._operations if reply.outcome is Outcome.EXECUTED else 0):
            return False
        digest = results_digest(reply.outcome, reply.highest_session, results)
        if digest != reply.results_digest:
            return False
        self._meanings[digest] = (reply.outcome, reply.highest_session, results)
        return True

    def _vote(self, claim: _Claim, envelope: ReplyEnvelope) -> bool:
        """Counts a replica once per claim; its oldest claim goes when it makes too many."""
        replica = envelope.replica
        voters = self._claims.setdefault(claim, {})
        if replica in voters:
            return False
        voters[replica] = envelope
        votes = self._votes.setdefault(replica, [])
        votes.append(claim)
        if len(votes) > VOTES_PER_REPLICA:
            self._withdraw(replica, votes[0])
        return True

    def _withdraw(self, replica: ReplicaId, claim: _Claim) -> None:
        votes = self._votes[replica]
        votes.remove(claim)
        if not votes:
            del self._votes[replica]
        voters = self._claims[claim]
        del voters[replica]
        self._forgotten.get(claim, set()).discard(replica)
        if not voters:
            del self._claims[claim]
            self._forgotten.pop(claim, None)
            if all(other[2] != claim[2] for other in self._claims):
                self._meanings.pop(claim[2], None)

    def _decide(self, claim: _Claim) -> Decision | None:
        voters = self._claims[claim]
        if len(voters) < self._thresholds.weak:
            return None
        authentic = self._authentic_voters(claim)
        if len(authentic) < self._thresholds.weak:
            return None
        sequence, agreed_time_us, digest = claim
        meaning = self._meanings.get(digest)
        if meaning is None:
            if len(self._forgotten.get(claim, ())) < self._thresholds.weak:
                self.lacks_results = True
                return None
            # f + 1 have forgotten: nobody honest who answers from now on still has the results.
            authentic = self._authentic_voters(claim, self._forgotten[claim])
            if len(authentic) < self._thresholds.weak:
                return None
            meaning = (Outcome.RESULT_FORGOTTEN, 0, ())
        outcome, highest_session, results = meaning
        return Decision(outcome, sequence, agreed_time_us, results, highest_session, authentic)

    def _authentic_voters(
        self, claim: _Claim, among: set[ReplicaId] | None = None
    ) -> tuple[ReplicaId, ...]:
        """The first f + 1 voters whose signatures are right; those whose are wrong are dropped."""
        authentic: list[ReplicaId] = []
        for replica, envelope in list(self._claims[claim].items()):
            if among is not None and replica not in among:
                continue
            if envelope.is_authentic():
                authentic.append(replica)
                if len(authentic) == self._thresholds.weak:
                    break
            else:
                self._withdraw(replica, claim)
        return tuple(authentic)


@dataclass(frozen=True, slots=True)
class ReadDecision:
    """The answer to a read that enough replicas gave alike."""

    results: tuple[bytes, ...]
    """One per query."""
    voters: tuple[ReplicaId, ...]


class ReadCollector:
    """Collects the answers to one ReadRequest: q of them must match, or f + 1 for a stale read.

    Two answers match when they are to the same nonce and queries and their results have one digest.
    """

    __slots__ = (
        "_meanings",
        "_needed",
        "_nonce",
        "_queries",
        "_query_digest",
        "_silent",
        "_votes",
        "answered",
        "refusals",
    )

    def __init__(
        self,
        needed: int,
        asked: Iterable[ReplicaId],
        nonce: int,
        query_digest: Digest,
        queries: int,
    ) -> None:
        """`needed` matching answers of those `asked`; `queries`: how many results an answer has."""
        self._needed = needed
        self._nonce = nonce
        self._query_digest = query_digest
        self._queries = queries
        self._votes: dict[Digest, dict[ReplicaId, ReadEnvelope]] = {}
        self._meanings: dict[Digest, tuple[bytes, ...]] = {}
        self._silent = set(asked)
        self.answered: list[ReplicaId] = []
        """Replicas that answered, in the order in which they did."""
        self.refusals = 0
        """How many of these refused. Nobody checks their signatures: it is a hint, no evidence."""

    @property
    def matching(self) -> int:
        """The most answers that match each other."""
        return max((len(voters) for voters in self._votes.values()), default=0)

    @property
    def is_hopeless(self) -> bool:
        """Whether no answers still to come can make enough of them match, with their results."""
        waiting = len(self._silent)
        if self.matching + waiting < self._needed:
            return True
        return not waiting and not any(
            digest in self._meanings
            for digest, voters in self._votes.items()
            if len(voters) >= self._needed
        )

    def may_be_refused_by(self, enough: int) -> bool:
        """Whether some refused, and so many may yet."""
        return 0 < self.refusals < enough <= self.refusals + len(self._silent)

    def excuse(self, replica: ReplicaId) -> None:
        """No answer of `replica` is to be expected: its stream is down."""
        self._silent.discard(replica)

    def add(self, reply: ReadReply, envelope: ReadEnvelope) -> ReadDecision | Ignored | None:
        """Counts one answer. None: counted, but that was not enough yet."""
        if reply.nonce != self._nonce or reply.query_digest != self._query_digest:
            return Ignored.OTHER_REQUEST
        replica = envelope.replica
        if replica in self.answered:
            return Ignored.DUPLICATE
        self.answered.append(replica)
        self._silent.discard(replica)
        if reply.refused:
            self.refusals += 1
            return Ignored.REFUSED
        if not self._learn_meaning(reply):
            return Ignored.WRONG_RESULTS
        self._votes.setdefault(reply.results_digest, {})[replica] = envelope
        decision = self._decide(reply.results_digest)
        if decision is None and replica not in self._votes[reply.results_digest]:
            return Ignored.BAD_SIGNATURE
        return decision

    def _learn_meaning(self, reply: ReadReply) -> bool:
        """Remembers results that hash to the digest, whoever sent them; False if these do not."""
        if reply.results is None or reply.results_digest in self._meanings:
            return True
        if len(reply.results) != self._queries:
            return False
        if results_digest(Outcome.EXECUTED, 0, reply.results) != reply.results_digest:
            return False
        self._meanings[reply.results_digest] = reply.results
        return True

    def _decide(self, digest: Digest) -> ReadDecision | None:
        voters = self._votes[digest]
        results = self._meanings.get(digest)
        if results is None or len(voters) < self._needed:
            return None
        authentic: list[ReplicaId] = []
        for replica, envelope in list(voters.items()):
            if envelope.is_authentic():
                authentic.append(replica)
                if len(authentic) == self._needed:
                    return ReadDecision(results, tuple(authentic))
            else:
                del voters[replica]
        return None


class ViewHints:
    """Which view the cluster is in, as far as f + 1 replicas tell the same (protocol.md section 4).

    A single liar can neither send the client to a primary of its choice nor keep it from learning
    of a new one. One claim is kept per replica, and it is verified only when it would change
    something.
    """

    def __init__(self, thresholds: Thresholds) -> None:
        self._thresholds = thresholds
        self._claims: dict[ReplicaId, Envelope] = {}
        self.view: View | None = None
        """The highest view that f + 1 replicas have told, None before that."""

    @property
    def primary(self) -> ReplicaId | None:
        """Primary of `view`; None: nobody knows, so send to all."""
        return None if self.view is None else self._thresholds.primary_of(self.view)

    def add(self, envelope: Envelope) -> bool:
        """Takes the hint of one replica; True if the view has changed by it."""
        view = envelope.view
        if self.view is not None and view <= self.view:
            return False
        claims = self._claims
        claims[envelope.replica] = envelope
        alike = [other for other in claims.values() if other.view == view]
        if len(alike) < self._thresholds.weak:
            return False
        for other in alike:
            if not other.is_authentic():
                del claims[other.replica]
        if sum(other.view == view for other in claims.values()) < self._thresholds.weak:
            return False
        self.view = view
        self._claims = {r: other for r, other in claims.items() if other.view > view}
        return True
