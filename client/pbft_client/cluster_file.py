"""cluster.toml: where the replicas listen, and which files a client needs (operations.md section
3).

It holds no secrets and nothing that safety depends on: a wrong address costs availability only, as
every answer is checked against the genesis.
"""

import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pbft.errors import ConfigurationError
from pbft.genesis import Genesis, parse_genesis
from pbft.quorum import MAX_REPLICAS, MIN_REPLICAS

_FILES = ("genesis", "key", "certificate", "authority", "operator")
_KEYS = {*_FILES, "insecure", "replicas"}
_REPLICA_KEYS = {"client", "admin"}


@dataclass(frozen=True, slots=True)
class ReplicaAddresses:
    """Where one replica listens, as host:port."""

    client: str
    """Listener of the Gateway service."""
    admin: str | None = None
    """Listener of metrics and health; None when it is not meant for clients."""


@dataclass(frozen=True, slots=True)
class ClusterFile:
    """The contents of cluster.toml, paths already absolute."""

    genesis: Path
    replicas: tuple[ReplicaAddresses, ...]
    """Replica i at position i."""
    key: Path | None = None
    """Private key used when the caller names none."""
    certificate: Path | None = None
    """TLS certificate, with its private key, that goes with `key`."""
    authority: Path | None = None
    """Certificate of the cluster's certificate authority."""
    operator: Path | None = None
    """The operator's TLS certificate with its private key: for commands that change a replica."""
    insecure: bool = False
    """Plain text: nothing but the signatures tells who answers."""


def dump_cluster_file(cluster: ClusterFile, directory: Path) -> str:
    """The text of a cluster.toml that will lie in `directory`; paths below it become relative."""
    lines = ["# Where the replicas of one cluster listen, for clients.", ""]
    for name in _FILES:
        path: Path | None = getattr(cluster, name)
        if path is not None:
            shown = path.relative_to(directory) if path.is_relative_to(directory) else path
            lines.append(f"{name} = {_quote(str(shown))}")
    if cluster.insecure:
        lines.append("insecure = true")
    for replica in cluster.replicas:
        lines += ["", "[[replicas]]", f"client = {_quote(replica.client)}"]
        if replica.admin is not None:
            lines.append(f"admin = {_quote(replica.admin)}")
    return "\n".join(lines) + "\n"


def load_cluster_file(path: Path) -> ClusterFile:
    """Reads a cluster.toml; relative paths in it are relative to the file.

    Raises ConfigurationError, naming the file and the key, for anything missing, unknown or odd.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigurationError(
            f"{path} does not exist: make a cluster with `pbft up`, or name its file with --cluster"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigurationError(f"{path} cannot be read as TOML: {error}") from error
    _refuse_unknown(document, _KEYS, str(path))
    if "genesis" not in document:
        raise ConfigurationError(f"{path} lacks the key: genesis")
    replicas = document.get("replicas")
    if not isinstance(replicas, list) or not replicas:
        raise ConfigurationError(f"{path} needs one [[replicas]] table per replica")
    insecure = document.get("insecure", False)
    if not isinstance(insecure, bool):
        raise ConfigurationError(f"insecure in {path} must be true or false")
    cluster = ClusterFile(
        genesis=_path(document, "genesis", path),
        replicas=tuple(_replica(table, index, path) for index, table in enumerate(replicas)),
        key=_optional_path(document, "key", path),
        certificate=_optional_path(document, "certificate", path),
        authority=_optional_path(document, "authority", path),
        operator=_optional_path(document, "operator", path),
        insecure=insecure,
    )
    if not MIN_REPLICAS <= len(replicas) <= MAX_REPLICAS:
        raise ConfigurationError(
            f"{path} names {len(replicas)} replicas; a cluster has {MIN_REPLICAS} to {MAX_REPLICAS}"
        )
    return cluster


def load_genesis(cluster: ClusterFile) -> Genesis:
    """The genesis that a cluster.toml names. Raises ConfigurationError, also if it has another
    number of replicas."""
    try:
        genesis = parse_genesis(cluster.genesis.read_bytes())
    except OSError as error:
        raise ConfigurationError(
            f"cannot read the genesis {cluster.genesis}: {error.strerror}"
        ) from error
    if len(cluster.replicas) != len(genesis.replicas):
        raise ConfigurationError(
            f"cluster.toml has {len(cluster.replicas)} replicas, the genesis "
            f"{len(genesis.replicas)}: they belong to different clusters"
        )
    return genesis


def _quote(text: str) -> str:
    # A JSON string without surrogates is a TOML basic string.
    return json.dumps(text, ensure_ascii=False)


def _refuse_unknown(table: Mapping[str, Any], known: set[str], where: str) -> None:
    if unknown := sorted(table.keys() - known):
        raise ConfigurationError(f"unknown key in {where}: {unknown[0]}")


def _text(table: Mapping[str, Any], name: str, where: str) -> str:
    value = table.get(name)
    if not isinstance(value, str) or not value:
        raise ConfigurationError(f"{name} in {where} must be a text that is not empty")
    return value


def _path(document: Mapping[str, Any], name: str, file: Path) -> Path:
    text = _text(document, name, str(file))
    if "\0" in text:
        raise ConfigurationError(f"{name} in {file} can be no path: {text!r}")
    return file.absolute().parent / text


def _optional_path(document: Mapping[str, Any], name: str, file: Path) -> Path | None:
    return _path(document, name, file) if name in document else None


def _replica(table: object, index: int, file: Path) -> ReplicaAddresses:
    where = f"replica {index} of {file}"
    if not isinstance(table, dict):
        raise ConfigurationError(f"{where} must be a table")
    _refuse_unknown(table, _REPLICA_KEYS, where)
    return ReplicaAddresses(
        client=_address(table, "client", where),
        admin=_address(table, "admin", where) if "admin" in table else None,
    )


def _address(table: Mapping[str, Any], name: str, where: str) -> str:
    address = _text(table, name, where)
    host, _, port = address.rpartition(":")
    is_port = re.fullmatch(r"[0-9]{1,5}", port) and 0 < int(port) < 65536
    if not is_port or not _may_be_host(host):
        raise ConfigurationError(f"{name} in {where} must be host:port, not {address!r}")
    return address


def _may_be_host(host: str) -> bool:
    """Whether it can be looked up at all."""
    try:
        host.encode("idna")
    except UnicodeError:
        return False
    return bool(host) and host.isprintable() and " " not in host
