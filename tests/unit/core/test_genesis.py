"""The genesis: the same bytes give the same cluster, anything odd is refused by name."""

import hashlib
from dataclasses import asdict, fields

import pytest

from pbft.codec import decode_message
from pbft.errors import ConfigurationError
from pbft.genesis import Genesis, ProtocolConstants, dump_genesis, parse_genesis
from pbft.limits import MESSAGE_BYTES_MAX, VOTE_BYTES, ProtocolLimits
from pbft.messages import NewView
from tests.harness.core_forge import Forge

KEYS = tuple(bytes([index]) * 32 for index in range(8))


def make(**changes: object) -> Genesis:
    """A good genesis, or what `changes` make of it."""
    values: dict[str, object] = {
        "nonce": b"n" * 32,
        "replicas": KEYS[:4],
        "clients": frozenset(KEYS[4:6]),
    }
    return Genesis.create(**(values | changes))


def test_the_cluster_id_is_the_hash_of_the_bytes() -> None:
    data = dump_genesis(make())
    genesis = parse_genesis(data)
    assert genesis.cluster_id == hashlib.sha256(data).digest()
    assert dump_genesis(genesis) == data
    assert parse_genesis(data + b"\n").cluster_id != genesis.cluster_id


def test_what_was_written_is_read() -> None:
    constants = ProtocolConstants(checkpoint_interval=8, window=32, clock_drift_us=7, buckets=64)
    limits = ProtocolLimits(operation_bytes=100, clients=5)
    genesis = make(open_admission=True, constants=constants, limits=limits)
    again = parse_genesis(dump_genesis(genesis))
    assert again == genesis
    assert (again.constants, again.limits) == (constants, limits)


def test_every_value_changes_the_cluster_id() -> None:
    ids = {
        make().cluster_id,
        make(nonce=b"m" * 32).cluster_id,
        make(open_admission=True).cluster_id,
    }
    ids.add(make(replicas=KEYS[:3] + KEYS[6:7]).cluster_id)
    ids.add(make(clients=frozenset()).cluster_id)
    ids.add(make(constants=ProtocolConstants(bucket_salt=1)).cluster_id)
    ids.add(make(limits=ProtocolLimits(operations_per_request=1000)).cluster_id)
    assert len(ids) == 7


def test_who_is_who() -> None:
    genesis = make()
    assert [genesis.replica_with_key(key) for key in KEYS[:5]] == [0, 1, 2, 3, None]
    assert [genesis.admits(key) for key in KEYS[3:7]] == [False, True, True, False]
    assert make(open_admission=True).admits(b"anybody" + bytes(25))
    assert genesis.thresholds.quorum == 3


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"nonce": b"short"}, "nonce"),
        ({"replicas": KEYS[:3]}, "4 to 31"),
        ({"replicas": (*KEYS[:3], b"short")}, "32 bytes"),
        ({"clients": frozenset([b"short"])}, "32 bytes"),
        ({"replicas": (*KEYS[:3], KEYS[0])}, "twice"),
        ({"clients": frozenset([KEYS[0]])}, "twice"),
    ],
)
def test_odd_members_are_refused(changes: dict[str, object], text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        make(**changes)


@pytest.mark.parametrize(
    "values",
    [
        {"checkpoint_interval": 0},
        {"checkpoint_interval": 64, "window": 127},
        {"buckets": 0},
        {"buckets": 3},
    ],
)
def test_odd_constants_are_refused(values: dict[str, int]) -> None:
    (name, *_), data = values.keys(), dump_genesis(make()).decode()
    for key, value in values.items():
        old = f"{key} = {getattr(ProtocolConstants(), key)}\n"
        assert old in data
        data = data.replace(old, f"{key} = {value}\n")
    with pytest.raises(ConfigurationError, match=name):
        parse_genesis(data.encode())


def edited(old: str, new: str) -> bytes:
    """The file with one edit."""
    data = dump_genesis(make()).decode()
    assert old in data
    return data.replace(old, new, 1).encode()


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ("format = 1", "format = 2", "format 2"),
        ("format = 1\n", "", "lacks the key: format"),
        ("format = 1", "format = 1\nmore = 1", "unknown key in the genesis: more"),
        ("format = 1", "format = ", "not a TOML file"),
        ("open_admission = false", "open_admission = 1", "true or false"),
        ('nonce = "6e6e', 'nonce = "xx6e', "nonce in the genesis is not hexadecimal"),
        ('nonce = "', 'nonce = 1 #"', "nonce must be 32 bytes"),
        ("clients = [", "clients = 1\nmore = [", "unknown key"),
        ("window = 256", "window = -1", "window in the genesis must be a whole number"),
        ("window = 256", "window = 1.5", "window in the genesis must be a whole number"),
        ("window = 256", "window = true", "window in the genesis must be a whole number"),
        ("window = 256\n", "", "lacks the key: constants.window"),
        ("window = 256", "window = 256\nmore = 1", "unknown key in the genesis: constants.more"),
    ],
)
def test_odd_files_are_refused(old: str, new: str, text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        parse_genesis(edited(old, new))


def test_more_odd_files_are_refused() -> None:
    key = KEYS[4].hex()
    with pytest.raises(ConfigurationError, match="twice"):
        parse_genesis(edited(f'  "{key}",', f'  "{key}",\n  "{key}",'))
    with pytest.raises(ConfigurationError, match="not a TOML file"):
        parse_genesis(b"\xff")
    data = dump_genesis(make()).decode()
    start = data.index("replicas = [")
    end = data.index("]", start) + 1
    with pytest.raises(ConfigurationError, match="list of keys"):
        parse_genesis((data[:start] + "replicas = 4" + data[end:]).encode())
    start = data.index("[limits]")
    flat = data[:start].replace("format = 1", "format = 1\nlimits = 1")
    with pytest.raises(ConfigurationError, match="must be a table"):
        parse_genesis(flat.encode())


@pytest.mark.parametrize("name", [item.name for item in fields(ProtocolLimits)])
def test_a_limit_of_nothing_is_refused(name: str) -> None:
    """A cluster whose limits allow nothing would hang or crash at the first request."""
    values = asdict(ProtocolLimits()) | {name: 0}
    with pytest.raises(ConfigurationError, match="at least 1"):
        make(limits=ProtocolLimits(**values))


def test_a_batch_must_hold_the_largest_request() -> None:
    with pytest.raises(ConfigurationError, match="batch_bytes"):
        make(limits=ProtocolLimits(request_bytes=1000, batch_bytes=1000))


def test_a_window_whose_new_view_fits_no_message_is_refused() -> None:
    replicas = tuple(bytes([index]) * 32 for index in range(100, 131))
    make(replicas=replicas)
    largest = MESSAGE_BYTES_MAX // (VOTE_BYTES * 21 * 21)
    make(replicas=replicas, constants=ProtocolConstants(window=largest))
    with pytest.raises(
        ConfigurationError, match=f"31 replicas the window can be at most {largest}"
    ):
        make(replicas=replicas, constants=ProtocolConstants(window=largest + 1))


def test_the_largest_new_view_that_a_genesis_allows_is_read() -> None:
    """Sequences and views as large as they come: each vote takes as many bytes as it can."""
    replicas, window = 31, 271
    world = Forge(replicas, interval=1, window=window)
    low, view, digest = 2**62, 2**62 + 5, b"d" * 32
    proofs = [world.proof(low + n, digest, view - 1) for n in range(1, window + 1)]
    stable = world.checkpoints(low, digest)
    signed = world.new_view(
        view, [world.view_change(one, view, proofs, low, stable) for one in world.quorum()]
    )
    message = decode_message(signed.kind, signed.payload)
    assert isinstance(message, NewView) and len(message.pre_prepares) == window
