"""One key, every short history: chains of replacements that other changes break into (changes.py,
layers.py)."""

from itertools import product

import pytest

from pbft.storage import changes
from pbft.storage.layers import DomainRecords
from pbft.storage.memory import MemoryBase
from pbft.storage.state import LayeredState
from pbft.types import Digest
from tests.unit.storage.builders import digest_from_scratch, merge, new_state, stored_records

DOMAIN, KEY = 1, b"k"
STEPS = ("next", "same", "beside", "drop", "drop lowest", "close", "advance", "seal")
Model = dict[int, bytes]


class History:
    """The state under test beside the versions that must be there."""

    def __init__(self, born: str) -> None:
        self.state: LayeredState = new_state(MemoryBase())
        self.model: Model = {}
        self.sequence = 0
        self.expected: dict[int, Digest] = {}
        """Of the layers closed whose digest is not computed yet."""
        self.writes = 0
        if born != "never":
            self.supersede(1)
        if born in ("sealed", "merged"):
            self.seal()
        if born == "merged":
            merge(self.state, self.sequence + 1)
            self.sequence += 1

    @property
    def records(self) -> DomainRecords:
        return self.state.domain(DOMAIN)

    def value(self) -> bytes:
        self.writes += 1
        return b"%d" % self.writes

    def supersede(self, gap: int) -> None:
        current = self.records.get(KEY)
        assert current == max(self.model.items(), default=None)
        value = self.value()
        version = gap + (current[0] if current else 0)
        self.records.supersede(KEY, current, version, value)
        if current is not None:
            del self.model[current[0]]
        self.model[version] = value

    def put_beside(self) -> None:
        version, value = max(self.model, default=0) + 1, self.value()
        self.records.put(KEY, version, value)
        self.model[version] = value

    def drop(self, version: int | None) -> None:
        if version is not None:
            self.records.delete(KEY, version)
            del self.model[version]

    def close(self) -> None:
        """Seals the layer; its digest may be computed after further changes."""
        self.sequence += 1
        self.expected[self.sequence] = digest_from_scratch(
            (DOMAIN, KEY, *record) for record in self.model.items()
        )
        self.state.seal(self.sequence)

    def advance(self) -> None:
        if self.state.is_sealing and (sealed := self.state.advance_seal()) is not None:
            assert sealed[1] == self.expected.pop(sealed[0])

    def seal(self) -> None:
        self.close()
        while self.expected:
            self.advance()

    def take(self, step: str) -> None:
        match step:
            case "next":
                self.supersede(1)
            case "same":
                self.supersede(0)
            case "beside":
                self.put_beside()
            case "drop":
                self.drop(max(self.model, default=None))
            case "drop lowest":
                self.drop(min(self.model, default=None))
            case "close":
                self.close()
            case "advance":
                self.advance()
            case "seal":
                self.seal()

    def check(self) -> None:
        assert self.records.get(KEY) == max(self.model.items(), default=None)
        self.seal()
        merge(self.state, self.sequence + 1)
        stored = [(r.version, r.value) for r in stored_records(self.state._base.view)]
        assert sorted(stored) == sorted(self.model.items())


@pytest.mark.parametrize("relief", [1 << 30, 1], ids=["at rest", "under pressure"])
@pytest.mark.parametrize("born", ["never", "open", "sealed", "merged"])
def test_every_short_history_of_a_key(
    born: str, relief: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under pressure every change is hashed at once, or what was sealed before is."""
    monkeypatch.setattr(changes, "UNHASHED_MAX", relief)
    monkeypatch.setattr(changes, "RELIEF_STEP", 0)
    for steps in product(STEPS, repeat=4):
        history = History(born)
        try:
            for step in steps:
                history.take(step)
            history.check()
        except Exception as error:
            error.add_note(f"history: {born}, {', '.join(steps)}")
            raise
