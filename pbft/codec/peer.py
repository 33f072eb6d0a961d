"""Items and frames of the streams between replicas."""

from pbft.codec.envelope import (
    all_of_kind,
    signed_from_wire,
    signed_of_kind,
    signed_to_wire,
)
from pbft.codec.frames import decode_frame, encode_frame
from pbft.codec.parsing import malformed, oversize, parse
from pbft.limits import CHUNK_SCAN_RECORDS
from pbft.messages import (
    BatchBytes,
    CommittedBatch,
    Kind,
    Leaf,
    PeerItem,
    Proposal,
    Signed,
    StableCertificate,
    StateChunk,
    StateLeaves,
    StateRecord,
    StateRequest,
)
from pbft.wire import peer_pb2

STATE_LEAVES_TAG = b"\x3a"
"""How an item that holds leaves begins ..."""
STATE_CHUNK_TAG = b"\x42"
"""... and one that holds a chunk."""
_CHALLENGE_NONCE_BYTES = 32
_LEAF_SUM_BYTES = 512
_DOMAIN_MAX = 255

encode_peer_frame = encode_frame
decode_peer_frame = decode_frame


def encode_challenge(nonce: bytes) -> bytes:
    """What the acceptor of a peer stream says first; `nonce` has 32 bytes."""
    return peer_pb2.Challenge(nonce=nonce).SerializeToString(deterministic=True)


def decode_challenge(data: bytes) -> bytes:
    """The nonce of a challenge. Raises Rejected(MALFORMED | OVERSIZE)."""
    nonce = parse(peer_pb2.Challenge, data).nonce
    if len(nonce) != _CHALLENGE_NONCE_BYTES:
        raise malformed(f"a nonce of {len(nonce)} bytes")
    return nonce


def encode_peer_item(item: PeerItem) -> bytes:
    """One item of a peer stream. Encode once what goes to several peers."""
    return _to_wire(item).SerializeToString(deterministic=True)


def decode_peer_item(data: bytes) -> PeerItem:
    """One item of a peer stream, nothing in it verified. Raises Rejected(MALFORMED | OVERSIZE)."""
    wire = parse(peer_pb2.PeerItem, data)
    match wire.WhichOneof("item"):
        case "signed":
            return signed_from_wire(wire.signed)
        case "proposal":
            pre_prepare = signed_of_kind(wire.proposal.pre_prepare, Kind.PRE_PREPARE)
            return Proposal(pre_prepare, wire.proposal.batch)
        case "batch":
            return BatchBytes(wire.batch)
        case "committed":
            committed = wire.committed
            return CommittedBatch(all_of_kind(committed.commits, Kind.COMMIT), committed.batch)
        case "stable":
            return _stable_from_wire(wire.stable)
        case "state_request":
            wanted = wire.state_request
            return StateRequest(
                wanted.at_least, wanted.sequence, wanted.buckets, wanted.cursor, wanted.number
            )
        case "state_leaves":
            return _leaves_from_wire(wire.state_leaves)
        case "state_chunk":
            return _chunk_from_wire(wire.state_chunk)
    raise malformed("an item that holds nothing")


def _to_wire(item: PeerItem) -> peer_pb2.PeerItem:
    match item:
        case Signed():
            return peer_pb2.PeerItem(signed=signed_to_wire(item))
        case Proposal():
            proposal = peer_pb2.Proposal(
                pre_prepare=signed_to_wire(item.pre_prepare), batch=item.batch
            )
            return peer_pb2.PeerItem(proposal=proposal)
        case BatchBytes():
            return peer_pb2.PeerItem(batch=item.batch)
        case CommittedBatch():
            committed = peer_pb2.CommittedBatch(
                commits=[signed_to_wire(commit) for commit in item.commits], batch=item.batch
            )
            return peer_pb2.PeerItem(committed=committed)
        case StableCertificate():
            return peer_pb2.PeerItem(stable=_stable_to_wire(item))
        case StateRequest():
            wanted = peer_pb2.StateRequest(
                at_least=item.at_least,
                sequence=item.sequence,
                buckets=item.buckets,
                cursor=item.cursor,
                number=item.number,
            )
            return peer_pb2.PeerItem(state_request=wanted)
        case StateLeaves():
            return peer_pb2.PeerItem(state_leaves=_leaves_to_wire(item))
        case StateChunk():
            return peer_pb2.PeerItem(state_chunk=_chunk_to_wire(item))


def _stable_to_wire(certificate: StableCertificate) -> peer_pb2.StableCertificate:
    return peer_pb2.StableCertificate(
        checkpoints=[signed_to_wire(checkpoint) for checkpoint in certificate.checkpoints]
    )


def _stable_from_wire(wire: peer_pb2.StableCertificate) -> StableCertificate:
    return StableCertificate(all_of_kind(wire.checkpoints, Kind.CHECKPOINT))


def _leaves_to_wire(item: StateLeaves) -> peer_pb2.StateLeaves:
    return peer_pb2.StateLeaves(
        certificate=_stable_to_wire(item.certificate),
        leaves=[
            peer_pb2.Leaf(count=leaf.count, bytes=leaf.size, sum=leaf.sum) for leaf in item.leaves
        ],
    )


def _leaves_from_wire(wire: peer_pb2.StateLeaves) -> StateLeaves:
    leaves = tuple([_leaf_from_wire(leaf) for leaf in wire.leaves])
    return StateLeaves(_stable_from_wire(wire.certificate), leaves)


def _leaf_from_wire(wire: peer_pb2.Leaf) -> Leaf:
    count, size, total = wire.count, wire.bytes, wire.sum
    if count == 0:
        # An empty bucket has one spelling only, so that its leaf has one hash.
        if size or total:
            raise malformed("an empty leaf with content")
    elif len(total) != _LEAF_SUM_BYTES:
        raise malformed(f"a leaf's sum of {len(total)} bytes")
    return Leaf(count, size, total)


def _chunk_to_wire(item: StateChunk) -> peer_pb2.StateChunk:
    return peer_pb2.StateChunk(
        sequence=item.sequence,
        records=[
            peer_pb2.StateRecord(
                domain=record.domain,
                key=record.key,
                version=record.version,
                value=record.value,
            )
            for record in item.records
        ],
        cursor=item.cursor,
        number=item.number,
    )


def _chunk_from_wire(wire: peer_pb2.StateChunk) -> StateChunk:
    if len(wire.records) > CHUNK_SCAN_RECORDS:
        raise oversize(f"{len(wire.records)} records in a chunk")
    records = []
    for record in wire.records:
        if record.domain > _DOMAIN_MAX:
            raise malformed(f"a record of domain {record.domain}")
        records.append(StateRecord(record.domain, record.key, record.version, record.value))
    return StateChunk(wire.sequence, tuple(records), wire.cursor, wire.number)
