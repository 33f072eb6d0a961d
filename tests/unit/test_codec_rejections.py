"""What the codec refuses, and under which reason."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from pbft import codec, limits
from pbft.codec import parsing, replies
from pbft.errors import Reason, Rejected
from pbft.messages import (
    BatchBytes,
    Checkpoint,
    Consistency,
    Kind,
    Leaf,
    Prepare,
    ReadRequest,
    Signed,
    StableCertificate,
    StateChunk,
    StateLeaves,
    StateRecord,
)
from pbft.wire import client_pb2, message_pb2, peer_pb2

UNKNOWN = b"\xf8\x07\x01"
"""Field 127, a number: unknown in all our messages."""
DIGEST = b"d" * 32
SIGNATURE = b"s" * 64
VOTE = codec.encode_message(Prepare(1, 2, DIGEST))


def envelope(kind: int = 17, **values: object) -> message_pb2.Signed:
    """An envelope of the generated class, by default a good prepare."""
    fields = {"replica": 1, "payload": VOTE, "signature": SIGNATURE} | values
    return message_pb2.Signed(kind=kind, **fields)


def refuse(decode: Callable[[bytes], object], data: bytes, reason: Reason) -> None:
    with pytest.raises(Rejected) as caught:
        decode(data)
    assert caught.value.reason is reason


def refuse_malformed(decode: Callable[[bytes], object], wire: object) -> None:
    data = wire if isinstance(wire, bytes) else wire.SerializeToString()
    refuse(decode, data, Reason.MALFORMED)


def of_kind(kind: Kind) -> Callable[[bytes], object]:
    return lambda payload: codec.decode_message(kind, payload)


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


DECODERS = [
    codec.decode_signed,
    codec.decode_batch,
    codec.decode_peer_item,
    codec.decode_peer_frame,
    codec.decode_client_item,
    codec.decode_gateway_item,
    codec.decode_challenge,
    of_kind(Kind.REQUEST),
    of_kind(Kind.NEW_VIEW),
]


@pytest.mark.parametrize("decode", DECODERS)
def test_oversize(decode: Callable[[bytes], object]) -> None:
    refuse(decode, bytes(limits.MESSAGE_BYTES_MAX + 1), Reason.OVERSIZE)


def test_the_largest_item_is_accepted() -> None:
    batch = bytes(limits.MESSAGE_BYTES_MAX - 5)
    item = codec.encode_peer_item(BatchBytes(batch))
    assert len(item) == limits.MESSAGE_BYTES_MAX
    assert codec.decode_peer_item(item) == BatchBytes(batch)


@pytest.mark.parametrize(
    ("decode", "element"),
    [
        pytest.param(codec.decode_peer_frame, b"\x0a\x00", id="frame"),
        pytest.param(codec.decode_batch, b"\x12\x00", id="batch"),
        pytest.param(of_kind(Kind.STATUS), b"\x62\x00", id="status"),
        pytest.param(of_kind(Kind.REQUEST), b"\x32\x00", id="request"),
    ],
)
def test_more_elements_than_any_message_has(
    decode: Callable[[bytes], object], element: bytes
) -> None:
    refuse(decode, element * (limits.MESSAGE_ELEMENTS_MAX + 1), Reason.OVERSIZE)


@pytest.mark.parametrize(
    ("kind", "element"),
    [
        (Kind.VIEW_CHANGE, b"\x32\x00"),
        (Kind.NEW_VIEW, b"\x12\x00"),
        (Kind.RECALLED, b"\x3a\x00"),
    ],
)
def test_more_elements_than_any_message_of_certificates_has(kind: Kind, element: bytes) -> None:
    payload = element * (limits.CERTIFICATES_ELEMENTS_MAX + 1)
    refuse(of_kind(kind), payload, Reason.OVERSIZE)


def test_more_queries_than_the_caller_takes() -> None:
    read = ReadRequest(1, (b"",) * 50, Consistency.STALE, True)
    item = codec.encode_client_item(read)
    assert codec.decode_client_item(item, 50) == read
    refuse(lambda data: codec.decode_client_item(data, 40), item, Reason.OVERSIZE)


def test_elements_can_be_counted_by_the_first_byte_of_their_tags() -> None:
    """Of all lists in what is parsed: fields below 16, whose elements have a length."""
    kinds = [
        kind
        for module in (client_pb2, message_pb2, peer_pb2)
        for kind in module.DESCRIPTOR.message_types_by_name.values()
    ]
    lists = [field for kind in kinds for field in kind.fields if field.is_repeated]
    assert len(lists) > 10
    for field in lists:
        assert field.number < 16 and field.type in (field.TYPE_BYTES, field.TYPE_MESSAGE)


def test_a_chunk_has_no_more_records_than_its_source_looks_at() -> None:
    record = StateRecord(1, b"k", 1, b"")
    most = StateChunk(64, (record,) * limits.CHUNK_SCAN_RECORDS, b"", 1)
    item = codec.encode_peer_item(most)
    assert item.startswith(codec.STATE_CHUNK_TAG)
    assert codec.decode_peer_item(item) == most
    more = codec.encode_peer_item(replace(most, records=(*most.records, record)))
    refuse(codec.decode_peer_item, more, Reason.OVERSIZE)


def test_elements_of_nested_lists_count_together() -> None:
    certificate = b"\x0a\x00" * (limits.MESSAGE_ELEMENTS_MAX // 2 + 1)

    def field(number: int, content: bytes) -> bytes:
        return bytes((number << 3 | 2,)) + varint(len(content)) + content

    leaves = b"\x12\x00" * (limits.MESSAGE_ELEMENTS_MAX // 2)
    refuse(codec.decode_peer_item, field(7, field(1, certificate) + leaves), Reason.OVERSIZE)
    assert len(codec.decode_peer_item(field(7, leaves)).leaves) == len(leaves) // 2


@pytest.mark.parametrize("kind", [Kind.REPLIES, Kind.READ_REPLIES])
def test_a_reply_may_have_more_elements_than_any_other_message(kind: Kind) -> None:
    """A client that refused it could never learn the fate of the largest request."""

    def payload(results: int) -> bytes:
        values = [bytes(128)] * results
        if kind is Kind.REPLIES:
            reply = message_pb2.Reply(
                outcome=message_pb2.OUTCOME_EXECUTED,
                request_digest=DIGEST,
                results_digest=DIGEST,
                full=True,
                results=values,
            )
            return message_pb2.Replies(client=DIGEST, replies=[reply]).SerializeToString()
        read = message_pb2.ReadReply(
            query_digest=DIGEST, results_digest=DIGEST, full=True, results=values
        )
        return message_pb2.ReadReplies(client=DIGEST, replies=[read]).SerializeToString()

    many = limits.MESSAGE_ELEMENTS_MAX + 1
    (reply,) = codec.decode_message(kind, payload(many)).replies
    assert len(reply.results) == many
    refuse(of_kind(kind), payload(limits.REPLIES_ELEMENTS_MAX + 1), Reason.OVERSIZE)


@pytest.mark.parametrize("kind", [Kind.REPLIES, Kind.READ_REPLIES])
def test_more_replies_than_a_client_looks_at_in_one_go(
    kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A liar could hold it up for seconds by a single message of small ones."""
    built: list[object] = []
    for name in ("Reply", "ReadReply"):
        monkeypatch.setattr(replies, name, lambda *fields: built.append(fields))

    def payload(count: int) -> bytes:
        if kind is Kind.REPLIES:
            reply = message_pb2.Reply(outcome=1, request_digest=DIGEST, results_digest=DIGEST)
            return message_pb2.Replies(client=DIGEST, replies=[reply] * count).SerializeToString()
        read = message_pb2.ReadReply(query_digest=DIGEST, refused=True)
        return message_pb2.ReadReplies(client=DIGEST, replies=[read] * count).SerializeToString()

    refuse(of_kind(kind), payload(limits.REPLIES_MAX + 1), Reason.OVERSIZE)
    assert not built
    codec.decode_message(kind, payload(limits.REPLIES_MAX))
    assert len(built) == limits.REPLIES_MAX


def varint(value: int) -> bytes:
    encoded = b""
    while value >= 0x80:
        encoded += bytes((value & 0x7F | 0x80,))
        value >>= 7
    return encoded + bytes((value,))


def test_a_large_message_is_only_counted_not_refused() -> None:
    for filling in (b"x", b"\x0a"):
        items = [filling * 400] * 1_000
        assert len(codec.encode_peer_frame(items)) > 2 * limits.MESSAGE_ELEMENTS_MAX
        assert codec.decode_peer_frame(codec.encode_peer_frame(items)) == items


@pytest.mark.parametrize(
    "tail",
    [
        pytest.param(b"\x0b", id="group"),
        pytest.param(b"\x0a\xff\xff\xff\x7f", id="longer than the message"),
        pytest.param(b"\x08\x80", id="number cut off"),
        pytest.param(b"\x08" + b"\xff" * 11, id="number too long"),
    ],
)
def test_a_large_message_that_is_no_message(tail: bytes) -> None:
    padding = codec.encode_peer_frame([b"\x0a" * (2 * limits.MESSAGE_ELEMENTS_MAX)])
    refuse(codec.decode_peer_frame, padding + tail, Reason.MALFORMED)


def test_a_large_message_whose_inner_message_is_cut_off() -> None:
    padding = codec.encode_peer_frame([b"\x0a" * (2 * limits.MESSAGE_ELEMENTS_MAX)])
    cut_off = b"\x3a" + varint(len(padding) + 1) + padding
    refuse(codec.decode_peer_item, cut_off, Reason.MALFORMED)


@pytest.mark.parametrize("tail", [b"\x11" + b"x" * 8, b"\x15" + b"x" * 4])
def test_a_large_message_with_unknown_fixed_fields(tail: bytes) -> None:
    padding = codec.encode_peer_frame([b"\x0a" * (2 * limits.MESSAGE_ELEMENTS_MAX)])
    refuse(codec.decode_peer_frame, padding + tail, Reason.MALFORMED)


def test_the_count_descends_only_where_lists_can_be() -> None:
    descends = parsing._lists_within(peer_pb2.PeerItem.DESCRIPTOR)
    assert set(descends) == {4, 5, 7, 8}


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
