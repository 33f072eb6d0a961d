"""Changes in memory above the durable checkpoint, and the records of one domain as a service sees
them."""

import heapq
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final, TypeAlias

from pbft.messages import Leaf
from pbft.storage.api import BaseView, Change
from pbft.storage.ordered import is_storable
from pbft.storage.sorted_keys import SortedKeys
from pbft.types import Digest, SequenceNumber

Latest: TypeAlias = tuple[int, bytes]
"""(highest version of a key, its value)"""
RecordKey: TypeAlias = tuple[int, bytes, int]
"""(domain, key, version)"""


class Dirty:
    """Records not yet accounted for in the sums, each with the value that is (None: no record).

    Two generations: the older is folded when the younger is full, so that a record that comes and
    goes within a generation's time costs no hash at all.
    """

    __slots__ = ("older", "younger")

    def __init__(self) -> None:
        self.younger: dict[RecordKey, bytes | None] = {}
        self.older: dict[RecordKey, bytes | None] = {}

    def forget_newborn(self, record: RecordKey) -> bool:
        """Forgets a record that was added since the sums were last up to date, and is gone again;
        False if it is not one."""
        for generation in (self.younger, self.older):
            if record in generation:
                if generation[record] is None:
                    del generation[record]
                    return True
                return False
        return False


UNTOUCHED: Final[Latest] = (-1, b"")
"""Told from all others by identity: this layer says nothing about the key."""

FOLD_RECORDS = 4_096
"""Dirty records in one generation: folding one is a pause of about ten milliseconds."""


class DomainChanges:
    """The changes of one layer to one domain."""

    __slots__ = ("keys", "latest", "versions")

    def __init__(self) -> None:
        self.latest: dict[bytes, Latest | None] = {}
        """What `get` answers as of the end of this layer, for the keys where this layer changed
        it."""
        self.keys = SortedKeys()
        """The keys of `latest`."""
        self.versions: dict[bytes, dict[int, bytes | None]] = {}
        """Every record changed: key -> version -> value, None if it was removed."""

    def set_latest(self, key: bytes, latest: Latest | None) -> None:
        """Notes what `get` answers from now on."""
        if key not in self.latest:
            self.keys.add(key)
        self.latest[key] = latest

    def changed_versions(self, key: bytes) -> dict[int, bytes | None]:
        """The changed records of a key, to be added to."""
        changed = self.versions.get(key)
        if changed is None:
            changed = self.versions[key] = {}
        return changed


class Layer:
    """All changes between two checkpoints. Written until it is sealed, then constant."""

    __slots__ = ("domains",)

    def __init__(self) -> None:
        self.domains: dict[int, DomainChanges] = {}

    def domain(self, domain: int) -> DomainChanges:
        """The changes to one domain; only for the layer that is being written."""
        return self.domains.setdefault(domain, DomainChanges())

    def changes(self) -> Iterator[Change]:
        """Every record changed, once."""
        for domain, changes in self.domains.items():
            for key, versions in changes.versions.items():
                for version, value in versions.items():
                    yield domain, key, version, value


@dataclass(frozen=True, slots=True)
class SealedLayer:
    """A layer that ends at a checkpoint."""

    layer: Layer
    sequence: SequenceNumber
    digest: Digest
    leaves: dict[int, Leaf]
    """The leaves that differ from those of the checkpoint before, as of this one."""


class DomainRecords:
    """The Records port over the layers and the durable checkpoint.

    Not for several threads. A scan may be continued after `put` of an existing key and after
    `delete`; what it yields is then as of that moment. After a `put` of a key that had no record,
    continuing it raises RuntimeError: whether the scan would find the new key may differ between
    replicas.
    """

    def __init__(self, domain: int, dirty: Dirty, age: Callable[[], None]) -> None:
        self._domain = domain
        self._dirty = dirty
        self._age = age
        self._births = 0
        """How often a key without records got one."""

    def bind(self, view: BaseView, open_layer: Layer, sealed: Sequence[SealedLayer]) -> None:
        """Tells where the records are from now on: `sealed` ascends by sequence."""
        self._view = view
        self._open = open_layer.domain(self._domain)
        below = (item.layer.domains.get(self._domain) for item in reversed(sealed))
        self._below = [changes for changes in below if changes is not None]
        self._layers = [self._open, *self._below]
        self._stored_key: bytes | None = None
        self._stored: Latest | None = None

    def get(self, key: bytes) -> Latest | None:
        """See Records.get."""
        for changes in self._layers:
            found = changes.latest.get(key, UNTOUCHED)
            if found is not UNTOUCHED:
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
        opened = self._open.latest.get(key)
        if opened is not None and opened[0] == version:
            # Written in this layer before: the sums are told once, of the last value.
            self._open.latest[key] = (version, value)
            self._open.versions[key][version] = value
            self._mark(key, version, opened[1])
            return
        if not is_storable(self._domain, key, version):
            raise ValueError(f"a key of {len(key)} bytes and version {version} is not storable")
        current = self.get(key)
        old = None
        if current is None:
            self._births += 1
        elif version == current[0]:
            old = current[1]
        elif version < current[0]:
            old = self._value(self._layers, key, version)
        if current is None or version >= current[0]:
            self._open.set_latest(key, (version, value))
        self._open.changed_versions(key)[version] = value
        self._mark(key, version, old)

    def delete(self, key: bytes, version: int) -> None:
        """See Records.delete. Raises KeyError if there is no such record."""
        current = self.get(key)
        is_latest = current is not None and current[0] == version
        old = current[1] if current and is_latest else self._value(self._layers, key, version)
        if old is None:
            raise KeyError((key, version))
        changed = self._open.changed_versions(key)
        if version in changed and self._value(self._below, key, version) is None:
            # It came and went within this layer: a key overwritten all the time leaves no trail.
            del changed[version]
        else:
            changed[version] = None
        if is_latest:
            self._open.set_latest(key, self._older(key, version))
        self._mark(key, version, old)

    def scan(self, start: bytes, end: bytes | None) -> Iterator[tuple[bytes, int, bytes]]:
        """See Records.scan, and the class on changes meanwhile. Valid until the next checkpoint."""
        births = self._births
        changed = heapq.merge(*(changes.keys.between(start, end) for changes in self._layers))
        stored = self._view.scan(self._domain, start, end)
        for key, item in _aligned(stored, (key for key, _ in groupby(changed))):
            found = self._changed(key)
            if found is UNTOUCHED:
                assert item is not None
                yield item
            elif found is not None:
                yield key, found[0], found[1]
            if self._births != births:
                raise RuntimeError("a key was added to the domain during a scan")

    def _changed(self, key: bytes) -> Latest | None:
        for changes in self._layers:
            found = changes.latest.get(key, UNTOUCHED)
            if found is not UNTOUCHED:
                return found
        return UNTOUCHED

    def _value(self, layers: list[DomainChanges], key: bytes, version: int) -> bytes | None:
        """The value of one record as of the first of these layers."""
        for changes in layers:
            versions = changes.versions.get(key)
            if versions is not None and version in versions:
                return versions[version]
        stored = self._latest_stored(key)
        if stored is None or stored[0] < version:
            return None
        return stored[1] if stored[0] == version else self._view.value(self._domain, key, version)

    def _older(self, key: bytes, version: int) -> Latest | None:
        """The highest version below `version`."""
        changed: dict[int, bytes | None] = {}
        for changes in self._layers:
            for number, value in changes.versions.get(key, {}).items():
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

    def supersede(self, key: bytes, current: Latest, version: int, value: bytes) -> None:
        """See Records.supersede."""
        opened = self._open
        superseded = (self._domain, key, current[0])
        if version <= current[0] or not self._dirty.forget_newborn(superseded):
            self.put(key, version, value)
            if version != current[0]:
                self.delete(key, current[0])
            return
        # The usual case in short: what is replaced was added in this layer and is not hashed yet.
        opened.latest[key] = (version, value)
        changed = opened.versions[key]
        del changed[current[0]]
        changed[version] = value
        self._mark(key, version, None)

    def _mark(self, key: bytes, version: int, old: bytes | None) -> None:
        record = (self._domain, key, version)
        dirty = self._dirty
        if record not in dirty.older:
            dirty.younger.setdefault(record, old)
            if len(dirty.younger) >= FOLD_RECORDS:
                self._age()


Item: TypeAlias = tuple[bytes, int, bytes]


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
