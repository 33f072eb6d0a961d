"""The keys of a whole cluster, and every statement that they can sign: what an adversary holds."""

from collections.abc import Iterable, Sequence
from functools import cache

from pbft.codec import encode_batch, encode_signed
from pbft.core.certificates import ValidViewChange, verify_view_change
from pbft.core.new_view import compute_new_view
from pbft.crypto.digest import NULL_DIGEST, batch_digest
from pbft.crypto.signing import FAKE, ClientSigner, ReplicaSigner
from pbft.crypto.verifier import Verifier
from pbft.genesis import Genesis, ProtocolConstants
from pbft.limits import ProtocolLimits
from pbft.messages import (
    REJOIN_OPERATION,
    Authenticated,
    Batch,
    Checkpoint,
    Commit,
    CommittedBatch,
    NewView,
    Prepare,
    PreparedProof,
    PrePrepare,
    Proposal,
    Request,
    Signed,
    SignedMessage,
    StableCertificate,
    Status,
    ViewChange,
    Vote,
)
from pbft.types import Digest, Micros, ReplicaId, SequenceNumber, View

WALL_EPOCH_US = 1_700_000_000_000_000
"""What a right wall clock shows when a test begins."""
INTERVAL = 4
"""K"""
WINDOW = 8
"""L"""
CLIENTS = 3


class Forge:
    """Signs as any replica and as any client. Statements are honest unless a test bends them."""

    def __init__(
        self,
        replicas: int = 4,
        limits: ProtocolLimits | None = None,
        open_admission: bool = False,
        interval: int = INTERVAL,
        window: int = WINDOW,
    ) -> None:
        keys = [FAKE.key_pair(bytes([index]) * 32) for index in range(replicas)]
        client_keys = [FAKE.key_pair(bytes([100 + index]) * 32) for index in range(CLIENTS)]
        self.genesis = Genesis.create(
            nonce=bytes(32),
            replicas=tuple(key.public for key in keys),
            clients=frozenset(key.public for key in client_keys),
            open_admission=open_admission,
            constants=ProtocolConstants(interval, window, buckets=16),
            limits=limits or ProtocolLimits(),
        )
        self.thresholds = self.genesis.thresholds
        cluster_id = self.genesis.cluster_id
        self.signers = [ReplicaSigner(i, keys[i], cluster_id, FAKE) for i in range(replicas)]
        self.clients = [ClientSigner(key, cluster_id, FAKE) for key in client_keys]
        self.verifier = Verifier(self.genesis, FAKE)

    def sign(self, replica: ReplicaId, message: SignedMessage) -> Signed:
        """Signs as this replica."""
        return self.signers[replica].sign(message)

    def admit(self, request: Signed) -> Authenticated[Request]:
        """What the verifier makes of a request."""
        return self.verifier.admit_request(request)

    def vote(self, signed: Signed) -> Vote:
        """The (v, n, d) of a pre-prepare, a prepare or a commit."""
        message = self.verifier.decode(signed)
        assert isinstance(message, Vote)
        return message

    # What clients say.

    def request(
        self,
        number: int = 1,
        operation: bytes | None = None,
        client: int = 0,
        session: int = 1,
        acknowledged: int | None = None,
        expires_at_us: Micros = 0,
        close: bool = False,
    ) -> Signed:
        """A well-formed request of one operation; by default everything before it is settled."""
        signer = self.clients[client]
        known = number - 1 if acknowledged is None else acknowledged
        operations = () if close else (operation or b"%d.%d.%d" % (client, session, number),)
        return signer.sign(
            Request(signer.client, session, number, known, expires_at_us, operations, close)
        )

    def batch(self, *requests: Signed, time_us: Micros = WALL_EPOCH_US) -> bytes:
        """The body with these requests."""
        return encode_batch(Batch(time_us, tuple(map(encode_signed, requests))))

    # What replicas say; by default in view 0.

    def primary(self, view: View) -> ReplicaId:
        """p = v mod n"""
        return self.thresholds.primary_of(view)

    def backups(self, view: View) -> list[ReplicaId]:
        """All but the primary of v, ascending."""
        return [i for i in range(self.thresholds.replicas) if i != self.primary(view)]

    def pre_prepare(
        self, sequence: int, digest: Digest, view: View = 0, signer: ReplicaId | None = None
    ) -> Signed:
        """By default of the primary."""
        author = self.primary(view) if signer is None else signer
        return self.sign(author, PrePrepare(view, sequence, digest))

    def proposal(
        self, sequence: int, batch: bytes, view: View = 0, signer: ReplicaId | None = None
    ) -> Proposal:
        """A pre-prepare with the body it speaks of."""
        return Proposal(self.pre_prepare(sequence, batch_digest(batch), view, signer), batch)

    def prepare(self, replica: ReplicaId, sequence: int, digest: Digest, view: View = 0) -> Signed:
        """One backup's prepare."""
        return self.sign(replica, Prepare(view, sequence, digest))

    def commit(self, replica: ReplicaId, sequence: int, digest: Digest, view: View = 0) -> Signed:
        """One replica's commit."""
        return self.sign(replica, Commit(view, sequence, digest))

    def checkpoint(self, replica: ReplicaId, sequence: int, digest: Digest) -> Signed:
        """One replica's checkpoint."""
        return self.sign(replica, Checkpoint(sequence, digest))

    def rejoin(self, replica: ReplicaId, incarnation: int) -> Signed:
        """The request of a replica under its own key."""
        key = self.genesis.replicas[replica]
        return self.sign(replica, Request(key, incarnation, 1, 0, 0, (REJOIN_OPERATION,)))

    # Certificates.

    def proof(
        self,
        sequence: int,
        digest: Digest,
        view: View = 0,
        backups: Iterable[ReplicaId] | None = None,
    ) -> PreparedProof:
        """A prepared certificate with the prepares of these backups, by default of the first
        q - 1."""
        chosen = backups or self.backups(view)[: self.thresholds.prepares]
        return PreparedProof(
            self.pre_prepare(sequence, digest, view),
            tuple(self.prepare(replica, sequence, digest, view) for replica in chosen),
        )

    def quorum(self) -> range:
        """The first q replicas."""
        return range(self.thresholds.quorum)

    def committed(
        self,
        sequence: int,
        batch: bytes,
        view: View = 0,
        signers: Iterable[ReplicaId] | None = None,
    ) -> CommittedBatch:
        """A commit certificate with its body (none: the null batch)."""
        digest = batch_digest(batch) if batch else NULL_DIGEST
        voters = self.quorum() if signers is None else signers
        return CommittedBatch(
            tuple(self.commit(replica, sequence, digest, view) for replica in voters), batch
        )

    def checkpoints(
        self, sequence: int, digest: Digest, signers: Iterable[ReplicaId] | None = None
    ) -> tuple[Signed, ...]:
        """Checkpoints of q replicas."""
        voters = self.quorum() if signers is None else signers
        return tuple(self.checkpoint(replica, sequence, digest) for replica in voters)

    def stable(
        self, sequence: int, digest: Digest, signers: Iterable[ReplicaId] | None = None
    ) -> StableCertificate:
        """A stable checkpoint certificate."""
        return StableCertificate(self.checkpoints(sequence, digest, signers))

    def view_change(
        self,
        replica: ReplicaId,
        view: View,
        prepared: Sequence[PreparedProof] = (),
        stable_sequence: SequenceNumber = 0,
        checkpoints: Sequence[Signed] = (),
    ) -> Signed:
        """<VIEW-CHANGE, v, h, C, P, i>"""
        return self.sign(
            replica,
            ViewChange(view, replica, 0, stable_sequence, tuple(checkpoints), tuple(prepared)),
        )

    def view_changes(self, view: View, signers: Iterable[ReplicaId] | None = None) -> list[Signed]:
        """Empty view-changes of these replicas, by default of the first q."""
        voters = self.quorum() if signers is None else signers
        return [self.view_change(replica, view) for replica in voters]

    def valid(self, view_change: Signed) -> ValidViewChange:
        """Verifies it. Raises Rejected."""
        message = self.verifier.decode(view_change)
        assert isinstance(message, ViewChange)
        return verify_view_change(message, view_change, self.genesis, self.verifier)

    def new_view(
        self,
        view: View,
        view_changes: Sequence[Signed],
        digests: Sequence[Digest] | None = None,
        signer: ReplicaId | None = None,
    ) -> Signed:
        """<NEW-VIEW, v, V, O> with the O that V demands, or with these digests after min-s."""
        author = self.primary(view) if signer is None else signer
        plan = compute_new_view([self.valid(change) for change in view_changes])
        chosen = plan.digests if digests is None else digests
        pre_prepares = tuple(
            self.sign(author, PrePrepare(view, plan.min_sequence + 1 + offset, digest))
            for offset, digest in enumerate(chosen)
        )
        return self.sign(author, NewView(view, tuple(view_changes), pre_prepares))

    def status(self, replica: ReplicaId, view: View = 0, **changes: object) -> Signed:
        """A status that lacks nothing, or what `changes` make of it."""
        values: dict[str, object] = {
            "normal": True,
            "stable_sequence": 0,
            "executed": 0,
            "clock_us": WALL_EPOCH_US,
            "suspects": False,
            "primary_unreachable": False,
            "prepared": 0,
            "committed": 0,
            "accepted": 0,
            "view_changes": 0,
            "missing": (),
        }
        return self.sign(replica, Status(view=view, **(values | changes)))  # type: ignore[arg-type]


@cache
def forge(replicas: int = 4) -> Forge:
    """A forge of a cluster with default limits; made once."""
    return Forge(replicas)
