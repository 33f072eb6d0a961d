"""The records of one domain as a service sees them: the durable checkpoint under the changes in
memory."""

from collections.abc import Callable, Iterator, Mapping, Sequence
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
from pbft.storage.sorted_keys import KeyWalk
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

    def scan(self, start: bytes, end: bytes | None) -> Iterator[Item]:
        """See Records.scan, and the class on changes meanwhile. Valid until the next checkpoint."""
        at, end = within_keys(start), None if end is None else within_keys(end)
        births, past = self._births, self._dead.past(at)
        changed = KeyWalk((changes.keys for changes in self._layers), past, end)
        keys = _Keys(self._view, self._domain, changed, past, end)
        while (record := self._next_record(keys, at)) is not None:
            yield record
            if self._births != births:
                raise RuntimeError("a key was added to the domain during a scan")
            at = record[0] + b"\x00"

    def _next_record(self, keys: "_Keys", start: bytes) -> Item | None:
        """The first record at or after `start`. Known runs of removed keys are passed at once. The
        keys that it had to pass one by one are in a run from then on, if it came by one or if there
        are RUN_KEYS_MIN of them."""
        at, walked, has_passed_run = start, 0, False
        while True:
            past = self._dead.past(at)
            has_passed_run = has_passed_run or past != at
            key = keys.go_to(past)
            found = None if key is None else self._changed(key)
            if key is None or found is not None:
                break
            walked += 1
            at = key + b"\x00"
        if walked and (has_passed_run or walked >= RUN_KEYS_MIN):
            self._dead.add(start, keys.stop if key is None else key)
        if key is None or found is None:
            return None
        return keys.stored if found is UNTOUCHED else (key, found[0], found[1])

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


class _Keys:
    """The keys that are stored or changed, ascending, and what is stored for them."""

    __slots__ = ("_changed", "_domain", "_end", "_view", "stop", "stored")

    def __init__(
        self, view: BaseView, domain: int, changed: KeyWalk, start: bytes, end: bytes | None
    ) -> None:
        self._view = view
        self._domain = domain
        self._changed = changed
        self._end = end
        self.stop = AFTER_ALL_KEYS if end is None else end
        self.stored = view.first(domain, start, end)
        """The first stored record that is not passed."""

    def go_to(self, bound: bytes) -> bytes | None:
        """Passes all keys below the bound; returns the next one, None at the end."""
        if bound >= self.stop:
            return None
        if self.stored is not None and self.stored[0] < bound:
            self.stored = self._view.first(self._domain, bound, self._end)
        changed = self._changed.go_to(bound)
        if self.stored is None:
            return changed
        return self.stored[0] if changed is None else min(changed, self.stored[0])
