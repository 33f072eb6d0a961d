"""What the codec refuses, and under which reason."""

from collections.abc import Callable

import pytest

from pbft import codec, limits
from pbft.errors import Reason
from pbft.messages import (
    Checkpoint,
    Kind,
    Leaf,
    Signed,
    StableCertificate,
    StateChunk,
    StateLeaves,
    StateRecord,
)
from pbft.wire import client_pb2, message_pb2, peer_pb2
from tests.unit.codec_support import (
    DIGEST,
    SIGNATURE,
    UNKNOWN,
    VOTE,
    envelope,
    of_kind,
    refuse,
    refuse_malformed,
)


def test_a_good_one_is_accepted() -> None:
    assert codec.decode_signed(envelope().SerializeToString()).signer == 1


@pytest.mark.parametrize("kind", Kind)
def test_unknown_field_in_a_message(kind: Kind) -> None:
    refuse_malformed(of_kind(kind), UNKNOWN)


@pytest.mark.parametrize(
    "field", ["signed", "proposal", "committed", "stable", "state_leaves", "state_chunk"]
)
def test_unknown_field_nested_in_a_peer_item(field: str) -> None:
    inner = {
        "signed": envelope(),
        "proposal": peer_pb2.Proposal(pre_prepare=envelope(16)),
        "committed": peer_pb2.CommittedBatch(commits=[envelope(18)]),
        "stable": peer_pb2.StableCertificate(checkpoints=[envelope(19)]),
        "state_leaves": peer_pb2.StateLeaves(leaves=[peer_pb2.Leaf()]),
        "state_chunk": peer_pb2.StateChunk(records=[peer_pb2.StateRecord(key=b"k")]),
    }[field]
    number = peer_pb2.PeerItem.DESCRIPTOR.fields_by_name[field].number

    def item(content: bytes) -> bytes:
        return bytes((number << 3 | 2, len(content))) + content

    good = inner.SerializeToString()
    codec.decode_peer_item(item(good))
    refuse_malformed(codec.decode_peer_item, item(good + UNKNOWN))
    refuse_malformed(codec.decode_peer_item, item(good) + UNKNOWN)


def test_unknown_field_two_levels_down() -> None:
    bad = message_pb2.Signed.FromString(envelope(17).SerializeToString() + UNKNOWN)
    proof = message_pb2.PreparedProof(pre_prepare=envelope(16), prepares=[bad])
    view_change = message_pb2.ViewChange(view=1, prepared=[proof])
    refuse_malformed(of_kind(Kind.VIEW_CHANGE), view_change)
    reply = message_pb2.Reply(request_digest=DIGEST, results_digest=DIGEST, outcome=1)
    with_unknown = message_pb2.Reply.FromString(reply.SerializeToString() + UNKNOWN)
    refuse_malformed(
        of_kind(Kind.REPLIES), message_pb2.Replies(client=DIGEST, replies=[with_unknown])
    )


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(VOTE + VOTE, id="every field twice"),
        pytest.param(b"\x08\x00" + VOTE, id="a default written out"),
        pytest.param(b"\x08\x81\x00" + VOTE[2:], id="an overlong number"),
    ],
)
def test_superfluous_spelling(data: bytes) -> None:
    refuse_malformed(of_kind(Kind.PREPARE), data)


@pytest.mark.parametrize("length", [0, 31, 33])
def test_wrong_length_of_digests_and_keys(length: int) -> None:
    wrong = b"x" * length
    refuse_malformed(of_kind(Kind.COMMIT), message_pb2.Vote(sequence=1, digest=wrong))
    refuse_malformed(of_kind(Kind.CHECKPOINT), message_pb2.Checkpoint(sequence=1, digest=wrong))
    refuse_malformed(of_kind(Kind.REQUEST), message_pb2.Request(client=wrong))
    refuse_malformed(of_kind(Kind.REPLIES), message_pb2.Replies(client=wrong))
    refuse_malformed(of_kind(Kind.READ_REPLIES), message_pb2.ReadReplies(client=wrong))
    if length:
        refuse_malformed(of_kind(Kind.STATUS), message_pb2.Status(missing=[wrong]))
    for fields in ({"key": wrong, "nonce": DIGEST}, {"key": DIGEST, "nonce": wrong}):
        refuse_malformed(of_kind(Kind.HELLO), message_pb2.Hello(role=1, **fields))
    refuse_malformed(of_kind(Kind.RECALL), message_pb2.Recall(nonce=wrong))
    refuse_malformed(of_kind(Kind.RECALLED), message_pb2.Recalled(nonce=wrong))
    refuse_malformed(codec.decode_challenge, peer_pb2.Challenge(nonce=wrong))
    for fields in ({"nonce": wrong, "cluster_id": DIGEST}, {"nonce": DIGEST, "cluster_id": wrong}):
        challenge = client_pb2.GatewayChallenge(**fields)
        refuse_malformed(codec.decode_gateway_item, client_pb2.GatewayItem(challenge=challenge))


@pytest.mark.parametrize("length", [0, 31, 33])
def test_wrong_length_of_digests_in_replies(length: int) -> None:
    wrong, outcome = b"x" * length, message_pb2.OUTCOME_EXECUTED
    for digests in (
        {"request_digest": wrong, "results_digest": DIGEST},
        {"request_digest": DIGEST, "results_digest": wrong},
    ):
        reply = message_pb2.Reply(outcome=outcome, **digests)
        refuse_malformed(of_kind(Kind.REPLIES), message_pb2.Replies(client=DIGEST, replies=[reply]))
    for digests in (
        {"query_digest": wrong, "results_digest": DIGEST},
        {"query_digest": DIGEST, "results_digest": wrong},
    ):
        read = message_pb2.ReadReply(**digests)
        refuse_malformed(
            of_kind(Kind.READ_REPLIES), message_pb2.ReadReplies(client=DIGEST, replies=[read])
        )


@pytest.mark.parametrize("length", [31, 33])
def test_a_refused_read_has_a_whole_digest_or_none(length: int) -> None:
    def replies(digest: bytes) -> message_pb2.ReadReplies:
        read = message_pb2.ReadReply(query_digest=DIGEST, results_digest=digest, refused=True)
        return message_pb2.ReadReplies(client=DIGEST, replies=[read])

    refuse_malformed(of_kind(Kind.READ_REPLIES), replies(b"x" * length))
    for digest in (b"", DIGEST):
        codec.decode_message(Kind.READ_REPLIES, replies(digest).SerializeToString())


@pytest.mark.parametrize("length", [0, 63, 65])
def test_wrong_length_of_a_signature(length: int) -> None:
    refuse_malformed(codec.decode_signed, envelope(signature=b"s" * length))


@pytest.mark.parametrize("value", [0, 3, 15, 27, -1, 2**31 - 1])
def test_kind_out_of_range(value: int) -> None:
    refuse_malformed(codec.decode_signed, envelope(value))


@pytest.mark.parametrize("value", [0, 8, -1])
def test_other_enums_out_of_range(value: int) -> None:
    reply = message_pb2.Reply(outcome=value, request_digest=DIGEST, results_digest=DIGEST)
    refuse_malformed(of_kind(Kind.REPLIES), message_pb2.Replies(client=DIGEST, replies=[reply]))
    refuse_malformed(of_kind(Kind.HELLO), message_pb2.Hello(role=value, key=DIGEST, nonce=DIGEST))
    read = client_pb2.ReadRequest(consistency=value)
    refuse_malformed(codec.decode_client_item, client_pb2.ClientItem(read=read))


@pytest.mark.parametrize(
    "wire",
    [
        pytest.param(envelope(1), id="request signed by a replica"),
        pytest.param(envelope(1, client=DIGEST), id="request signed by a client and a replica"),
        pytest.param(envelope(1, replica=0, client=b"short"), id="short key"),
        pytest.param(envelope(2, client=DIGEST), id="hello of a client and a replica"),
        pytest.param(envelope(17, replica=0, client=DIGEST), id="vote signed by a client"),
        pytest.param(envelope(23, replica=0, client=DIGEST), id="replies signed by a client"),
        pytest.param(envelope(17, replica=31), id="replica that no cluster has"),
    ],
)
def test_kind_and_signer_must_fit(wire: message_pb2.Signed) -> None:
    refuse_malformed(codec.decode_signed, wire)


@pytest.mark.parametrize(
    "decode", [codec.decode_peer_item, codec.decode_client_item, codec.decode_gateway_item]
)
def test_an_item_must_hold_something(decode: Callable[[bytes], object]) -> None:
    refuse_malformed(decode, b"")


@pytest.mark.parametrize(
    "item",
    [
        peer_pb2.PeerItem(proposal=peer_pb2.Proposal(batch=b"b")),
        peer_pb2.PeerItem(proposal=peer_pb2.Proposal(pre_prepare=envelope(17), batch=b"b")),
        peer_pb2.PeerItem(committed=peer_pb2.CommittedBatch(commits=[envelope(17)])),
        peer_pb2.PeerItem(stable=peer_pb2.StableCertificate(checkpoints=[envelope(18)])),
    ],
)
def test_wrong_kind_inside_a_peer_item(item: peer_pb2.PeerItem) -> None:
    refuse_malformed(codec.decode_peer_item, item)


def test_wrong_kind_inside_a_message() -> None:
    for view_change in (
        message_pb2.ViewChange(view=1, checkpoints=[envelope(17)]),
        message_pb2.ViewChange(
            view=1, prepared=[message_pb2.PreparedProof(pre_prepare=envelope(17))]
        ),
        message_pb2.ViewChange(
            view=1,
            prepared=[message_pb2.PreparedProof(pre_prepare=envelope(16), prepares=[envelope(18)])],
        ),
    ):
        refuse_malformed(of_kind(Kind.VIEW_CHANGE), view_change)
    for new_view in (
        message_pb2.NewView(view=1, view_changes=[envelope(21)]),
        message_pb2.NewView(view=1, pre_prepares=[envelope(17)]),
    ):
        refuse_malformed(of_kind(Kind.NEW_VIEW), new_view)
    for recalled in (
        message_pb2.Recalled(nonce=DIGEST, checkpoints=[envelope(17)]),
        message_pb2.Recalled(nonce=DIGEST, view_change=envelope(17)),
        message_pb2.Recalled(nonce=DIGEST, votes=[envelope(17), envelope(19)]),
    ):
        refuse_malformed(of_kind(Kind.RECALLED), recalled)


def test_wrong_kind_on_a_client_stream() -> None:
    hello, vote = envelope(2), envelope(17)
    refuse_malformed(codec.decode_client_item, client_pb2.ClientItem(hello=vote))
    submit = client_pb2.Submit(request=hello)
    refuse_malformed(codec.decode_client_item, client_pb2.ClientItem(submit=submit))
    refuse_malformed(codec.decode_gateway_item, client_pb2.GatewayItem(replies=vote))


def test_numbers_below_their_first() -> None:
    for kind in (Kind.PRE_PREPARE, Kind.PREPARE, Kind.COMMIT):
        refuse_malformed(of_kind(kind), message_pb2.Vote(view=1, digest=DIGEST))
    refuse_malformed(of_kind(Kind.CHECKPOINT), message_pb2.Checkpoint(digest=DIGEST))
    refuse_malformed(of_kind(Kind.VIEW_CHANGE), message_pb2.ViewChange(replica=1))
    refuse_malformed(of_kind(Kind.VIEW_CHANGE), message_pb2.ViewChange(view=1, replica=31))
    refuse_malformed(of_kind(Kind.NEW_VIEW), b"")


def test_results_that_contradict_their_flags() -> None:
    reply = message_pb2.Reply(
        outcome=message_pb2.OUTCOME_EXECUTED,
        request_digest=DIGEST,
        results_digest=DIGEST,
        results=[b"r"],
    )
    refuse_malformed(of_kind(Kind.REPLIES), message_pb2.Replies(client=DIGEST, replies=[reply]))
    read = message_pb2.ReadReply(
        query_digest=DIGEST, results_digest=DIGEST, full=True, results=[b"r"], refused=True
    )
    refuse_malformed(
        of_kind(Kind.READ_REPLIES), message_pb2.ReadReplies(client=DIGEST, replies=[read])
    )


@pytest.mark.parametrize(
    "leaf",
    [
        pytest.param(Leaf(0, 1, b""), id="empty with a size"),
        pytest.param(Leaf(0, 0, b"s" * 512), id="empty with a sum"),
        pytest.param(Leaf(1, 1, b""), id="full without a sum"),
        pytest.param(Leaf(1, 1, b"s" * 511), id="short sum"),
    ],
)
def test_leaves_have_one_spelling(leaf: Leaf) -> None:
    item = StateLeaves(StableCertificate(()), (leaf,))
    refuse_malformed(codec.decode_peer_item, codec.encode_peer_item(item))


def test_a_record_of_a_domain_above_one_byte() -> None:
    item = StateChunk(1, (StateRecord(256, b"k", 1, b"v"),), b"")
    refuse_malformed(codec.decode_peer_item, codec.encode_peer_item(item))


def test_an_empty_frame() -> None:
    refuse_malformed(codec.decode_peer_frame, b"")


def test_a_status_with_an_endless_bitmap() -> None:
    bitmap = b"\xff" * (limits.STATUS_BITMAP_BYTES_MAX + 1)
    refuse(
        of_kind(Kind.STATUS),
        message_pb2.Status(prepared=bitmap).SerializeToString(),
        Reason.OVERSIZE,
    )


def test_deep_nesting_of_groups() -> None:
    for depth in (1, 50, 5_000, 100_000):
        refuse_malformed(codec.decode_peer_item, b"\xfb\x07" * depth)
        refuse_malformed(codec.decode_peer_item, b"\xfb\x07" * depth + b"\xfc\x07" * depth)


def test_text_that_is_not_utf_8() -> None:
    refuse_malformed(codec.decode_gateway_item, b"\x1a\x03\x1a\x01\xff")


def test_a_checkpoint_is_no_vote() -> None:
    payload = codec.encode_message(Checkpoint(5, DIGEST))
    refuse_malformed(of_kind(Kind.PREPARE), payload)
    signed = Signed(Kind.CHECKPOINT, 1, payload, SIGNATURE)
    assert codec.decode_message(signed.kind, signed.payload) == Checkpoint(5, DIGEST)
