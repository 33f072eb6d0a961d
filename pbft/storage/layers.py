"""The records of one domain as a service sees them: the durable checkpoint under the changes in
memory."""

import heapq
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from itertools import groupby
from typing import TypeAlias

from pbft.storage.api import BaseView
from pbft.storage.changes import (
    NO_VERSION,
    UNIT_BYTES,
    UNTOUCHED,
    DomainChanges,
    Latest,
    Layer,
    SealedLayer,
)
from pbft.storage.dead_runs import AFTER_ALL_KEYS, RUN_KEYS_MIN, DeadRuns, within_keys
from pbft.storage.ordered import is_storable
from pbft.types import UINT64_MAX

Item: TypeAlias = tuple[bytes, int, bytes]
"""key, version, value"""


class DomainRecords:
    """The Records port over the layers and the durable checkpoint.

    Not for several threads. A scan may be continued after `put` of an existing key and after
    `delete`; what it yields is then as of that moment. After a `put` of a key that had no record,
    continuing it raises RuntimeError: whether the scan would find the new key may differ between
    replicas.
    """

    def __init__(self, domain: int, relieve: Callable[[], None]) -> None:
        """`relieve` is called when much is to be hashed: it takes some of it off."""
        self._domain = domain
        self._relieve = relieve
        self._births = 0
        """How often a key without records got one."""
        self._dead = DeadRuns()

    def bind(
        self,
        view: BaseView,
        open_layer: Layer,
        sealed: Sequence[SealedLayer],
        merged: Sequence[SealedLayer],
    ) -> None:
        """Tells where the records are from now on: `sealed` ascends by sequence, and so does
        `merged`, which the view holds too: what changed lately is looked for there first."""
        self._view = view
        self._open = open_layer.domain(self._domain)
        below = (item.layer.domains.get(self._domain) for item in reversed(sealed))
        self._below = [changes for changes in below if changes is not None]
        self._layers = [self._open, *self._below]
        self._latest = [changes.latest for changes in self._layers]
        self._known = [*self._latest, *self._latest_of(merged)]
        self._stored_key: bytes | None = None
        self._stored: Latest | None = None

    def _latest_of(self, layers: Sequence[SealedLayer]) -> Iterator[Mapping[bytes, Latest | None]]:
        for item in reversed(layers):
            if (changes := item.layer.domains.get(self._domain)) is not None:
                yield changes.latest

    def forget_dead_runs(self) -> None:
        """To be called when removed keys were merged, or the state was replaced."""
        self._dead.clear()

    def get(self, key: bytes) -> Latest | None:
        """See Records.get."""
        for latest in self._known:
            if (found := latest.get(key, UNTOUCHED)) is not UNTOUCHED:
                return found
        return self._latest_stored(key)

    def _latest_stored(self, key: bytes) -> Latest | None:
        """The highest version in the durable checkpoint. The last answer is remembered: to replace
        a record takes several looks at it."""
        if key != self._stored_key:
            self._stored = self._view.latest(self._domain, key)
            self._stored_key = key
        return self._stored

    def put(self, key: bytes, version: int, value: bytes) -> None:
        """See Records.put. Raises ValueError for a record that cannot be stored (`is_storable`)."""
        current = self.get(key)
        if current is None or version == current[0]:
            self.supersede(key, current, version, value)
            return
        self._require_storable(key, version)
        versions = self._open.spell_out(key)
        old = None if version > current[0] else self._value(self._layers, key, version)
        if version > current[0]:
            self._open.set_latest(key, (version, value))
        versions[version] = value
        self._note(key, version, old, len(value))

    def supersede(self, key: bytes, current: Latest | None, version: int, value: bytes) -> None:
        """See Records.supersede. Raises ValueError for a record that cannot be stored."""
        opened = self._open
        if opened.versions and key in opened.versions:
            self._supersede_spelled_out(key, current, version, value)
            return
        if current is None:
            self._require_storable(key, version)
            self._on_birth(key)
        elif not current[0] <= version <= UINT64_MAX:
            raise ValueError(f"version {version} cannot take the place of {current[0]}")
        size = len(value)
        if key not in opened.found:
            opened.found[key] = current
            if key not in opened.latest:
                opened.keys.add(key)
                opened.replaced[key] = NO_VERSION if current is None else current[0]
            size += UNIT_BYTES if current is None else UNIT_BYTES + len(current[1])
        opened.latest[key] = (version, value)
        opened.unhashed += size // UNIT_BYTES
        if opened.unhashed >= opened.relief_at:
            self._relieve()
            opened.put_off_relief()

    def _supersede_spelled_out(
        self, key: bytes, current: Latest | None, version: int, value: bytes
    ) -> None:
        """The same for a key whose records are kept one by one in the open layer."""
        if current is not None and version < current[0]:
            raise ValueError(f"version {version} cannot take the place of {current[0]}")
        self._require_storable(key, version)
        old = None
        if current is None:
            self._on_birth(key)
        elif version == current[0]:
            old = current[1]
        else:
            self.delete(key, current[0])
        self._open.versions[key][version] = value
        self._open.set_latest(key, (version, value))
        self._note(key, version, old, len(value))

    def delete(self, key: bytes, version: int) -> None:
        """See Records.delete. Raises KeyError if there is no such record."""
        current = self.get(key)
        is_latest = current is not None and current[0] == version
        old = current[1] if current and is_latest else self._value(self._layers, key, version)
        if old is None:
            raise KeyError((key, version))
        versions = self._open.spell_out(key)
        if version in versions and self._value(self._below, key, version) is None:
            # It came and went within this layer: a key overwritten all the time leaves no trail.
            del versions[version]
        else:
            versions[version] = None
        if is_latest:
            self._open.set_latest(key, self._older(key, version))
        if not self._open.forget_newborn(key, version):
            self._note(key, version, old, 0)

    def scan(self, start: bytes, end: bytes | None) -> Iterator[tuple[bytes, int, bytes]]:
        """See Records.scan, and the class on changes meanwhile. Valid until the next checkpoint."""
        start, end = within_keys(start), None if end is None else within_keys(end)
        births, at, stop = self._births, start, AFTER_ALL_KEYS if end is None else end
        while at < stop:
            at = yield from self._scan_to_dead_run(self._dead.past(at), end, births)

    def _scan_to_dead_run(
        self, start: bytes, end: bytes | None, births: int
    ) -> Generator[Item, None, bytes]:
        """Scans until a key lies in a run that is known to be dead; returns the end of the run, or
        of all. Longer stretches of removed keys that it comes by are runs from then on."""
        dead, dead_from = 0, start
        changed = heapq.merge(*(changes.keys.between(start, end) for changes in self._layers))
        stored = self._view.scan(self._domain, start, end)
        for key, item in _aligned(stored, (key for key, _ in groupby(changed))):
            found = self._changed(key)
            if found is None:
                dead += 1
                # To begin anew costs as much as so many: only then is there something to win.
                if dead >= RUN_KEYS_MIN and (past := self._dead.past(key)) != key:
                    self._dead.add(dead_from, past)
                    return past
                continue
            if dead >= RUN_KEYS_MIN:
                self._dead.add(dead_from, key)
            if found is UNTOUCHED:
                assert item is not None
                yield item
            else:
                yield key, found[0], found[1]
            if self._births != births:
                raise RuntimeError("a key was added to the domain during a scan")
            dead, dead_from = 0, key + b"\x00"
        stop = AFTER_ALL_KEYS if end is None else end
        if dead >= RUN_KEYS_MIN:
            self._dead.add(dead_from, stop)
        return stop

    def _changed(self, key: bytes) -> Latest | None:
        for latest in self._latest:
            found = latest.get(key, UNTOUCHED)
            if found is not UNTOUCHED:
                return found
        return UNTOUCHED

    def _value(self, layers: list[DomainChanges], key: bytes, version: int) -> bytes | None:
        """The value of one record as of the first of these layers."""
        for changes in layers:
            changed = changes.changed(key)
            if version in changed:
                return changed[version]
        stored = self._latest_stored(key)
        if stored is None or stored[0] < version:
            return None
        return stored[1] if stored[0] == version else self._view.value(self._domain, key, version)

    def _older(self, key: bytes, version: int) -> Latest | None:
        """The highest version below `version`."""
        if version == 0:
            return None
        changed: dict[int, bytes | None] = {}
        for changes in self._layers:
            for number, value in changes.changed(key).items():
                if number < version:
                    changed.setdefault(number, value)
        kept = [(number, value) for number, value in changed.items() if value is not None]
        best = max(kept, default=None)
        for number, value in self._view.older(self._domain, key, version):
            if best is not None and number < best[0]:
                break
            if number not in changed:
                return number, value
        return best

    def _on_birth(self, key: bytes) -> None:
        self._births += 1
        self._dead.on_birth(key)

    def _note(self, key: bytes, version: int, old: bytes | None, size: int) -> None:
        opened = self._open
        opened.note_record(key, version, old)
        opened.unhashed += size // UNIT_BYTES
        if opened.unhashed >= opened.relief_at:
            self._relieve()
            opened.put_off_relief()

    def _require_storable(self, key: bytes, version: int) -> None:
        if not is_storable(self._domain, key, version):
            raise ValueError(f"a key of {len(key)} bytes and version {version} is not storable")


def _aligned(
    stored: Iterator[Item], changed: Iterator[bytes]
) -> Iterator[tuple[bytes, Item | None]]:
    """The union of two ascending sequences of keys, with what is stored for each."""
    key = next(changed, None)
    for item in stored:
        while key is not None and key < item[0]:
            yield key, None
            key = next(changed, None)
        if key == item[0]:
            key = next(changed, None)
        yield item[0], item
    while key is not None:
        yield key, None
        key = next(changed, None)
