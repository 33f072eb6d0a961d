"""A small cluster's keys and the statements its members can sign."""

from functools import cache

from pbft.codec import encode_batch, encode_signed
from pbft.crypto.digest import batch_digest
from pbft.crypto.signing import ED25519, FAKE, ClientSigner, ReplicaSigner, SignatureScheme
from pbft.genesis import Genesis
from pbft.limits import ProtocolLimits
from pbft.messages import (
    Batch,
    Checkpoint,
    Commit,
    CommittedBatch,
    PrePrepare,
    Proposal,
    Request,
    Signed,
    StableCertificate,
)

SCHEMES = {"ed25519": ED25519, "fake": FAKE}
LIMITS = ProtocolLimits(
    operation_bytes=64,
    operations_per_request=4,
    request_bytes=256,
    batch_requests=5,
    batch_bytes=1500,
    requests_in_flight=8,
)


class Cluster:
    """Four replicas, two admitted clients and one that is not."""

    def __init__(self, scheme: SignatureScheme, nonce: bytes, open_admission: bool) -> None:
        keys = [scheme.key_pair(bytes([index]) * 32) for index in range(7)]
        self.scheme = scheme
        self.genesis = Genesis.create(
            nonce=nonce,
            replicas=tuple(key.public for key in keys[:4]),
            clients=frozenset(key.public for key in keys[4:6]),
            open_admission=open_admission,
            limits=LIMITS,
        )
        cluster_id = self.genesis.cluster_id
        self.replicas = [ReplicaSigner(i, keys[i], cluster_id, scheme) for i in range(4)]
        self.clients = [ClientSigner(key, cluster_id, scheme) for key in keys[4:6]]
        self.stranger = ClientSigner(keys[6], cluster_id, scheme)

    def request(self, number: int = 1, client: int = 0, **changes: object) -> Request:
        """A well-formed request, or what `changes` make of it."""
        values: dict[str, object] = {
            "client": self.clients[client].client,
            "session": 7,
            "number": number,
            "acknowledged": number - 1,
            "expires_at_us": 0,
            "operations": (b"put %d" % number,),
        }
        return Request(**(values | changes))  # type: ignore[arg-type]

    def signed_request(self, number: int = 1, client: int = 0, **changes: object) -> Signed:
        """The same in its envelope."""
        return self.clients[client].sign(self.request(number, client, **changes))

    def batch(self, *requests: Signed, time_us: int = 99) -> bytes:
        """The encoded body with these requests; by default with two good ones."""
        items = requests or (self.signed_request(1), self.signed_request(2, client=1))
        return encode_batch(Batch(time_us, tuple(encode_signed(item) for item in items)))

    def proposal(self, batch: bytes, view: int = 0, sequence: int = 1) -> Proposal:
        """What the primary of the view proposes with this body."""
        vote = PrePrepare(view, sequence, batch_digest(batch))
        return Proposal(self.replicas[view % 4].sign(vote), batch)

    def commits(self, digest: bytes, signers: tuple[int, ...] = (0, 1, 2)) -> tuple[Signed, ...]:
        """Commits of (view 0, sequence 1, digest)."""
        return tuple(self.replicas[i].sign(Commit(0, 1, digest)) for i in signers)

    def committed(self, batch: bytes) -> CommittedBatch:
        """A commit certificate with this body."""
        return CommittedBatch(self.commits(batch_digest(batch)), batch)

    def stable(self, digest: bytes = b"s" * 32) -> StableCertificate:
        """A stable certificate for sequence 64."""
        signers = self.replicas[:3]
        return StableCertificate(tuple(it.sign(Checkpoint(64, digest)) for it in signers))


@cache
def cluster(scheme: str, nonce: bytes = b"n" * 32, open_admission: bool = False) -> Cluster:
    """The cluster of this scheme; made once."""
    return Cluster(SCHEMES[scheme], nonce, open_admission)
