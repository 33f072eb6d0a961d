"""What is encoded is decoded to the same value, and to the same bytes again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pbft import codec
from pbft.messages import (
    Batch,
    ClientItem,
    GatewayItem,
    Kind,
    PeerItem,
    Prepare,
    PrePrepare,
    Refusal,
    Signed,
    SignedMessage,
)
from pbft.wire import client_pb2, peer_pb2
from tests.unit.crypto import strategies


@pytest.mark.parametrize("kind", Kind)
def test_every_kind_of_message(kind: Kind) -> None:
    @given(strategies.MESSAGES[kind])
    def check(message: SignedMessage) -> None:
        payload = codec.encode_message(message)
        decoded = codec.decode_message(kind, payload)
        assert decoded == message
        assert type(decoded) is type(message)
        assert codec.kind_of(message) is kind
        assert codec.encode_message(decoded) == payload

    check()


@given(strategies.any_signed)
def test_envelopes(signed: Signed) -> None:
    assert codec.decode_signed(codec.encode_signed(signed)) == signed


@given(strategies.peer_item)
def test_peer_items(item: PeerItem) -> None:
    encoded = codec.encode_peer_item(item)
    assert codec.decode_peer_item(encoded) == item
    assert codec.encode_peer_item(codec.decode_peer_item(encoded)) == encoded


@given(strategies.client_item)
def test_client_items(item: ClientItem) -> None:
    assert codec.decode_client_item(codec.encode_client_item(item)) == item


@given(strategies.gateway_item)
def test_gateway_items(item: GatewayItem) -> None:
    assert codec.decode_gateway_item(codec.encode_gateway_item(item)) == item


@given(strategies.batch)
def test_batches(batch: Batch) -> None:
    assert codec.decode_batch(codec.encode_batch(batch)) == batch


@given(strategies.frame)
def test_frames_keep_items_and_their_order(items: list[bytes]) -> None:
    assert codec.decode_peer_frame(codec.encode_peer_frame(items)) == items
    assert codec.decode_client_frame(codec.encode_client_frame(items)) == items
    assert codec.decode_gateway_frame(codec.encode_gateway_frame(items)) == items


@given(st.binary(min_size=32, max_size=32))
def test_challenges(nonce: bytes) -> None:
    assert codec.decode_challenge(codec.encode_challenge(nonce)) == nonce


def test_a_frame_of_encoded_items_is_what_the_proto_says() -> None:
    items = [codec.encode_peer_item(Signed(Kind.STATUS, 1, b"x", b"s" * 64))] * 2
    frame = codec.encode_peer_frame(items)
    assert list(peer_pb2.PeerFrame.FromString(frame).items) == items
    refusal = codec.encode_gateway_item(Refusal(1, 2, "queue_full"))
    gateway = client_pb2.GatewayFrame.FromString(codec.encode_gateway_frame([refusal]))
    assert gateway.items[0].refusal.number == 2


def test_one_payload_is_another_type_under_another_kind() -> None:
    payload = codec.encode_message(PrePrepare(3, 4, b"d" * 32))
    assert codec.decode_message(Kind.PREPARE, payload) == Prepare(3, 4, b"d" * 32)
    assert Prepare(3, 4, b"d" * 32) != PrePrepare(3, 4, b"d" * 32)


def test_what_does_not_fit_the_wire_is_our_own_bug() -> None:
    with pytest.raises(ValueError, match="out of range"):
        codec.encode_message(Prepare(2**64, 1, b"d" * 32))
