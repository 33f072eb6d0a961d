"""What the codec refuses because it is too large, or too many."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from pbft import codec, limits
from pbft.codec import parsing, replies
from pbft.errors import Reason
from pbft.messages import (
    BatchBytes,
    Consistency,
    Kind,
    ReadRequest,
    StateChunk,
    StateRecord,
)
from pbft.wire import client_pb2, message_pb2, peer_pb2
from tests.unit.codec_support import (
    DIGEST,
    of_kind,
    refuse,
)

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
