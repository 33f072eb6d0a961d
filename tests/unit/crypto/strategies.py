"""Hypothesis strategies for every message that travels."""

from hypothesis import strategies as st

from pbft.messages import (
    Batch,
    BatchBytes,
    Checkpoint,
    Commit,
    CommittedBatch,
    Consistency,
    GatewayChallenge,
    Hello,
    Kind,
    Leaf,
    NewView,
    Outcome,
    Prepare,
    PreparedProof,
    PrePrepare,
    Proposal,
    ReadReplies,
    ReadReply,
    ReadRequest,
    Recall,
    Recalled,
    Refusal,
    Replies,
    Reply,
    Request,
    Role,
    Signed,
    StableCertificate,
    StateChunk,
    StateLeaves,
    StateRecord,
    StateRequest,
    Status,
    Submit,
    ViewChange,
)

number = st.one_of(st.integers(0, 2**64 - 1), st.sampled_from([0, 1, 127, 128, 2**63, 2**64 - 1]))
positive = st.integers(1, 2**64 - 1)
replica = st.integers(0, 30)
digest = st.binary(min_size=32, max_size=32)
key = digest
data = st.binary(max_size=40)
sequence_of_data = st.lists(data, max_size=3).map(tuple)
bitmap = st.integers(0, 2**200)


def signed(kind: Kind, signer: st.SearchStrategy[int | bytes] = replica) -> st.SearchStrategy:
    """Envelopes of one kind; their payload is any bytes."""
    signature = st.binary(min_size=64, max_size=64)
    return st.builds(Signed, st.just(kind), signer, data, signature)


def several(strategy: st.SearchStrategy) -> st.SearchStrategy:
    """Up to three of them."""
    return st.lists(strategy, max_size=3).map(tuple)


optional_results = st.one_of(st.none(), sequence_of_data)
votes = {vote: st.builds(vote, number, positive, digest) for vote in (PrePrepare, Prepare, Commit)}
proof = st.builds(PreparedProof, signed(Kind.PRE_PREPARE), several(signed(Kind.PREPARE)))
reply = st.builds(
    Reply,
    number,
    number,
    digest,
    number,
    number,
    st.sampled_from(Outcome),
    digest,
    optional_results,
    number,
)
read_reply = st.one_of(
    st.builds(ReadReply, number, digest, digest, optional_results, number, st.just(False)),
    st.builds(ReadReply, number, digest, st.just(b""), st.none(), number, st.just(True)),
)
status = st.builds(
    Status,
    view=number,
    normal=st.booleans(),
    stable_sequence=number,
    executed=number,
    clock_us=number,
    suspects=st.booleans(),
    primary_unreachable=st.booleans(),
    prepared=bitmap,
    committed=bitmap,
    accepted=bitmap,
    view_changes=st.integers(0, 2**31 - 1),
    missing=several(digest),
)
request = st.builds(Request, key, number, number, number, number, sequence_of_data, st.booleans())

MESSAGES = {
    Kind.REQUEST: request,
    Kind.HELLO: st.builds(Hello, st.sampled_from(Role), key, digest),
    Kind.PRE_PREPARE: votes[PrePrepare],
    Kind.PREPARE: votes[Prepare],
    Kind.COMMIT: votes[Commit],
    Kind.CHECKPOINT: st.builds(Checkpoint, positive, digest),
    Kind.VIEW_CHANGE: st.builds(
        ViewChange,
        positive,
        replica,
        number,
        number,
        several(signed(Kind.CHECKPOINT)),
        several(proof),
    ),
    Kind.NEW_VIEW: st.builds(
        NewView, positive, several(signed(Kind.VIEW_CHANGE)), several(signed(Kind.PRE_PREPARE))
    ),
    Kind.STATUS: status,
    Kind.REPLIES: st.builds(Replies, key, number, several(reply)),
    Kind.READ_REPLIES: st.builds(ReadReplies, key, number, several(read_reply)),
    Kind.RECALL: st.builds(Recall, replica, digest),
    Kind.RECALLED: st.builds(
        Recalled,
        replica,
        digest,
        number,
        number,
        several(signed(Kind.CHECKPOINT)),
        st.one_of(st.none(), signed(Kind.VIEW_CHANGE)),
        several(st.one_of(map(signed, (Kind.PRE_PREPARE, Kind.PREPARE, Kind.COMMIT)))),
    ),
}

any_signed = st.one_of(
    signed(Kind.REQUEST, key),
    signed(Kind.HELLO, key),
    *(signed(kind) for kind in Kind if kind is not Kind.REQUEST),
)
certificate = st.builds(StableCertificate, several(signed(Kind.CHECKPOINT)))
leaf = st.one_of(
    st.just(Leaf(0, 0, b"")),
    st.builds(Leaf, positive, number, st.binary(min_size=512, max_size=512)),
)
record = st.builds(StateRecord, st.integers(0, 255), data, number, data)

peer_item = st.one_of(
    any_signed,
    st.builds(Proposal, signed(Kind.PRE_PREPARE), data),
    st.builds(BatchBytes, data),
    st.builds(CommittedBatch, several(signed(Kind.COMMIT)), data),
    certificate,
    st.builds(StateRequest, number, number, data, data, number),
    st.builds(StateLeaves, certificate, several(leaf)),
    st.builds(StateChunk, number, several(record), data, number),
)
client_item = st.one_of(
    signed(Kind.HELLO, key),
    st.builds(Submit, signed(Kind.REQUEST, key), st.booleans()),
    st.builds(ReadRequest, number, sequence_of_data, st.sampled_from(Consistency), st.booleans()),
)
gateway_item = st.one_of(
    st.builds(GatewayChallenge, digest, digest),
    signed(Kind.REPLIES),
    signed(Kind.READ_REPLIES),
    st.builds(Refusal, number, number, st.text(max_size=20)),
)
batch = st.builds(Batch, number, sequence_of_data)
frame = st.lists(data, min_size=1, max_size=4)
