"""A bounded memory of what was verified, so that nothing is verified twice."""

from collections import OrderedDict
from typing import Generic, TypeVar

V = TypeVar("V")


class Remembered(Generic[V]):
    """The most recently used values by digest, bounded in number and in bytes."""

    def __init__(self, entries_max: int, bytes_max: int) -> None:
        """Room for `entries_max` values of together `bytes_max` bytes, as `put` counts them."""
        self._entries_max = entries_max
        self._bytes_max = bytes_max
        self._values: OrderedDict[bytes, tuple[V, int]] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._values)

    @property
    def size_bytes(self) -> int:
        """What the values held now take together, as `put` counted them."""
        return self._bytes

    def get(self, key: bytes) -> V | None:
        """The value, which counts as used now, or None."""
        entry = self._values.get(key)
        if entry is None:
            return None
        self._values.move_to_end(key)
        return entry[0]

    def put(self, key: bytes, value: V, size_bytes: int) -> None:
        """Remembers a value of this size under a key that is not there, forgetting the least
        recently used ones. A value larger than the whole room is not remembered."""
        if size_bytes > self._bytes_max:
            return
        self._values[key] = (value, size_bytes)
        self._bytes += size_bytes
        while self._bytes > self._bytes_max or len(self._values) > self._entries_max:
            _, (_, forgotten_bytes) = self._values.popitem(last=False)
            self._bytes -= forgotten_bytes
