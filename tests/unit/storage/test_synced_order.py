"""What others rest on is durable before them (protocol.md sections 9 and 10)."""

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from pbft.core.effects import Install
from pbft.storage import directory
from pbft.storage.lmdb_base import INSTALLING, LmdbBase
from pbft.storage.stage_store import LmdbStageStore
from tests.unit.storage.builders import Disk, certificate, digest_of, merge, new_state


def on_sync(monkeypatch: pytest.MonkeyPatch, note: Callable[[Path], None]) -> None:
    """From now on `note` is told each file and each directory that was synced."""
    fsync = os.fsync

    def told(descriptor: int) -> None:
        fsync(descriptor)
        note(Path(os.readlink(f"/proc/self/fd/{descriptor}")))

    monkeypatch.setattr(os, "fsync", told)


def content(path: Path) -> object:
    return path.read_bytes() if path.is_file() else sorted(os.listdir(path))


def test_a_new_data_directory_is_synced_with_all_that_is_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[tuple[Path, object]] = []
    on_sync(monkeypatch, lambda path: synced.append((path, content(path))))
    path = tmp_path / "data"
    directory.create(path, digest_of("cluster"), 2)
    paths = (path / "identity.json", path / "log", path / "state", path, tmp_path)
    assert synced == [(one, content(one)) for one in paths]


def test_an_installation_is_marked_when_what_it_installs_is_durable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the mark there is no way back: the rest of the state is in the stage only."""
    base = Disk.make(tmp_path).open_base()
    assert isinstance(base, LmdbBase)
    target, source = new_state(base), new_state(Disk.make(None).open_base())
    source.domain(1).put(b"key", 0, b"value")
    merge(source, 64)
    assert target.stage(source.pin().leaves(), source.durable_digest) is not None
    assert target.stage_records(source.pin().chunk(b"\xff\xff", b"").records, b"\xff\xff")
    plan = target.begin_install(Install(64, source.durable_digest, certificate(64)))
    assert isinstance(plan.stage.store, LmdbStageStore)
    environment = plan.stage.store._environment
    synced: list[object] = []

    def note(what: object) -> None:
        with base._environment.begin() as transaction:
            assert transaction.get(INSTALLING, db=base._checkpoint) is None
        synced.append(what)

    def sync(force: bool) -> None:
        environment.sync(force)
        note((force, environment.info()["last_txnid"]))

    def close() -> None:
        synced.append(environment.info()["last_txnid"])
        environment.close()

    recorded = SimpleNamespace(begin=environment.begin, sync=sync, close=close)
    monkeypatch.setattr(plan.stage.store, "_environment", recorded)
    on_sync(monkeypatch, note)
    plan.run()
    *before, written = synced
    assert before == [(True, written), tmp_path / "state" / "stage", tmp_path / "state"]
    target.finish_install(plan)
    assert target.digest == source.digest
    target.close()
    base.close()
