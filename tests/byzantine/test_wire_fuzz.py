"""Hostile bytes: only Rejected comes out of the decoders and of the verifier, whatever goes in.

Seeded, so a failure repeats; the number of executions is asserted, so a broken loop cannot pass.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pbft import codec
from pbft.crypto.digest import NULL_DIGEST
from pbft.crypto.verifier import ReplicaVerifier, Verifier
from pbft.errors import Reason, Rejected
from pbft.messages import (
    BatchBytes,
    Checkpoint,
    Commit,
    CommittedBatch,
    Consistency,
    Kind,
    Leaf,
    NewView,
    Outcome,
    Prepare,
    PreparedProof,
    PrePrepare,
    ReadReplies,
    ReadReply,
    ReadRequest,
    Recall,
    Recalled,
    Replies,
    Reply,
    Signed,
    StateChunk,
    StateLeaves,
    StateRecord,
    StateRequest,
    Status,
    Submit,
    ViewChange,
)
from tests.unit.crypto.cluster import Cluster, cluster

EXECUTIONS_PER_TARGET = 10_000
DIGEST = b"d" * 32


def statements(world: Cluster) -> Iterator[Signed]:
    """A good one of every kind that replicas sign for each other or for clients."""
    one, two = world.replicas[1], world.replicas[2]
    pre_prepare = one.sign(PrePrepare(1, 65, DIGEST))
    proof = PreparedProof(pre_prepare, (two.sign(Prepare(1, 65, DIGEST)),))
    checkpoints = world.stable().checkpoints
    view_change = one.sign(ViewChange(5, 1, 0, 64, checkpoints, (proof,)))
    yield pre_prepare
    yield two.sign(Prepare(1, 2, DIGEST))
    yield two.sign(Commit(1, 2, DIGEST))
    yield checkpoints[0]
    yield view_change
    yield one.sign(NewView(5, (view_change,), (one.sign(PrePrepare(5, 65, NULL_DIGEST)),)))
    yield one.sign(Status(0, True, 0, 3, 5, False, False, 7, 7, 7, 5, (DIGEST,)))
    yield one.sign(Recall(1, bytes(32)))
    own = (two.sign(Prepare(1, 65, DIGEST)), two.sign(Commit(1, 65, DIGEST)))
    yield one.sign(Recalled(2, bytes(32), 5, 64, checkpoints, view_change, own))
    key = world.clients[0].client
    reply = Reply(7, 1, DIGEST, 9, 99, Outcome.EXECUTED, DIGEST, (b"result", b""))
    yield one.sign(Replies(key, 1, (reply,)))
    yield one.sign(ReadReplies(key, 1, (ReadReply(4, DIGEST, DIGEST, (b"r",), 9),)))


def peer_items(world: Cluster) -> Iterator[bytes]:
    batch = world.batch()
    for item in (
        *statements(world),
        world.signed_request(),
        world.proposal(batch),
        BatchBytes(batch),
        world.committed(batch),
        CommittedBatch(world.commits(NULL_DIGEST), b""),
        world.stable(),
        StateRequest(1, 64, b"\xff" * 8, b"cursor"),
        StateLeaves(world.stable(), (Leaf(1, 2, b"s" * 512), Leaf(0, 0, b""))),
        StateChunk(64, (StateRecord(2, b"key", 3, b"value"),) * 2, b"cursor"),
    ):
        yield codec.encode_peer_item(item)


def client_items(world: Cluster) -> Iterator[bytes]:
    yield codec.encode_client_item(Submit(world.signed_request(), True))
    read = ReadRequest(5, (b"query", b""), Consistency.LINEARIZABLE, False)
    yield codec.encode_client_item(read)


def admit_from_client(verifier: Verifier, data: bytes) -> None:
    item = codec.decode_client_item(data)
    if isinstance(item, Submit):
        verifier.admit_request(item.request)


def admit_answer(verifier: ReplicaVerifier, data: bytes) -> None:
    item = codec.decode_gateway_item(data)
    if isinstance(item, Signed):
        verifier.verify(item)


def targets(world: Cluster) -> dict[str, tuple[Callable[[bytes], object], list[bytes]]]:
    """What to attack, each with good inputs to start from."""
    verifier = Verifier(world.genesis, world.scheme)
    answers = ReplicaVerifier(world.genesis, world.scheme)
    items = list(peer_items(world))
    replies = [it for it in statements(world) if it.kind in (Kind.REPLIES, Kind.READ_REPLIES)]
    found: dict[str, tuple[Callable[[bytes], object], list[bytes]]] = {
        "peer stream": (lambda data: verifier.admit_peer(1, data), items),
        "client stream": (
            lambda data: admit_from_client(verifier, data),
            list(client_items(world)),
        ),
        "answers": (
            lambda data: admit_answer(answers, data),
            [codec.encode_gateway_item(reply) for reply in replies],
        ),
        "batch": (verifier.verified_batch, [world.batch()]),
        "frame": (codec.decode_peer_frame, [codec.encode_peer_frame(items[:3])]),
        "challenge": (codec.decode_challenge, [codec.encode_challenge(DIGEST)]),
    }
    payloads = [world.signed_request(), *statements(world)]
    for signed in payloads:
        decode = lambda data, kind=signed.kind: codec.decode_message(kind, data)  # noqa: E731
        found[signed.kind.name] = (decode, [signed.payload])
    return found


def mutated(chance: random.Random, good: bytes) -> bytes:
    """A good input made worse in one to three ways."""
    data = bytearray(good)
    for _ in range(chance.randint(1, 3)):
        position = chance.randrange(len(data) + 1)
        match chance.randrange(7):
            case 0:
                if data:
                    data[position % len(data)] ^= 1 << chance.randrange(8)
            case 1:
                del data[position:]
            case 2:
                data[position:position] = chance.randbytes(chance.randint(1, 8))
            case 3:
                del data[position : position + chance.randint(1, 8)]
            case 4:
                # An unknown field, where a field may begin.
                data += bytes((0xF8, 0x07, chance.randrange(128)))
            case 5:
                data[position:position] = data[: chance.randint(1, 40)]
            case 6:
                data = bytearray(chance.randbytes(chance.randint(0, 64)))
    return bytes(data)


NAMES = list(targets(cluster("fake")))


@pytest.mark.parametrize("name", NAMES)
def test_only_rejections_come_out(name: str) -> None:
    attack, inputs = targets(cluster("fake"))[name]
    chance = random.Random(name)
    outcomes: Counter[str] = Counter()
    for _ in range(EXECUTIONS_PER_TARGET):
        try:
            attack(mutated(chance, chance.choice(inputs)))
        except Rejected as rejection:
            outcomes[rejection.reason.value] += 1
        else:
            outcomes["accepted"] += 1
    assert outcomes.total() == EXECUTIONS_PER_TARGET
    assert outcomes[Reason.MALFORMED.value] + outcomes[Reason.BAD_BODY.value] > 0


def test_the_inputs_are_good_before_they_are_mutated() -> None:
    world = cluster("fake")
    assert set(NAMES) >= {kind.name for kind in Kind if kind is not Kind.HELLO}
    for name, (attack, inputs) in targets(world).items():
        for data in inputs:
            try:
                attack(data)
            except Rejected as rejection:
                # Answers have no place between replicas, and these leaves are too few.
                assert name == "peer stream"
                assert rejection.reason in (Reason.WRONG_DOMAIN, Reason.BAD_SNAPSHOT)


def test_every_single_bit_of_a_signed_item_matters() -> None:
    world = cluster("fake")
    verifier = Verifier(world.genesis, world.scheme)
    item = codec.encode_peer_item(world.replicas[2].sign(Prepare(1, 2, DIGEST)))
    verifier.admit_peer(2, item)
    for bit in range(8 * len(item)):
        data = bytearray(item)
        data[bit // 8] ^= 1 << bit % 8
        with pytest.raises(Rejected):
            verifier.admit_peer(2, bytes(data))


def test_every_truncation_of_a_signed_item_is_refused() -> None:
    world = cluster("ed25519")
    verifier = Verifier(world.genesis)
    for item in (world.proposal(world.batch()), world.committed(world.batch()), world.stable()):
        data = codec.encode_peer_item(item)
        verifier.admit_peer(1, data)
        for length in range(len(data)):
            with pytest.raises(Rejected):
                verifier.admit_peer(1, data[:length])


@given(st.binary(max_size=200))
def test_random_bytes(data: bytes) -> None:
    for attack, _ in targets(cluster("fake")).values():
        try:
            attack(data)
        except Rejected as rejection:
            assert rejection.reason in Reason


def test_unsigned_changes_do_not_make_a_second_message() -> None:
    """Whatever bytes were accepted, they say what was signed: the checkpoint is this one."""
    world = cluster("ed25519")
    verifier = Verifier(world.genesis)
    signed = world.replicas[0].sign(Checkpoint(64, DIGEST))
    item = codec.encode_peer_item(signed)
    chance = random.Random(5)
    for _ in range(EXECUTIONS_PER_TARGET):
        try:
            admitted = verifier.admit_peer(0, mutated(chance, item))
        except Rejected:
            continue
        if getattr(admitted, "signed", None) is not None:
            assert admitted.message == Checkpoint(64, DIGEST)  # type: ignore[union-attr]
