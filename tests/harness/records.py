"""State in dictionaries: what a service runs on in tests that need no digests and no disk."""

from bisect import bisect_left, insort
from collections.abc import Iterator


class DictRecords:
    """The `Records` of one domain: versions of a key in a dictionary, keys in a sorted list."""

    def __init__(self) -> None:
        self._versions: dict[bytes, dict[int, bytes]] = {}
        self._keys: list[bytes] = []

    def get(self, key: bytes) -> tuple[int, bytes] | None:
        versions = self._versions.get(key)
        if versions is None:
            return None
        version = max(versions)
        return version, versions[version]

    def put(self, key: bytes, version: int, value: bytes) -> None:
        versions = self._versions.get(key)
        if versions is None:
            self._versions[key] = {version: value}
            insort(self._keys, key)
        else:
            versions[version] = value

    def supersede(
        self, key: bytes, current: tuple[int, bytes] | None, version: int, value: bytes
    ) -> None:
        """See Records.supersede."""
        assert current == self.get(key)
        assert current is None or version >= current[0]
        self.put(key, version, value)
        if current is not None and version != current[0]:
            self.delete(key, current[0])

    def delete(self, key: bytes, version: int) -> None:
        versions = self._versions[key]
        del versions[version]
        if not versions:
            del self._versions[key]
            del self._keys[bisect_left(self._keys, key)]

    def scan(self, start: bytes, end: bytes | None) -> Iterator[tuple[bytes, int, bytes]]:
        for key in self._keys[bisect_left(self._keys, start) :]:
            if end is not None and key >= end:
                return
            version = max(self._versions[key])
            yield key, version, self._versions[key][version]

    def items(self) -> list[tuple[bytes, int, bytes]]:
        """Every record, all versions included, in order."""
        return [
            (key, version, self._versions[key][version])
            for key in self._keys
            for version in sorted(self._versions[key])
        ]


class DictState:
    """The part of `State` that a service uses."""

    def __init__(self) -> None:
        self.domains: dict[int, DictRecords] = {}

    def domain(self, domain: int) -> DictRecords:
        return self.domains.setdefault(domain, DictRecords())

    def items(self) -> list[tuple[int, bytes, int, bytes]]:
        """Every record of every domain, in order: equal lists are equal states."""
        return [
            (domain, *record)
            for domain in sorted(self.domains)
            for record in self.domains[domain].items()
        ]
