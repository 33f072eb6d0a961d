"""Finds and ends connections that gRPC would keep.

gRPC's server has no way to end a stream at once: the end waits behind what the other side has not
read, and so does the memory of that, for as long as the other side likes. Nor does it say which
connections it has, or end one of them. But its sockets are the process's: they can be found, and
shut down, which gRPC takes for a broken connection.
"""

import os
import socket
import stat
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from urllib.parse import unquote

Address = tuple[IPv4Address | IPv6Address, int]


@dataclass(frozen=True, slots=True)
class Connection:
    """One that a listener accepted."""

    remote: Address
    descriptor: int
    inode: int
    """Which socket that was: the descriptor's number may have passed to another."""

    def shut_down(self) -> None:
        """Ends it, if it is still there."""
        with suppress(OSError), _duplicate(self.descriptor) as connection:
            if os.fstat(connection.fileno()).st_ino == self.inode:
                connection.shutdown(socket.SHUT_RDWR)


class Accepted:
    """The open connections that one listener of this process accepted.

    A look at thousands of them costs milliseconds: each socket is asked for its addresses once.
    """

    def __init__(self, address: str, port: int) -> None:
        """The address the listener was bound to (one with a name stands for all addresses of this
        machine) and the port it has there."""
        self._host: IPv4Address | IPv6Address | None = None
        with suppress(ValueError):
            host = _host_of(address.rpartition(":")[0].strip("[]"))
            self._host = None if host.is_unspecified else host
        self._port = port
        self._known: dict[tuple[int, int], Connection | None] = {}
        """By descriptor and inode, in the order first seen; None for the sockets of others."""

    def look(self) -> list[Connection]:
        """Those open now, in the order in which they were first seen. Raises OSError if no
        descriptor is free for that."""
        found = set()
        for descriptor in map(int, os.listdir("/dev/fd")):
            try:
                status = os.fstat(descriptor)
                if not stat.S_ISSOCK(status.st_mode):
                    continue
                key = descriptor, status.st_ino
                if key not in self._known:
                    self._known[key] = self._inspect(*key)
            except OSError:
                continue
            found.add(key)
        self._known = {key: it for key, it in self._known.items() if key in found}
        return [it for it in self._known.values() if it is not None]

    def _inspect(self, descriptor: int, inode: int) -> Connection | None:
        """Raises OSError if the socket is not connected."""
        with _duplicate(descriptor) as connection:
            remote, local = connection.getpeername(), connection.getsockname()
            if not isinstance(local, tuple) or local[1] != self._port:
                return None
            if self._host not in (None, _host_of(local[0])):
                return None
            return Connection(_address_of(*remote[:2]), descriptor, inode)


def cut(peer: str) -> int:
    """Shuts down this process's connections with `peer`, an address as gRPC spells it; returns how
    many there were."""
    address = parse_peer(peer)
    count = 0
    for descriptor in os.listdir("/dev/fd"):
        # Most are no sockets, or not connected, and gRPC may have closed it meanwhile.
        with suppress(OSError), _duplicate(int(descriptor)) as connection:
            remote = connection.getpeername()
            if isinstance(remote, tuple) and _address_of(*remote[:2]) == address:
                connection.shutdown(socket.SHUT_RDWR)
                count += 1
    return count


def parse_peer(peer: str) -> Address:
    """Reads an address as gRPC spells it ("ipv4:127.0.0.1:50000")."""
    host, _, port = unquote(peer).partition(":")[2].rpartition(":")
    return _address_of(host.strip("[]"), int(port))


def _duplicate(descriptor: int) -> socket.socket:
    """The same socket under a number of its own, so that nobody else closes it or takes the number.
    Raises OSError if it is none."""
    own = os.dup(descriptor)
    try:
        return socket.socket(fileno=own)
    except OSError:
        os.close(own)
        raise


def _address_of(host: str, port: int) -> Address:
    return _host_of(host), port


@lru_cache(1_024)
def _host_of(host: str) -> IPv4Address | IPv6Address:
    address = ip_address(host.partition("%")[0])  # gRPC names the interface, Python does not.
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address
