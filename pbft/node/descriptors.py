"""How many descriptors a replica may have open, and what part of them connections may take.

Whoever reaches a port can open connections to it, with or without a certificate. They must not take
what the other port, the admin port and the disk need: a replica without a free descriptor cannot
even be connected to by its peers.
"""

import resource
from dataclasses import replace

from pbft.transport.api import ClientLimits, PeerLimits

WANTED = 16_384
"""More than all connections at their bounds, twice."""


def raise_limit() -> int:
    """Raises the soft limit on descriptors to WANTED, or as far as the hard limit goes; returns how
    many may be open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = WANTED if hard == resource.RLIM_INFINITY else min(WANTED, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted


def share(descriptors: int) -> tuple[PeerLimits, ClientLimits]:
    """The limits of the listeners, where so many descriptors may be open: a quarter of them at most
    for connections of peers, half for those of clients."""
    peers, clients = PeerLimits(), ClientLimits()
    return (
        replace(peers, connections=min(peers.connections, descriptors // 4)),
        replace(clients, connections=min(clients.connections, descriptors // 2)),
    )
