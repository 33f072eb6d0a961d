"""A replica's data directory: made once on purpose, opened by one process at a time.

Layout: `identity.json` (format, cluster, replica), `lock`, and the LMDB environments `log/` and
`state/`. A directory that is not there is never made on the way: a replica that lost its votes must
not vote as if it had never voted (protocol.md section 10).
"""

import fcntl
import json
import os
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lmdb

from pbft.errors import ConfigurationError
from pbft.storage.api import StorageCorrupt
from pbft.storage.environment import sync_directory
from pbft.storage.lmdb_base import MAP_BYTES, LmdbBase
from pbft.storage.vote_log import LmdbVoteLog
from pbft.types import Digest, ReplicaId

FORMAT_VERSION = 1

_IDENTITY = "identity.json"
_LOCK = "lock"
LOG = "log"
STATE = "state"


@dataclass(frozen=True, slots=True)
class Storage:
    """An open data directory."""

    log: LmdbVoteLog
    base: LmdbBase
    lock: int
    """File descriptor that holds the lock."""

    def close(self) -> None:
        """Closes both environments and gives up the lock. Views of the base must have been
        closed."""
        self.log.close()
        self.base.close()
        os.close(self.lock)


def create(path: Path, cluster_id: Digest, replica: ReplicaId) -> None:
    """Makes an empty data directory, durably; its parents are made as needed. Raises
    ConfigurationError if something is there already or it cannot be written."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if any(path.iterdir()):
            raise ConfigurationError(
                f"{path} is not empty: a data directory is made once, and kept; to begin anew, "
                "remove it"
            )
        for name in (LOG, STATE):
            (path / name).mkdir(mode=0o700)
        LmdbVoteLog(path / LOG, create=True).close()
        LmdbBase(path / STATE, create=True).close()
        # The identity comes last: a directory without it was not finished and is refused.
        _write_identity(path, cluster_id, replica)
        for directory in (path / LOG, path / STATE, path, path.parent):
            sync_directory(directory)
    except (OSError, lmdb.Error) as error:
        raise ConfigurationError(f"{path} cannot be made a data directory: {error}") from error


def open(
    path: Path, cluster_id: Digest, replica: ReplicaId, *, state_map_bytes: int = MAP_BYTES
) -> Storage:
    """Opens the data directory of this replica of this cluster and locks it. `state_map_bytes` is
    the address space given to the state (see lmdb_base). Raises ConfigurationError, saying what to
    do, and StorageCorrupt."""
    if not path.exists():
        raise ConfigurationError(f"{path} does not exist: run pbft storage init first")
    if not path.is_dir():
        raise ConfigurationError(f"{path} is not a directory")
    _check_identity(path, cluster_id, replica)
    with ExitStack() as opened:
        lock = _take_lock(path)
        opened.callback(os.close, lock)
        try:
            log = LmdbVoteLog(path / LOG)
            opened.callback(log.close)
            base = LmdbBase(path / STATE, map_bytes=state_map_bytes)
            opened.callback(base.close)
            base.end_installation()
        except (lmdb.InvalidError, lmdb.CorruptedError, lmdb.PageNotFoundError) as error:
            raise StorageCorrupt(f"{path} holds a damaged file: {error}") from error
        except lmdb.Error as error:
            raise ConfigurationError(f"{path} cannot be opened: {error}") from error
        opened.pop_all()
        return Storage(log, base, lock)


def _write_identity(path: Path, cluster_id: Digest, replica: ReplicaId) -> None:
    identity = {"format": FORMAT_VERSION, "cluster_id": cluster_id.hex(), "replica": replica}
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    with os.fdopen(os.open(path / _IDENTITY, flags, 0o600), "w") as file:
        file.write(json.dumps(identity) + "\n")
        file.flush()
        os.fsync(file.fileno())


def read_identity(path: Path) -> dict[str, Any]:
    """Format, cluster and replica that the directory was made for; nothing of it is checked. Raises
    ConfigurationError if it is no data directory."""
    try:
        identity = json.loads((path / _IDENTITY).read_bytes())
    except FileNotFoundError as error:
        raise ConfigurationError(
            f"{path} is not a data directory: run pbft storage init for an empty one"
        ) from error
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{path / _IDENTITY} cannot be read: {error}") from error
    if not isinstance(identity, dict):
        raise ConfigurationError(f"{path / _IDENTITY} cannot be read: it names nothing")
    return identity


def _check_identity(path: Path, cluster_id: Digest, replica: ReplicaId) -> None:
    identity = read_identity(path)
    if identity.get("format") != FORMAT_VERSION:
        raise ConfigurationError(
            f"{path} has another format: this version reads format {FORMAT_VERSION}"
        )
    if identity.get("cluster_id") != cluster_id.hex():
        raise ConfigurationError(
            f"{path} belongs to the cluster {identity.get('cluster_id')}, not to "
            f"{cluster_id.hex()}: check the genesis file and the data directory"
        )
    if identity.get("replica") != replica:
        raise ConfigurationError(
            f"{path} belongs to replica {identity.get('replica')}, not to replica {replica}"
        )


def _take_lock(path: Path) -> int:
    try:
        descriptor = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be written: {error}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise ConfigurationError(f"{path} is in use by another process") from error
    return descriptor
