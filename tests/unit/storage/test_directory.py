"""A data directory belongs to one replica of one cluster, and to one process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import lmdb
import pytest

from pbft.core.effects import Persist
from pbft.errors import ConfigurationError
from pbft.storage import directory
from pbft.storage.api import StorageCorrupt
from pbft.storage.checksum import protect
from pbft.storage.inspection import inspect
from pbft.storage.lmdb_base import INSTALLING
from tests.unit.storage.builders import MAP_BYTES, accepted, digest_of, merge, new_state

ROOT = Path(__file__).resolve().parents[3]
CLUSTER = digest_of("cluster")


def opened(path: Path, cluster: bytes = CLUSTER, replica: int = 2) -> directory.Storage:
    return directory.open(path, cluster, replica, state_map_bytes=MAP_BYTES)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A data directory that was just made."""
    made = tmp_path / "some" / "data"
    directory.create(made, CLUSTER, 2)
    return made


def test_what_was_written_is_there_after_a_restart(path: Path) -> None:
    storage = opened(path)
    storage.log.write([Persist(accepted(0, 1))])
    state = new_state(storage.base)
    state.domain(1).put(b"key", 1, b"value")
    merge(state, 64)
    storage.close()
    storage = opened(path)
    assert storage.log.load().accepted == (accepted(0, 1),)
    assert new_state(storage.base).domain(1).get(b"key") == (1, b"value")
    storage.close()


def test_only_the_owner_may_look_into_it(path: Path) -> None:
    storage = opened(path)
    storage.close()
    for inside in (path, *path.rglob("*")):
        assert inside.stat().st_mode & 0o077 == 0, inside


def test_a_missing_directory_is_never_made_on_the_way(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="run pbft storage init"):
        opened(tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()
    with pytest.raises(ConfigurationError, match="run pbft storage init"):
        opened(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("part", ["log", "state"])
def test_a_lost_part_is_not_replaced_by_an_empty_one(path: Path, part: str) -> None:
    for file in (path / part).iterdir():
        file.unlink()
    (path / part).rmdir()
    with pytest.raises(StorageCorrupt, match=f"{part}/data.mdb is missing"):
        opened(path)
    assert not (path / part).exists()


@pytest.mark.parametrize(("part", "name"), [("log", "the vote log"), ("state", "the state")])
def test_a_lost_file_is_not_replaced_by_an_empty_one(path: Path, part: str, name: str) -> None:
    file = path / part / "data.mdb"
    file.unlink()
    with pytest.raises(StorageCorrupt, match=f"{part}/data.mdb is missing"):
        opened(path)
    assert inspect(path).corruption == [f"{name}: {file} is missing"]
    assert not file.exists()


def test_a_file_is_not_a_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="is not a directory"):
        opened(tmp_path / "file")
    with pytest.raises(ConfigurationError, match="cannot be made"):
        directory.create(tmp_path / "file", CLUSTER, 2)


def test_another_cluster_or_replica_is_refused(path: Path) -> None:
    with pytest.raises(ConfigurationError, match="belongs to the cluster"):
        opened(path, cluster=digest_of("another"))
    with pytest.raises(ConfigurationError, match="belongs to replica 2, not to replica 3"):
        opened(path, replica=3)
    opened(path).close()


def test_another_format_is_refused(path: Path) -> None:
    file = path / "identity.json"
    identity = json.loads(file.read_text())
    for text, complaint in (
        (json.dumps({**identity, "format": 2}), "format 1"),
        ("[]", "cannot be read"),
        ("not json", "cannot be read"),
    ):
        file.write_text(text)
        with pytest.raises(ConfigurationError, match=complaint):
            opened(path)


def test_a_directory_is_made_once(path: Path, tmp_path: Path) -> None:
    before = (path / "identity.json").read_bytes()
    with pytest.raises(ConfigurationError, match="not empty"):
        directory.create(path, CLUSTER, 3)
    assert (path / "identity.json").read_bytes() == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("")
    with pytest.raises(ConfigurationError, match="not empty"):
        directory.create(tmp_path / "mine", CLUSTER, 3)


def test_an_unfinished_directory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(directory, "_write_identity", full)
    with pytest.raises(ConfigurationError, match="No space left"):
        directory.create(tmp_path / "data", CLUSTER, 2)
    with pytest.raises(ConfigurationError, match="run pbft storage init"):
        opened(tmp_path / "data")


HOLD = """
import sys
from pathlib import Path
from pbft.storage import directory
storage = directory.open(Path(sys.argv[1]), bytes.fromhex(sys.argv[2]), 2)
print("open", flush=True)
sys.stdin.read()
"""


def test_a_second_process_is_refused_until_the_first_is_gone(path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path), CLUSTER.hex()],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert holder.stdin is not None
    assert holder.stdout is not None
    try:
        assert holder.stdout.readline() == "open\n"
        with pytest.raises(ConfigurationError, match="in use by another process"):
            opened(path)
    finally:
        holder.kill()
        holder.wait()
        holder.stdin.close()
        holder.stdout.close()
    opened(path).close()


def test_a_refused_start_gives_the_lock_back(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(directory, "STATE", "elsewhere")
        with pytest.raises(StorageCorrupt, match="is missing"):
            opened(path)
    opened(path).close()


def test_a_read_only_directory_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def refusing(name: Path, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_RDWR:
            raise OSError(30, "Read-only file system", str(name))
        return real(name, flags, mode)

    monkeypatch.setattr(os, "open", refusing)
    with pytest.raises(ConfigurationError, match=r"cannot be written.*Read-only"):
        opened(path)


def test_a_file_that_is_no_longer_a_database_is_corruption(path: Path) -> None:
    (path / "log" / "data.mdb").write_bytes(os.urandom(1 << 16))
    with pytest.raises(StorageCorrupt, match="damaged"):
        opened(path)
    with pytest.raises(lmdb.Error):
        lmdb.open(str(path / "log"), create=False)


def test_what_was_half_installed_is_not_used(path: Path) -> None:
    """Here what was to be installed is gone, too."""
    with lmdb.open(str(path / "state"), max_dbs=3) as environment:
        checkpoint = environment.open_db(b"checkpoint")
        with environment.begin(write=True) as transaction:
            transaction.put(INSTALLING, protect(INSTALLING, b""), db=checkpoint)
    for _ in range(2):
        with pytest.raises(StorageCorrupt, match="half installed"):
            opened(path)
