"""I9: what leaves before its record is synced is seen (pbft.sim.write_ahead)."""

from types import SimpleNamespace
from typing import Any

import pytest

from pbft.core.effects import Broadcast, LogRecord, Persist, Send
from pbft.crypto.verifier import Decoders
from pbft.messages import (
    Checkpoint,
    Commit,
    NewView,
    Prepare,
    PrePrepare,
    Proposal,
    Signed,
    SignedMessage,
    Status,
    ViewChange,
)
from pbft.sim import world as world_module
from pbft.sim.disk import Outbox
from pbft.sim.invariants import Violation
from pbft.sim.runner import run_scenario
from pbft.sim.virtual_log import CrashableLog, VirtualLog
from pbft.sim.write_ahead import WriteAhead
from pbft.storage.memory import MemoryLog
from tests.harness.core_forge import Forge
from tests.simulation.test_watching import SCENARIO
from tests.unit.storage.builders import accepted, decided, new_view, prepared, view_change

A = b"a" * 32
ME = 1
FORGE = Forge()

CASES: list[tuple[SignedMessage, list[LogRecord]]] = [
    (PrePrepare(0, 9, A), [accepted(0, 9)]),
    (Prepare(0, 9, A), [accepted(0, 9)]),
    (Prepare(2, 9, A), [accepted(2, 9), new_view(2)]),
    (Commit(0, 9, A), [prepared(0, 9)]),
    (Commit(2, 9, A), [prepared(2, 9), new_view(2)]),
    (Commit(0, 9, A), [decided(9)]),
    (Checkpoint(9, A), [decided(9)]),
    (ViewChange(3, ME, 0, 0, (), ()), [view_change(3)]),
    (NewView(3, (), ()), [new_view(3)]),
]


def says(message: SignedMessage, log: CrashableLog, settled: int = 0) -> None:
    """Replica 1 sends it, with this disk."""
    node: Any = SimpleNamespace(
        place=ME,
        log=log,
        state=SimpleNamespace(durable_sequence=settled),
        world=SimpleNamespace(decoders=Decoders()),
    )
    WriteAhead().check(node, Broadcast(FORGE.sign(ME, message)))


def persist(*records: LogRecord) -> list[Any]:
    return [Persist(record) for record in records]


@pytest.mark.parametrize("make_log", [MemoryLog, VirtualLog])
@pytest.mark.parametrize(("message", "records"), CASES)
def test_each_record_has_to_be_synced(
    message: SignedMessage, records: list[LogRecord], make_log: type[CrashableLog]
) -> None:
    for missing in range(len(records)):
        log = make_log()
        others = records[:missing] + records[missing + 1 :]
        log.sync(log.append(persist(*others)))
        with pytest.raises(Violation, match="I9"):
            says(message, log)
        position = log.append(persist(records[missing]))
        with pytest.raises(Violation, match="I9"):
            says(message, log)
        log.sync(position)
        says(message, log)


@pytest.mark.parametrize(
    "records",
    [[accepted(1, 9), new_view(2)], [accepted(2, 8), new_view(2)], [accepted(2, 9), new_view(1)]],
)
def test_the_record_of_another_slot_or_view_will_not_do(records: list[LogRecord]) -> None:
    log = MemoryLog()
    log.write(persist(*records))
    with pytest.raises(Violation, match="I9"):
        says(Prepare(2, 9, A), log)


def test_what_the_durable_state_settles_needs_no_record() -> None:
    says(Prepare(2, 9, A), MemoryLog(), settled=9)
    says(Checkpoint(9, A), MemoryLog(), settled=9)
    with pytest.raises(Violation, match="I9"):
        says(Prepare(0, 10, A), MemoryLog(), settled=9)


def test_a_proposal_is_looked_into_and_what_others_signed_is_not() -> None:
    node: Any = SimpleNamespace(
        place=ME,
        log=MemoryLog(),
        state=SimpleNamespace(durable_sequence=0),
        world=SimpleNamespace(decoders=Decoders()),
    )

    def pre_prepare(signer: int) -> Signed:
        return FORGE.sign(signer, PrePrepare(0, 9, A))

    WriteAhead().check(node, Send(2, Proposal(pre_prepare(0), b"")))
    with pytest.raises(Violation, match="I9"):
        WriteAhead().check(node, Send(2, Proposal(pre_prepare(ME), b"")))
    WriteAhead().check(node, Broadcast(FORGE.status(ME)))
    assert isinstance(Decoders().message(FORGE.status(ME).kind, FORGE.status(ME).payload), Status)


def test_a_run_in_which_nothing_waits_for_the_disk_is_seen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    perform = Outbox.perform

    def hurry(outbox: Outbox, effects: list[Any]) -> None:
        perform(outbox, [e for e in effects if not isinstance(e, Persist)])
        perform(outbox, [e for e in effects if isinstance(e, Persist)])

    monkeypatch.setattr(Outbox, "perform", hurry)
    assert run_scenario(SCENARIO).invariant == "I9"
    monkeypatch.setattr(world_module.WriteAhead, "check", lambda *_: None)
    assert run_scenario(SCENARIO).invariant is None
