"""Changes in memory above the durable checkpoint: one layer per checkpoint interval.

Most keys of a layer had one record replaced by another, over and over. Of those only the ends are
kept: the version that the layer found (`replaced`) and the record that is there now (`latest`).
Keys that changed in any other way have all their changed records (`versions`). What the layer found
in their place (`found`, `found_records`) is kept until the digest accounts for the change.
"""

import heapq
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Final, TypeAlias

from pbft.messages import Leaf
from pbft.storage.api import Change
from pbft.storage.sorted_keys import SortedKeys
from pbft.types import Digest, SequenceNumber

Latest: TypeAlias = tuple[int, bytes]
"""(highest version of a key, its value)"""

UNTOUCHED: Final[Latest] = (-1, b"")
"""Told from all others by identity: this layer says nothing about the key."""
NO_VERSION = -1
"""Below the layer there was no record for the one that took its place."""
UNIT_BYTES = 128
"""So much of a value is hashed in about the time that a change takes by itself."""
UNHASHED_MAX = 32_768
"""With more to be hashed (changes, and UNIT_BYTES of values) in the layer that is written, further
changes pay for it: when the layer is sealed, at most about twice as much is left, or 0.4 s."""
RELIEF_STEP = 256
"""So many of them pay for one portion of twice as much (`PORTION_CHANGES`)."""
_NOTHING: Final[Mapping[int, bytes | None]] = {}

HashedChange: TypeAlias = tuple[int, bytes, Latest | None, Latest | None]
"""(domain, key, the record that the layer found, the record that is in its place); None: no
record."""


class DomainChanges:
    """The changes of one layer to one domain. A key is in `replaced` or in `versions`, or in
    neither, never in both."""

    __slots__ = (
        "found",
        "found_records",
        "keys",
        "latest",
        "relief_at",
        "replaced",
        "unhashed",
        "versions",
    )

    def __init__(self) -> None:
        self.latest: dict[bytes, Latest | None] = {}
        """What `get` answers as of the end of this layer, for the keys where this layer changed
        it."""
        self.keys = SortedKeys()
        """The keys of `latest`."""
        self.replaced: dict[bytes, int] = {}
        """key -> the version that the record had, below this layer, in whose place the one in
        `latest` is now (possibly the same version); NO_VERSION for a new one."""
        self.versions: dict[bytes, dict[int, bytes | None]] = {}
        """key -> version -> value, None if the record was removed."""
        self.found: dict[bytes, Latest | None] = {}
        """key -> the record in whose place the one in `latest` is now (as in `replaced`, with its
        value). None: there was none."""
        self.found_records: dict[tuple[bytes, int], bytes | None] = {}
        """(key, version) -> the value that a record of `versions` had. None: no such record."""
        self.unhashed = 0
        """What hashing them will cost, about: one per change and per UNIT_BYTES of value."""
        self.relief_at = UNHASHED_MAX
        """With so much of it, some is done at once."""

    def set_latest(self, key: bytes, latest: Latest | None) -> None:
        """Notes what `get` answers from now on."""
        if key not in self.latest:
            self.keys.add(key)
        self.latest[key] = latest

    def changed(self, key: bytes) -> Mapping[int, bytes | None]:
        """The changed records of a key, however they are kept."""
        base = self.replaced.get(key)
        if base is None:
            return self.versions.get(key, _NOTHING)
        latest = self.latest[key]
        assert latest is not None, "the record that replaces another is there"
        version, value = latest
        if base in (NO_VERSION, version):
            return {version: value}
        return {base: None, version: value}

    def ascending(self) -> Iterator[bytes]:
        """The keys of all records changed, each once; only when the layer is sealed."""
        hidden = sorted(key for key in self.versions if key not in self.latest)
        return heapq.merge(self.keys.ascending(), hidden) if hidden else self.keys.ascending()

    def spell_out(self, key: bytes) -> dict[int, bytes | None]:
        """The changed records of a key, from now on kept one by one, to be added to."""
        versions = self.versions.get(key)
        if versions is None:
            versions = self.versions[key] = dict(self.changed(key))
            if self.replaced.pop(key, None) is not None:
                self._spell_out_found(key)
        return versions

    def _spell_out_found(self, key: bytes) -> None:
        if key not in self.found:
            # The digest accounts for the record that is there now.
            return
        found, latest = self.found.pop(key), self.latest[key]
        assert latest is not None
        if found is not None:
            self.found_records[key, found[0]] = found[1]
        if found is None or found[0] != latest[0]:
            self.found_records[key, latest[0]] = None

    def note_record(self, key: bytes, version: int, found: bytes | None) -> None:
        """A record kept one by one is about to change that has this value now."""
        self.found_records.setdefault((key, version), found)
        self.unhashed += 1 + len(found or b"") // UNIT_BYTES

    def forget_newborn(self, key: bytes, version: int) -> bool:
        """Forgets that this layer added a record, which is gone again; False if it did not."""
        entry = (key, version)
        if self.found_records.get(entry, b"") is not None:
            return False
        del self.found_records[entry]
        return True

    def take_found(self, domain: int) -> Iterator[HashedChange]:
        """What changed, once, and what is there now. What was taken is not kept: the digest
        accounts for it, and only what changes after that is found again."""
        while self.found:
            key, found = self.found.popitem()
            latest = self.latest[key]
            assert latest is not None, "the record that replaces another is there"
            size = len(latest[1]) + (0 if found is None else len(found[1]))
            self.unhashed -= 1 + size // UNIT_BYTES
            yield domain, key, found, latest
        # An emptied dictionary keeps its table.
        self.found.clear()
        while self.found_records:
            (key, version), value = self.found_records.popitem()
            now = self.versions[key].get(version)
            self.unhashed -= 1 + (len(value or b"") + len(now or b"")) // UNIT_BYTES
            yield (
                domain,
                key,
                None if value is None else (version, value),
                None if now is None else (version, now),
            )
        self.unhashed, self.relief_at = 0, UNHASHED_MAX

    def put_off_relief(self) -> None:
        """A portion was done: RELIEF_STEP more may come before the next."""
        self.relief_at = max(UNHASHED_MAX, self.unhashed + RELIEF_STEP)


class Layer:
    """All changes between two checkpoints. Written until it is sealed, then constant."""

    __slots__ = ("domains",)

    def __init__(self) -> None:
        self.domains: dict[int, DomainChanges] = {}

    def domain(self, domain: int) -> DomainChanges:
        """The changes to one domain; only for the layer that is being written."""
        return self.domains.setdefault(domain, DomainChanges())

    def take_found(self) -> Iterator[HashedChange]:
        """See DomainChanges.take_found, for all domains."""
        for domain, changes in self.domains.items():
            yield from changes.take_found(domain)


@dataclass(slots=True)
class SealedLayer:
    """A layer that ends at a checkpoint."""

    layer: Layer
    sequence: SequenceNumber
    digest: Digest = b""
    """Empty until it is computed."""
    leaves: dict[int, Leaf] = field(default_factory=dict)
    """The leaves that differ from those of the checkpoint before, as of this one."""


def changes_of(layers: Sequence[SealedLayer]) -> Iterator[Change]:
    """Every record that differs after these layers (the oldest first) from before them, once, in
    the order in which records lie on disk.

    In any other order LMDB cannot make room in its list of changed pages for those that removals
    empty, and refuses the transaction when there are 131,072 of them (MDB_TXN_FULL).
    """
    domains = sorted({domain for item in layers for domain in item.layer.domains})
    for domain in domains:
        several = [item.layer.domains[domain] for item in layers if domain in item.layer.domains]
        keys = heapq.merge(*(changes.ascending() for changes in several))
        for key, _ in groupby(keys):
            versions = _changed(several, key)
            for version in sorted(versions, reverse=True):
                yield domain, key, version, versions[version]


def _changed(several: Sequence[DomainChanges], key: bytes) -> Mapping[int, bytes | None]:
    """The changed records of a key as the last of several layers left them."""
    if len(several) == 1:
        return several[0].changed(key)
    versions: dict[int, bytes | None] = {}
    for changes in several:
        versions.update(changes.changed(key))
    return versions
