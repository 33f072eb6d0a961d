"""Faults at run time: who may command, what a command is, and when it is carried out."""

import asyncio
import http.client
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from random import Random
from typing import Any

import lmdb
import pytest

from pbft.core.effects import Event, EventName
from pbft.errors import ConfigurationError
from pbft.faults.api import Behaviour, Corruption
from pbft.node import disk_faults
from pbft.node import faults as faults_module
from pbft.node.admin import AdminListener
from pbft.node.event_stream import EventStream
from pbft.node.faults import CorruptState, FaultBoard, FaultDesk
from pbft.node.metrics import Metrics
from pbft.storage import directory
from pbft.storage.api import StorageCorrupt
from pbft.storage.memory import MemoryBase
from pbft.storage.state import LayeredState
from tests.unit.faults.test_behaviours import GENESIS, NOW, SIGNERS
from tests.unit.node.test_observability import board as status_board
from tests.unit.storage.builders import seal

SILENT = {"action": "set", "behaviour": "silent"}


def fault_board(data: Path, allowed: bool = True) -> FaultBoard:
    return FaultBoard(0, GENESIS, SIGNERS[0], data, allowed)


@contextmanager
def running_loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@contextmanager
def listening(board: FaultBoard) -> Iterator[Callable[..., tuple[int, dict[str, Any]]]]:
    """An admin listener over HTTP, and a function that posts to it."""
    with running_loop() as loop:
        registry = Metrics(0, "1").registry
        desk = FaultDesk(board, loop)
        listener = AdminListener(
            "127.0.0.1", 0, status_board(), registry, EventStream(0), faults=desk
        )

        def post(
            document: object, path: str = "/faults", kind: str = "application/json"
        ) -> tuple[int, dict[str, Any]]:
            connection = http.client.HTTPConnection("127.0.0.1", listener.port, timeout=60)
            try:
                method = "GET" if document is None else "POST"
                body = None if document is None else json.dumps(document)
                connection.request(method, path, body, {"Content-Type": kind})
                answer = connection.getresponse()
                told = answer.read()
                is_json = answer.headers["Content-Type"] == "application/json"
                return answer.status, json.loads(told) if is_json else {}
            finally:
                connection.close()

        try:
            yield post
        finally:
            listener.close()


def test_a_fault_is_set_listed_and_cleared(tmp_path: Path) -> None:
    board = fault_board(tmp_path)
    told: list[Behaviour | None] = []
    threads: list[int] = []

    def on_change(behaviour: Behaviour | None) -> None:
        told.append(behaviour)
        threads.append(threading.get_ident())

    board.on_change = on_change
    with listening(board) as post:
        code, report = post({**SILENT, "options": {"share": "50"}})
        assert code == 200
        silent = {"behaviour": "silent", "options": {"share": "50"}, "acted": 0, "when": "now"}
        assert report == {"replica": 0, "allowed": True, "faults": [silent]}
        assert post(None) == (200, report)
        delay = {"action": "set", "behaviour": "delay", "options": {"ms": "5"}}
        assert len(post(delay)[1]["faults"]) == 2
        assert told[-1] is not None and told[-1].name == "silent+delay"
        assert post({"action": "clear", "behaviour": "silent"})[0] == 200
        assert post({"action": "clear"})[1]["faults"] == []
    assert told[-1] is None
    assert len(set(threads)) == 1 and threads[0] != threading.get_ident()


def test_who_does_not_allow_it_refuses(tmp_path: Path) -> None:
    board = fault_board(tmp_path, allowed=False)
    with listening(board) as post:
        code, answer = post(SILENT)
        assert code == HTTPStatus.FORBIDDEN
        assert "--allow-fault-injection" in answer["error"]
        assert post(None)[1] == {"replica": 0, "allowed": False, "faults": []}
    assert board.behaviour is None


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ([], "action, behaviour"),
        ({"action": "set", "behaviour": "silent", "more": 1}, "action, behaviour"),
        ({"action": "do", "behaviour": "silent"}, "set or clear"),
        ({"action": "set"}, "a name"),
        ({"action": "clear", "behaviour": 7}, "a name"),
        ({**SILENT, "options": {"share": 5}}, "texts"),
        ({**SILENT, "options": ["share"]}, "texts"),
        ({**SILENT, "options": {"share": "0"}}, "1 to 100"),
        ({"action": "set", "behaviour": "nonsense"}, "known are amnesia, bad-signature"),
        ({"action": "set", "behaviour": "corrupt-state"}, "only while the replica runs"),
        ({"action": "clear", "behaviour": "silent"}, "not in force"),
        ({"action": "set", "behaviour": "amnesia", "options": {"all": "1"}}, "unknown option"),
    ],
)
def test_what_is_no_command_is_refused(tmp_path: Path, command: object, says: str) -> None:
    board = fault_board(tmp_path)
    with listening(board) as post:
        code, answer = post(command)
        assert code == HTTPStatus.BAD_REQUEST
        assert says in answer["error"]
    assert board.names() == []


def test_only_json_for_faults_is_read(tmp_path: Path) -> None:
    board = fault_board(tmp_path)
    with listening(board) as post:
        # What a page in a browser could send to another site.
        assert post(SILENT, kind="text/plain")[0] == HTTPStatus.UNSUPPORTED_MEDIA_TYPE
        assert post(SILENT, path="/status")[0] == HTTPStatus.NOT_FOUND
        huge = {"action": "x" * (faults_module.BODY_BYTES_MAX + 1)}
        assert post(huge)[0] == HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    assert board.names() == []


def test_a_command_that_was_given_up_never_happens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faults_module, "ANSWER_SECONDS", 0.05)
    board = fault_board(tmp_path)
    with running_loop() as loop:
        free = threading.Event()
        loop.call_soon_threadsafe(free.wait)
        code, answer = FaultDesk(board, loop).command(json.dumps(SILENT).encode())
        assert code == HTTPStatus.SERVICE_UNAVAILABLE
        assert "event loop" in answer["error"]
        free.set()
    assert board.names() == []


def test_a_corrupt_state_has_another_digest_until_it_is_repaired() -> None:
    def filled() -> LayeredState:
        state = LayeredState(MemoryBase(), 8, 1)
        for number in range(3):
            state.domain(16).put(b"key%d" % number, 1, b"value")
        return state

    honest, corrupt = filled(), filled()
    corruption = Corruption(0, GENESIS, SIGNERS[0], Random(1))
    behaviour = CorruptState(corruption, corrupt.domain(16))
    assert behaviour.acted == 3
    assert corrupt.domain(16).get(b"key0") == (1, b"valud")
    assert seal(honest, 64) != seal(corrupt, 64)
    started = Event(EventName.STATE_TRANSFER_STARTED, 0, 64)
    assert behaviour.rewrite([started], NOW) == [started] and not behaviour.is_repaired
    behaviour.rewrite([Event(EventName.STATE_TRANSFER_FINISHED, 0, 64)], NOW)
    assert behaviour.is_repaired
    with pytest.raises(ConfigurationError, match="empty"):
        CorruptState(corruption, LayeredState(MemoryBase(), 8, 1).domain(16))


def test_a_repaired_state_is_no_fault_any_more(tmp_path: Path) -> None:
    board = fault_board(tmp_path)
    state = LayeredState(MemoryBase(), 8, 1)
    state.domain(16).put(b"key", 1, b"value")
    board.records = state.domain(16)
    board.set("corrupt-state", {})
    assert board.names() == ["corrupt-state"]
    assert board.behaviour is not None
    board.behaviour.rewrite([Event(EventName.STATE_TRANSFER_FINISHED, 0, 64)], NOW)
    assert board.names() == []


def data_directory(tmp_path: Path) -> Path:
    data = tmp_path / "data"
    directory.create(data, GENESIS.cluster_id, 0)
    with lmdb.open(str(data / "log")) as environment, environment.begin(write=True) as transaction:
        transaction.put(b"r", b"sixteen bytes ...")
    return data


def log_of(data: Path) -> dict[bytes, bytes]:
    with lmdb.open(str(data / "log")) as environment, environment.begin() as transaction:
        return {bytes(key): bytes(value) for key, value in transaction.cursor()}


def test_a_fault_of_the_disk_waits_for_the_next_start(tmp_path: Path) -> None:
    data = data_directory(tmp_path)
    running = fault_board(data)
    running.set("amnesia", {})
    assert running.names() == ["amnesia"]
    assert running.report()["faults"][0]["when"] == "next start"
    assert log_of(data) != {}
    with pytest.raises(ConfigurationError, match="does not allow faults"):
        fault_board(data, allowed=False).begin()
    assert log_of(data) != {}
    started = fault_board(data)
    assert started.begin() == ["amnesia"]
    assert log_of(data) == {}
    assert started.names() == []
    assert fault_board(data, allowed=False).begin() == []


def test_a_fault_of_the_disk_can_be_taken_back(tmp_path: Path) -> None:
    data = data_directory(tmp_path)
    running = fault_board(data)
    running.set("amnesia", {"part": "state"})
    assert running.clear("amnesia") == ["amnesia"]
    assert fault_board(data).begin() == []
    assert disk_faults.noted(data) == {}


def test_rot_is_found_when_the_log_is_read(tmp_path: Path) -> None:
    data = data_directory(tmp_path)
    board = fault_board(data)
    board.take(("corrupt-disk:part=log", "silent"))
    assert board.names() == ["silent"]
    before = log_of(data)
    assert board.begin() == ["corrupt-disk"]
    (after,) = log_of(data).values()
    assert after == before[b"r"][:-1] + bytes((before[b"r"][-1] ^ 1,))
    storage = directory.open(data, GENESIS.cluster_id, 0)
    try:
        with pytest.raises(StorageCorrupt, match="fails its checksum"):
            storage.log.load()
    finally:
        storage.close()


def test_a_damaged_note_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "faults-at-start.json").write_text('{"silent": {}}')
    with pytest.raises(ConfigurationError, match="remove it"):
        fault_board(tmp_path).begin()
