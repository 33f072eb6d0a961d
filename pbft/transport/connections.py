"""Ends a connection that gRPC would keep.

gRPC's server has no way to end a stream at once: the end waits behind what the other side has not
read, and so does the memory of that, for as long as the other side likes. But its socket can be
shut down, which gRPC takes for a broken connection.
"""

import os
import socket
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, ip_address
from urllib.parse import unquote

_Address = tuple[IPv4Address | IPv6Address, int]


def cut(peer: str) -> int:
    """Shuts down this process's connections with `peer`, an address as gRPC spells it
    ("ipv4:127.0.0.1:50000"); returns how many there were."""
    host, _, port = unquote(peer).partition(":")[2].rpartition(":")
    address = _address_of(host.strip("[]"), int(port))
    count = 0
    for descriptor in os.listdir("/dev/fd"):
        # Most are no sockets, or not connected, and gRPC may have closed it meanwhile.
        with suppress(OSError), _duplicate(int(descriptor)) as connection:
            remote = connection.getpeername()
            if isinstance(remote, tuple) and _address_of(*remote[:2]) == address:
                connection.shutdown(socket.SHUT_RDWR)
                count += 1
    return count


def _duplicate(descriptor: int) -> socket.socket:
    """The same socket under a number of its own, so that nobody else closes it or takes the number.
    Raises OSError if it is none."""
    own = os.dup(descriptor)
    try:
        return socket.socket(fileno=own)
    except OSError:
        os.close(own)
        raise


def _address_of(host: str, port: int) -> _Address:
    address = ip_address(host)
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address, port
