"""What a disk does behind a replica's back: it rots, or forgets (operations.md section 6).

Both are done to the data directory of a replica that is down: asked for while it runs, they are
noted beside its data and happen at its next start, before the directory is opened.
"""

import json
from pathlib import Path

import lmdb

from pbft.errors import ConfigurationError

CORRUPT_DISK = "corrupt-disk"
AMNESIA = "amnesia"
DISK_FAULTS = frozenset({CORRUPT_DISK, AMNESIA})
PARTS = ("log", "state")
"""The two environments of a data directory (pbft.storage.directory)."""

_NOTE = "faults-at-start.json"
_MAP_BYTES = 1 << 40
_TABLES_MAX = 8


def check_disk_fault(name: str, options: dict[str, str]) -> dict[str, str]:
    """The options in full. Raises ConfigurationError for one that does not exist."""
    part = options.get("part", "log")
    if unknown := sorted(options.keys() - {"part"}):
        raise ConfigurationError(f"{name}: unknown option {unknown[0]!r}; known: part")
    if part not in PARTS:
        raise ConfigurationError(f"{name}: part is one of {', '.join(PARTS)}, not {part!r}")
    return {"part": part}


def noted(data: Path) -> dict[str, dict[str, str]]:
    """The faults that wait for the next start, with their options."""
    try:
        note = json.loads((data / _NOTE).read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{data / _NOTE} cannot be read: remove it") from error
    if not isinstance(note, dict) or not note.keys() <= DISK_FAULTS:
        raise ConfigurationError(f"{data / _NOTE} is not a note of faults: remove it")
    return {name: check_disk_fault(name, dict(options)) for name, options in note.items()}


def note(data: Path, faults: dict[str, dict[str, str]]) -> None:
    """Replaces what waits for the next start; nothing waits if `faults` is empty."""
    if faults:
        (data / _NOTE).write_text(json.dumps(faults) + "\n")
    else:
        (data / _NOTE).unlink(missing_ok=True)


def perform(data: Path, name: str, options: dict[str, str]) -> None:
    """Does it to a data directory that nobody has open. Raises ConfigurationError."""
    path = data / options["part"]
    try:
        environment = lmdb.open(
            str(path), map_size=_MAP_BYTES, create=False, mode=0o600, max_dbs=_TABLES_MAX
        )
    except lmdb.Error as error:
        raise ConfigurationError(f"{path} cannot be opened: {error}") from error
    try:
        for table in _tables(environment, options["part"]):
            if name == AMNESIA:
                with environment.begin(write=True) as transaction:
                    transaction.drop(table, delete=False)
            else:
                _rot(environment, table)
    finally:
        environment.close()


def _tables(environment: "lmdb.Environment", part: str) -> list["lmdb._Database"]:
    """The log has one table without a name; the state has several, named in that one."""
    if part == "log":
        return [environment.open_db(None)]
    with environment.begin() as transaction:
        names = [bytes(name) for name, _ in transaction.cursor()]
    return [environment.open_db(name, create=False) for name in names]


def _rot(environment: "lmdb.Environment", table: "lmdb._Database") -> None:
    """Flips one bit in the last byte of every record: the checksums are those of before."""
    with environment.begin(write=True, db=table) as transaction:
        rotten = [(bytes(key), bytes(value)) for key, value in transaction.cursor()]
        for key, value in rotten:
            transaction.put(key, value[:-1] + bytes((value[-1] ^ 1,)))
