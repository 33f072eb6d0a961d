"""Opens LMDB environments so that a damaged file is a StorageCorrupt, not a dead process.

LMDB maps its file: reading what a truncated file no longer has is a SIGBUS, and a file that is
empty or missing is silently made a new environment.
"""

import os
from pathlib import Path
from typing import Any

import lmdb

from pbft.storage.api import StorageCorrupt

DATA_FILE = "data.mdb"
META_PAGES = 2
UNWRITTEN_PAGES_MAX = 64
"""Pages that LMDB may count at the end of the file though it never wrote them: taken and given back
within one transaction."""


def open_environment(path: Path, *, create: bool, **options: Any) -> "lmdb.Environment":
    """lmdb.open of the directory `path`; `create` makes a new environment. Raises lmdb.Error, and
    StorageCorrupt for a file that is missing, or shorter than what it says it holds."""
    writable = not options.get("readonly", False)
    file = path / DATA_FILE
    if not create:
        if not file.exists():
            raise StorageCorrupt(f"{file} is missing")
        if file.stat().st_size == 0:
            raise StorageCorrupt(f"{file} is empty")
    environment = lmdb.open(str(path), create=create, mode=0o600, **options)
    try:
        if not create:
            _check_length(environment, file, writable=writable)
        if writable:
            environment.reader_check()
    except BaseException:
        environment.close()
        raise
    return environment


def _check_length(environment: "lmdb.Environment", file: Path, *, writable: bool) -> None:
    page_bytes = environment.stat()["psize"]
    expected = max(META_PAGES, environment.info()["last_pgno"] + 1) * page_bytes
    actual = file.stat().st_size
    if actual >= expected:
        return
    if expected - actual > UNWRITTEN_PAGES_MAX * page_bytes:
        raise StorageCorrupt(f"{file} is truncated: it has {actual} of {expected} bytes")
    if writable:
        # Whatever is read there is zeros now, which no record and no page of LMDB can be.
        os.truncate(file, expected)


def sync_directory(path: Path) -> None:
    """Makes durable which files a directory has. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
