"""The genesis: what all replicas and clients of one cluster must agree on (protocol.md section 3).

The SHA-256 of the file's bytes is the `cluster_id`, which every signature covers. Addresses are
not in it:
a moved container must not change the cluster.
"""

import hashlib
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from typing import Any

from pbft.errors import ConfigurationError
from pbft.limits import MESSAGE_BYTES_MAX, MESSAGE_ELEMENTS_MAX, VOTE_BYTES, ProtocolLimits
from pbft.quorum import MAX_REPLICAS, MIN_REPLICAS, Thresholds
from pbft.types import KEY_BYTES, ClientKey, Digest, ReplicaId

FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True)
class ProtocolConstants:
    """Constants on which acceptance depends (protocol.md section 15)."""

    checkpoint_interval: int = 128
    """K: a checkpoint every K sequence numbers."""
    window: int = 256
    """L: high watermark H = h + L; at least 2K."""
    clock_drift_us: int = 500_000
    """A backup holds a batch that is further ahead of its clock than this."""
    buckets: int = 4096
    """Leaves of the state digest's Merkle tree."""
    bucket_salt: int = 0
    """Salt of the hash that puts records into buckets, 32 bits."""

    def __post_init__(self) -> None:
        if self.checkpoint_interval < 1:
            raise ConfigurationError("checkpoint_interval must be at least 1")
        if self.window < 2 * self.checkpoint_interval:
            raise ConfigurationError("window must be at least twice the checkpoint_interval")
        if self.buckets < 1 or self.buckets & (self.buckets - 1):
            raise ConfigurationError("buckets must be a power of two")
        if self.buckets >= MESSAGE_ELEMENTS_MAX:
            raise ConfigurationError(f"buckets must be below {MESSAGE_ELEMENTS_MAX}")


@dataclass(frozen=True)
class Genesis:
    """One cluster's constitution. Raises ConfigurationError if it is not a valid one."""

    nonce: bytes
    """32 random bytes: two clusters with the same keys still have different ids."""
    replicas: tuple[bytes, ...]
    """Ed25519 public key of replica i at position i."""
    clients: frozenset[ClientKey]
    """Admitted clients; ignored when `open_admission`."""
    open_admission: bool = False
    constants: ProtocolConstants = field(default_factory=ProtocolConstants)
    limits: ProtocolLimits = field(default_factory=ProtocolLimits)
    cluster_id: Digest = b""
    """SHA-256 of the file's bytes; filled in by `create` and `parse_genesis`."""

    def __post_init__(self) -> None:
        if len(self.nonce) != 32:
            raise ConfigurationError("the genesis nonce must be 32 bytes")
        if not MIN_REPLICAS <= len(self.replicas) <= MAX_REPLICAS:
            raise ConfigurationError(
                f"a cluster has {MIN_REPLICAS} to {MAX_REPLICAS} replicas, not {len(self.replicas)}"
            )
        if any(len(key) != KEY_BYTES for key in (*self.replicas, *self.clients)):
            raise ConfigurationError(f"every public key in the genesis must be {KEY_BYTES} bytes")
        if len({*self.replicas, *self.clients}) != len(self.replicas) + len(self.clients):
            raise ConfigurationError("a public key appears twice in the genesis")
        # The largest new-view has q view-changes with L prepared certificates of q votes each.
        quorum = self.thresholds.quorum
        window_max = MESSAGE_BYTES_MAX // (VOTE_BYTES * quorum * quorum)
        if self.constants.window > window_max:
            raise ConfigurationError(
                f"with {len(self.replicas)} replicas the window can be at most {window_max}: "
                "a new-view must fit a message"
            )

    @classmethod
    def create(cls, **values: Any) -> "Genesis":
        """A genesis with its cluster id: `parse_genesis(dump_genesis(...))`."""
        return parse_genesis(dump_genesis(cls(**values)))

    @cached_property
    def thresholds(self) -> Thresholds:
        """The certificate sizes for this many replicas."""
        return Thresholds.of(len(self.replicas))

    @cached_property
    def _index(self) -> Mapping[bytes, ReplicaId]:
        return {key: index for index, key in enumerate(self.replicas)}

    def replica_with_key(self, key: bytes) -> ReplicaId | None:
        """The index of the replica with this public key, None if there is none."""
        return self._index.get(key)

    def admits(self, client: ClientKey) -> bool:
        """Whether a request signed by this client is acceptable (a pure function of the
        genesis)."""
        return self.open_admission or client in self.clients


def dump_genesis(genesis: Genesis) -> bytes:
    """The genesis as the bytes of a TOML file; the cluster id is their hash, so write them
    unchanged."""
    lines = [
        "# The constitution of one cluster. Its SHA-256 is the cluster id: change nothing.",
        f"format = {FORMAT_VERSION}",
        f'nonce = "{genesis.nonce.hex()}"',
        f"open_admission = {'true' if genesis.open_admission else 'false'}",
        "replicas = [",
        *(f'  "{key.hex()}",' for key in genesis.replicas),
        "]",
        "clients = [",
        *(f'  "{key.hex()}",' for key in sorted(genesis.clients)),
        "]",
    ]
    for title, table in (("constants", genesis.constants), ("limits", genesis.limits)):
        lines += ["", f"[{title}]", *(f"{name} = {value}" for name, value in asdict(table).items())]
    return ("\n".join(lines) + "\n").encode()


def parse_genesis(data: bytes) -> Genesis:
    """Reads the bytes of a genesis file. Raises ConfigurationError, naming the field, for
    anything odd."""
    try:
        document = tomllib.loads(data.decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigurationError(f"the genesis is not a TOML file: {error}") from error
    expected = {"format", "nonce", "open_admission", "replicas", "clients", "constants", "limits"}
    if unknown := sorted(document.keys() - expected):
        raise ConfigurationError(f"unknown key in the genesis: {unknown[0]}")
    if missing := sorted(expected - document.keys()):
        raise ConfigurationError(f"the genesis lacks the key: {missing[0]}")
    if document["format"] != FORMAT_VERSION:
        raise ConfigurationError(
            f"genesis format {document['format']!r}: this version reads {FORMAT_VERSION}"
        )
    if not isinstance(document["open_admission"], bool):
        raise ConfigurationError("open_admission in the genesis must be true or false")
    clients = _keys(document, "clients")
    if len(set(clients)) != len(clients):
        raise ConfigurationError("a client key appears twice in the genesis")
    return Genesis(
        nonce=_hex(document["nonce"], "nonce"),
        replicas=tuple(_keys(document, "replicas")),
        clients=frozenset(clients),
        open_admission=document["open_admission"],
        constants=_table(ProtocolConstants, document, "constants"),
        limits=_table(ProtocolLimits, document, "limits"),
        cluster_id=hashlib.sha256(data).digest(),
    )


def _hex(value: object, name: str) -> bytes:
    try:
        return bytes.fromhex(value) if isinstance(value, str) else b""
    except ValueError as error:
        raise ConfigurationError(f"{name} in the genesis is not hexadecimal") from error


def _keys(document: Mapping[str, Any], name: str) -> list[bytes]:
    if not isinstance(document[name], list):
        raise ConfigurationError(f"{name} in the genesis must be a list of keys")
    return [_hex(item, name) for item in document[name]]


def _table(kind: type[Any], document: Mapping[str, Any], name: str) -> Any:
    table = document[name]
    if not isinstance(table, dict):
        raise ConfigurationError(f"[{name}] in the genesis must be a table")
    known = {item.name for item in fields(kind)}
    if unknown := sorted(table.keys() - known):
        raise ConfigurationError(f"unknown key in the genesis: {name}.{unknown[0]}")
    if missing := sorted(known - table.keys()):
        raise ConfigurationError(f"the genesis lacks the key: {name}.{missing[0]}")
    for key, value in table.items():
        if type(value) is not int or value < 0:
            raise ConfigurationError(f"{name}.{key} in the genesis must be a whole number >= 0")
    return kind(**table)
