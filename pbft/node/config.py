"""One replica's configuration: a TOML file, with flags and PBFT_* variables over it (operations.md
section 3).

Nothing here is part of what the cluster agrees on; that is the genesis. Secrets stand in files of
their own, which this file only names.
"""

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from pbft.core.settings import Settings, Timers
from pbft.errors import ConfigurationError
from pbft.genesis import Genesis
from pbft.types import ReplicaId

ENVIRONMENT_PREFIX = "PBFT_"
PIPELINE_DEPTH_DEFAULT = Settings(replica=0).pipeline_depth


@dataclass(frozen=True, slots=True)
class Address:
    """Where something listens."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> "Address":
        """Reads `host:port` or `[address]:port`. Raises ValueError."""
        host, separator, port = text.rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        if not separator or not host or not port.isascii() or not port.isdigit():
            raise ValueError(f"{text!r} is not host:port")
        if int(port) > 65_535:
            raise ValueError(f"port {port} is above 65535")
        return cls(host, int(port))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class NodeConfiguration:
    """What `pbft start` needs to know. Paths are absolute or relative to the working directory."""

    replica: ReplicaId
    genesis: Path
    key: Path
    """The replica's private key."""
    data: Path
    """The data directory, made by `pbft storage init`."""
    peer_address: Address
    """Where the other replicas connect."""
    client_address: Address
    admin_address: Address
    peers: Mapping[ReplicaId, Address]
    """Where each other replica listens for peers."""
    certificate: Path | None = None
    """The replica's TLS certificate and its private key."""
    authority: Path | None = None
    """Certificate of the authority that signed everybody's certificates."""
    pipeline_depth: int = PIPELINE_DEPTH_DEFAULT
    allow_fault_injection: bool = False
    faults: tuple[str, ...] = ()
    """Behaviours to start with, `NAME` or `NAME:KEY=VALUE,...`; needs `allow_fault_injection`."""
    insecure: bool = False
    """Plain text although nobody could then tell who connects but by the signatures."""
    timers: Timers = field(default_factory=Timers)

    def check_against(self, genesis: Genesis) -> None:
        """Raises ConfigurationError if the replica or its peers are not those of the genesis."""
        replicas = range(len(genesis.replicas))
        if self.replica not in replicas:
            raise ConfigurationError(
                f"replica {self.replica} is not in the genesis, which has 0 to {len(replicas) - 1}"
            )
        wanted = set(replicas) - {self.replica}
        if missing := sorted(wanted - self.peers.keys()):
            raise ConfigurationError(f"[peers] lacks the address of replica {missing[0]}: add it")
        if unknown := sorted(self.peers.keys() - wanted):
            raise ConfigurationError(
                f"[peers] names replica {unknown[0]}, which is not another replica of the genesis:"
                " remove it"
            )


_OPTIONAL_PATHS = frozenset({"certificate", "authority"})
_PATHS = frozenset({"genesis", "key", "data"}) | _OPTIONAL_PATHS
_ADDRESSES = frozenset({"peer_address", "client_address", "admin_address"})
_NUMBERS = frozenset({"replica", "pipeline_depth"})
_SWITCHES = frozenset({"allow_fault_injection", "insecure"})
_LISTS = frozenset({"faults"})
_SCALARS = _PATHS | _ADDRESSES | _NUMBERS | _SWITCHES | _LISTS
_REQUIRED = (_PATHS - _OPTIONAL_PATHS) | _ADDRESSES | {"replica", "peers"}


def load_configuration(
    path: Path,
    flags: Mapping[str, str] | None = None,
    environment: Mapping[str, str] | None = None,
) -> NodeConfiguration:
    """Reads one replica's TOML; flag over PBFT_* variable over file over default.

    `flags` maps names of the file's plain keys to their text, as typed. Paths in the file are
    relative to the file, those of flags and variables to the working directory. Raises
    ConfigurationError, which names the key and what to do.
    """
    where = f"{path}"
    try:
        document = tomllib.loads(path.read_text())
    except OSError as error:
        raise ConfigurationError(
            f"{where}: {error.strerror}; `pbft testnet init` writes such a file"
        ) from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigurationError(f"{where} is not a TOML file: {error}") from error
    _check_keys(document, where)
    values = {key: _read(key, value, where) for key, value in document.items() if key in _SCALARS}
    values |= {key: path.parent / values[key] for key in _PATHS & values.keys()}
    values |= _texts(_from_environment(os.environ if environment is None else environment))
    values |= _texts({key: (f"--{key}", text) for key, text in (flags or {}).items()})
    if missing := sorted(_REQUIRED - {"peers"} - values.keys()):
        raise ConfigurationError(f"{where} lacks the key {missing[0]}: add it")
    values["peers"] = _read_peers(document.get("peers"), where)
    values["timers"] = _read_timers(document.get("timers", {}), where)
    configuration = NodeConfiguration(**values)
    _check(configuration, where)
    return configuration


def dump_configuration(configuration: NodeConfiguration, relative_to: Path) -> str:
    """The TOML that `load_configuration` reads back, paths relative to the directory given."""
    lines = ["# One replica: identity, files, addresses. Paths are relative to this file."]
    for name in (item.name for item in fields(NodeConfiguration)):
        value = getattr(configuration, name)
        if name in _PATHS and value is not None:
            lines.append(f"{name} = {_quoted(os.path.relpath(value, relative_to))}")
        elif name in _ADDRESSES:
            lines.append(f"{name} = {_quoted(str(value))}")
        elif name in _NUMBERS:
            lines.append(f"{name} = {value}")
        elif name in _SWITCHES:
            lines.append(f"{name} = {'true' if value else 'false'}")
        elif name in _LISTS:
            lines.append(f"{name} = [{', '.join(map(_quoted, value))}]")
    lines += ["", "[peers]", *(f"{i} = {_quoted(str(a))}" for i, a in configuration.peers.items())]
    lines += ["", "[timers]"]
    lines += [f"{t.name} = {getattr(configuration.timers, t.name)}" for t in fields(Timers)]
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    escaped = "".join(
        f"\\u{ord(character):04x}" if ord(character) < 32 or character in '"\\' else character
        for character in text
    )
    return f'"{escaped}"'


def _check_keys(document: Mapping[str, Any], where: str) -> None:
    known = {item.name for item in fields(NodeConfiguration)}
    if unknown := sorted(document.keys() - known):
        raise ConfigurationError(f"{where}: unknown key {unknown[0]}: remove it or correct it")


def _read(key: str, value: Any, where: str) -> Any:
    """One plain value of the file, checked. Raises ConfigurationError."""
    if key in _NUMBERS:
        if type(value) is not int or value < 0:
            raise ConfigurationError(f"{where}: {key} must be a whole number >= 0")
        return value
    if key in _SWITCHES:
        if not isinstance(value, bool):
            raise ConfigurationError(f"{where}: {key} must be true or false")
        return value
    if key in _LISTS:
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise ConfigurationError(f"{where}: {key} must be a list of texts")
        return tuple(value)
    if not isinstance(value, str) or not value:
        raise ConfigurationError(f"{where}: {key} must be a text")
    return Path(value) if key in _PATHS else _address(key, value, where)


def _address(key: str, value: object, where: str) -> Address:
    try:
        return Address.parse(value if isinstance(value, str) else repr(value))
    except ValueError as error:
        raise ConfigurationError(f"{where}: {key}: {error}") from error


def _from_environment(environment: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """The variables that stand for keys of the file; other PBFT_* belong to other commands."""
    names = {key: ENVIRONMENT_PREFIX + key.upper() for key in _SCALARS - {"key"}}
    return {key: (name, environment[name]) for key, name in names.items() if name in environment}


def _texts(given: Mapping[str, tuple[str, str]]) -> dict[str, Any]:
    """Values typed as text: (what to call the place, text) by key. Raises ConfigurationError."""
    values: dict[str, Any] = {}
    for key, (place, text) in given.items():
        if key not in _SCALARS:
            raise ConfigurationError(f"{place}: no such setting")
        value: Any = text
        if key in _NUMBERS and text.isascii() and text.isdigit():
            value = int(text)
        elif key in _SWITCHES:
            value = {"true": True, "1": True, "false": False, "0": False}.get(text.lower(), text)
        elif key in _LISTS:
            value = text.split()
        values[key] = _read(key, value, place)
    return values


def _read_peers(table: object, where: str) -> dict[ReplicaId, Address]:
    if not isinstance(table, dict):
        raise ConfigurationError(f'{where} lacks the table [peers]: one `index = "host:port"` each')
    peers: dict[ReplicaId, Address] = {}
    for key, value in table.items():
        if not key.isascii() or not key.isdigit():
            raise ConfigurationError(f"{where}: peers.{key}: the key must be a replica's index")
        peers[int(key)] = _address(f"peers.{key}", value, where)
    return peers


def _read_timers(table: object, where: str) -> Timers:
    if not isinstance(table, dict):
        raise ConfigurationError(f"{where}: timers must be a table")
    known = {item.name for item in fields(Timers)}
    for key, value in table.items():
        if key not in known:
            raise ConfigurationError(f"{where}: unknown key timers.{key}: remove it or correct it")
        if type(value) is not int or value <= 0:
            raise ConfigurationError(f"{where}: timers.{key} must be microseconds, above 0")
    return Timers(**table)


def _check(configuration: NodeConfiguration, where: str) -> None:
    if configuration.pipeline_depth < 1:
        raise ConfigurationError(f"{where}: pipeline_depth must be at least 1")
    if configuration.faults and not configuration.allow_fault_injection:
        raise ConfigurationError(
            f"{where}: faults are asked for, but allow_fault_injection is not true: "
            "start with --allow-fault-injection, never in production"
        )
    if configuration.insecure:
        return
    for name in ("certificate", "authority"):
        if getattr(configuration, name) is None:
            raise ConfigurationError(
                f"{where}: TLS needs the key {name}, which `pbft testnet init` writes; set "
                "insecure = true, or start with --insecure, if the network itself is trusted"
            )
