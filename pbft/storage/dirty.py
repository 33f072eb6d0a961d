"""What changed since the sums of the buckets were last up to date.

Every entry is hashed once, when it is folded, however often it changed before.
"""

from collections.abc import Iterator
from typing import TypeAlias

from pbft.limits import MIB
from pbft.storage.changes import DomainChanges, Latest

DomainKey: TypeAlias = tuple[int, bytes]
RecordKey: TypeAlias = tuple[int, bytes, int]
"""(domain, key, version)"""
HashedChange: TypeAlias = tuple[int, bytes, Latest | None, Latest | None]
"""(domain, key, the record that the sums know, the record that is in its place); None: no
record."""

FOLD_KEYS = 2_048
"""Dirty keys in one generation at most: folding one is a pause of about ten milliseconds ..."""
FOLD_BYTES = 2 * MIB
"""... and so is this much of values, old and new (about 4 ms a megabyte)."""
REST_KEYS, REST_BYTES = 1_024, 1 * MIB
"""Enough in a generation to fold the one before while there is nothing to do."""


class Generation:
    """Some of the keys that are dirty. Of a key, either one record took the place of another, or
    its changed records are told one by one (as in `DomainChanges`)."""

    __slots__ = ("records", "replaced", "size")

    def __init__(self) -> None:
        self.size = 0
        """Bytes of values written and replaced: at least what is to be hashed."""
        self.replaced: dict[DomainKey, Latest | None] = {}
        """The record that the sums know, in whose place the latest one is now."""
        self.records: dict[RecordKey, bytes | None] = {}
        """The value that the sums know; None: no such record."""

    def __len__(self) -> int:
        return len(self.replaced) + len(self.records)

    def changes(self, domains: dict[int, DomainChanges]) -> Iterator[HashedChange]:
        """The entries with what is there now, as told by the open layer."""
        for (domain, key), known in self.replaced.items():
            yield domain, key, known, domains[domain].latest[key]
        for (domain, key, version), value in self.records.items():
            now = domains[domain].versions[key].get(version)
            yield (
                domain,
                key,
                None if value is None else (version, value),
                None if now is None else (version, now),
            )

    def clear(self) -> None:
        """Forgets everything: it is folded."""
        self.size = 0
        self.replaced.clear()
        self.records.clear()


class Dirty:
    """Two generations: the older is folded when the younger is full, so that what changes all the
    time is hashed once per generation's time only."""

    __slots__ = ("older", "younger")

    def __init__(self) -> None:
        self.younger = Generation()
        self.older = Generation()

    def note_replaced(self, domain: int, key: bytes, known: Latest | None, size: int) -> bool:
        """The record `known` is about to be replaced by one with a value of `size` bytes, or (None)
        a first one added. Whether the younger generation is full now."""
        entry, younger = (domain, key), self.younger
        if entry not in self.older.replaced and entry not in younger.replaced:
            younger.replaced[entry] = known
            if known is not None:
                size += len(known[1])
        younger.size += size
        return younger.size >= FOLD_BYTES or len(younger.replaced) >= FOLD_KEYS

    def note_record(self, record: RecordKey, known: bytes | None, size: int) -> bool:
        """A record is about to change that has this value now, to one of `size` bytes. Whether the
        younger generation is full now."""
        younger = self.younger
        if record not in self.older.records and record not in younger.records:
            younger.records[record] = known
            size += 0 if known is None else len(known)
        younger.size += size
        return younger.size >= FOLD_BYTES or len(younger) >= FOLD_KEYS

    @property
    def is_worth_a_rest(self) -> bool:
        """Whether the younger generation has enough for the older one to be folded."""
        return self.younger.size >= REST_BYTES or len(self.younger) >= REST_KEYS

    def forget_newborn(self, record: RecordKey) -> bool:
        """Forgets a record that was added since the sums were last up to date, and is gone again;
        False if it is not one."""
        for generation in (self.younger, self.older):
            if record in generation.records:
                if generation.records[record] is None:
                    del generation.records[record]
                    return True
                return False
        return False

    def spell_out(self, domain: int, key: bytes, version: int) -> None:
        """From now on the records of this key are noted one by one; `version` is its latest."""
        for generation in (self.younger, self.older):
            entry = (domain, key)
            if entry not in generation.replaced:
                continue
            known = generation.replaced.pop(entry)
            if known is not None:
                generation.records[(domain, key, known[0])] = known[1]
            if known is None or known[0] != version:
                generation.records[(domain, key, version)] = None

    def age(self) -> None:
        """The older generation was folded: the younger one is the older from now on."""
        self.older, self.younger = self.younger, self.older

    def clear(self) -> None:
        """Forgets everything."""
        self.younger.clear()
        self.older.clear()
