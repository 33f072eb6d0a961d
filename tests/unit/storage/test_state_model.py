"""The layered state against a dictionary, under everything that can happen to it."""

import shutil
import tempfile
from pathlib import Path
from typing import ClassVar
from unittest import mock

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from pbft.core.effects import Merge
from pbft.messages import StateRecord
from pbft.storage import layers, sorted_keys
from pbft.storage.api import StateBase
from pbft.storage.memory import MemoryBase
from pbft.storage.state import MergePlan
from pbft.types import Digest, SequenceNumber
from tests.unit.storage.builders import (
    BUCKETS,
    Disk,
    certificate,
    digest_from_scratch,
    install,
    merge,
    new_state,
    stored_records,
)

DOMAINS = st.sampled_from([1, 2])
KEYS = st.sampled_from(
    [b"", b"\x00", b"\x00\xff", b"a", b"a\x00", b"ab", b"b", b"\xff", b"\xff" * 9]
)
VERSIONS = st.integers(0, 4)
VALUES = st.sampled_from([b"", b"one", b"two", b"x" * 300])
ALL_BUCKETS = b"\xff" * (BUCKETS // 8)

Model = dict[tuple[int, bytes, int], bytes]


def digest_of_model(model: Model) -> Digest:
    return digest_from_scratch((*name, value) for name, value in model.items())


class StateMachine(RuleBasedStateMachine):
    """Random changes, checkpoints, merges (also with changes while they run), crashes,
    transfers."""

    on_disk: ClassVar[bool]

    @initialize()
    def begin(self) -> None:
        # Scans remember even a single removed key, and have to be right about it ever after.
        self.short_runs = mock.patch.object(layers, "RUN_KEYS_MIN", 1)
        self.short_runs.start()
        # And the keys of one layer lie in several lists.
        self.short_lists = mock.patch.object(sorted_keys, "RECENT_KEYS_MAX", 2)
        self.short_lists.start()
        self.directory = Path(tempfile.mkdtemp()) if self.on_disk else None
        self.disk = Disk.make(self.directory)
        self.base: StateBase = self.disk.open_base()
        self.state = new_state(self.base)
        self.model: Model = {}
        self.sequence: SequenceNumber = 0
        self.sealing: dict[SequenceNumber, tuple[Digest, Model]] = {}
        """Whose digest the state has still to compute."""
        self.sealed: dict[SequenceNumber, tuple[Digest, Model]] = {}
        self.durable: Model = {}
        self.plan: tuple[MergePlan, SequenceNumber] | None = None

    @rule(domain=DOMAINS, key=KEYS, version=VERSIONS, value=VALUES)
    def put(self, domain: int, key: bytes, version: int, value: bytes) -> None:
        self.state.domain(domain).put(key, version, value)
        self.model[domain, key, version] = value

    @rule(domain=DOMAINS, key=KEYS, version=VERSIONS)
    def delete(self, domain: int, key: bytes, version: int) -> None:
        if (domain, key, version) in self.model:
            self.state.domain(domain).delete(key, version)
            del self.model[domain, key, version]
        else:
            try:
                self.state.domain(domain).delete(key, version)
            except KeyError:
                return
            raise AssertionError("deleted what is not there")

    @rule(domain=DOMAINS, key=KEYS, value=VALUES)
    def replace(self, domain: int, key: bytes, value: bytes) -> None:
        """As a service does that keeps the latest version only."""
        records = self.state.domain(domain)
        found = records.get(key)
        version = 0 if found is None else found[0] + 1
        records.put(key, version, value)
        self.model[domain, key, version] = value
        if found is not None:
            records.delete(key, found[0])
            del self.model[domain, key, found[0]]

    @rule(domain=DOMAINS, key=KEYS, gap=st.integers(0, 2), value=VALUES)
    def supersede(self, domain: int, key: bytes, gap: int, value: bytes) -> None:
        """The same in one call, also in place."""
        records = self.state.domain(domain)
        found = records.get(key)
        version = gap if found is None else found[0] + gap
        records.supersede(key, found, version, value)
        if found is not None:
            del self.model[domain, key, found[0]]
        self.model[domain, key, version] = value

    @rule(domain=DOMAINS, key=KEYS)
    def get(self, domain: int, key: bytes) -> None:
        assert self.state.domain(domain).get(key) == self.latest(domain).get(key)

    def latest(self, domain: int) -> dict[bytes, tuple[int, bytes]]:
        found: dict[bytes, tuple[int, bytes]] = {}
        for (of, key, version), value in sorted(self.model.items()):
            if of == domain:
                found[key] = version, value
        return found

    @rule(domain=DOMAINS, start=KEYS, end=KEYS | st.none())
    def scan(self, domain: int, start: bytes, end: bytes | None) -> None:
        expected = [
            (key, *found)
            for key, found in sorted(self.latest(domain).items())
            if key >= start and (end is None or key < end)
        ]
        assert list(self.state.domain(domain).scan(start, end)) == expected

    @rule(domain=DOMAINS, start=KEYS)
    def delete_while_scanning(self, domain: int, start: bytes) -> None:
        records = self.state.domain(domain)
        expected = [
            (key, version)
            for key, (version, _) in sorted(self.latest(domain).items())
            if key >= start
        ]
        seen = []
        for key, version, _ in records.scan(start, None):
            seen.append((key, version))
            records.delete(key, version)
            del self.model[domain, key, version]
        assert seen == expected

    @rule(domain=DOMAINS, start=KEYS, replaced=KEYS, value=VALUES)
    def replace_while_scanning(
        self, domain: int, start: bytes, replaced: bytes, value: bytes
    ) -> None:
        """Also ahead of the scan, which is to yield what is there by then."""
        expected = sorted(key for key in self.latest(domain) if key >= start)
        seen = []
        for key, version, found in self.state.domain(domain).scan(start, None):
            seen.append(key)
            latest = self.latest(domain)
            assert latest[key] == (version, found)
            if replaced in latest:
                self.replace(domain, replaced, value)
        assert seen == expected

    @rule()
    def seal(self) -> None:
        self.sequence += 1
        self.state.seal(self.sequence)
        self.sealing[self.sequence] = digest_of_model(self.model), dict(self.model)

    @precondition(lambda self: self.sealing)
    @rule()
    def advance_seal(self) -> None:
        done = self.state.advance_seal()
        if done is not None:
            sequence, digest = done
            assert sequence == min(self.sealing)
            self.sealed[sequence] = self.sealing.pop(sequence)
            assert digest == self.sealed[sequence][0]

    @precondition(lambda self: self.sealed and self.plan is None)
    @rule(data=st.data())
    def begin_merge(self, data: st.DataObject) -> None:
        sequence = data.draw(st.sampled_from(sorted(self.sealed)))
        effect = Merge(sequence, self.sealed[sequence][0], certificate(sequence))
        self.plan = self.state.begin_merge(effect), sequence

    @precondition(lambda self: self.plan is not None)
    @rule()
    def finish_merge(self) -> None:
        assert self.plan is not None
        plan, sequence = self.plan
        self.plan = None
        plan.run()
        pinned = self.state.pin()
        assert pinned.sequence == sequence, "a pin reads the newest durable checkpoint"
        pinned.release()
        self.state.finish_merge(plan)
        digest, self.durable = self.sealed[sequence]
        assert self.state.durable_sequence == sequence
        assert self.state.durable_digest == digest
        self.sealed = {at: item for at, item in self.sealed.items() if at > sequence}

    @rule(ran=st.booleans())
    def crash(self, ran: bool) -> None:
        """Only what was merged remains; a merge may have reached the disk before."""
        if self.plan is not None and ran:
            plan, sequence = self.plan
            plan.run()
            self.durable = self.sealed[sequence][1]
        self.plan = None
        self.state.close()
        self.base.close()
        self.base = self.disk.open_base()
        self.state = new_state(self.base)
        self.model = dict(self.durable)
        self.sequence = self.state.durable_sequence
        self.sealed, self.sealing = {}, {}

    @precondition(lambda self: self.plan is None)
    @rule(changes=st.dictionaries(st.tuples(DOMAINS, KEYS, VERSIONS), VALUES, max_size=8))
    def install(self, changes: Model) -> None:
        """The state of another replica that is ahead, and different."""
        source = new_state(MemoryBase())
        target = {**dict(list(self.durable.items())[::2]), **changes}
        for (domain, key, version), value in target.items():
            source.domain(domain).put(key, version, value)
        self.sequence += 3
        merge(source, self.sequence)
        snapshot = source.pin()
        differing = self.state.stage(snapshot.leaves(), source.durable_digest)
        assert differing is not None
        cursor = b""
        while True:
            chunk = snapshot.chunk(differing, cursor)
            assert self.state.stage_records(chunk.records, differing)
            if not (cursor := chunk.cursor):
                break
        assert not any(self.state.staged(differing))
        install(self.state, self.sequence, source.durable_digest)
        self.model, self.durable = dict(target), target
        self.sealed, self.sealing = {}, {}
        assert not self.state.is_sealing, "nobody is to hear of the state before"
        assert self.state.digest == digest_of_model(target)

    @invariant()
    def the_durable_checkpoint_is_what_it_was(self) -> None:
        records = {
            (record.domain, record.key, record.version): record.value
            for record in stored_records(self.base.view)
        }
        assert records == self.durable

    def teardown(self) -> None:
        if not hasattr(self, "state"):
            return
        if self.plan is not None:
            self.finish_merge()
        while self.state.is_sealing:
            self.advance_seal()
        merge(self.state, self.sequence + 1)
        self.durable = dict(self.model)
        self.the_durable_checkpoint_is_what_it_was()
        pinned = self.state.pin()
        records = [StateRecord(*name, value) for name, value in sorted(self.model.items())]
        assert sorted(pinned.chunk(ALL_BUCKETS, b"").records) == records
        self.state.close()
        self.base.close()
        self.short_runs.stop()
        self.short_lists.stop()
        if self.directory is not None:
            shutil.rmtree(self.directory)


class InMemory(StateMachine):
    on_disk = False


class OnDisk(StateMachine):
    on_disk = True


TestInMemory = InMemory.TestCase
TestInMemory.settings = settings(
    max_examples=80,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
TestOnDisk = OnDisk.TestCase
TestOnDisk.settings = settings(
    max_examples=15,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
