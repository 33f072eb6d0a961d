"""What the connections may take of a process's descriptors."""

import subprocess
import sys

import pytest

from pbft.node.descriptors import WANTED, share
from pbft.transport.api import ClientLimits, PeerLimits

SHOW = """
import resource, sys
from pbft.node.descriptors import raise_limit
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]), int(sys.argv[2])))
print(raise_limit(), *resource.getrlimit(resource.RLIMIT_NOFILE))
"""


@pytest.mark.parametrize(
    ("soft", "hard", "expected"),
    [
        (256, 512, "512 512 512"),
        (512, 512, "512 512 512"),
        (256, WANTED + 1, f"{WANTED} {WANTED} {WANTED + 1}"),
        (WANTED + 1, WANTED + 1, f"{WANTED} {WANTED + 1} {WANTED + 1}"),
    ],
)
def test_the_limit_is_raised_as_far_as_it_may_be(soft: int, hard: int, expected: str) -> None:
    command = [sys.executable, "-c", SHOW, str(soft), str(hard)]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert shown.strip() == expected


def test_connections_leave_descriptors_for_all_else() -> None:
    peers, clients = share(WANTED)
    assert (peers, clients) == (PeerLimits(), ClientLimits())
    assert peers.connections + clients.connections < WANTED / 2
    peers, clients = share(256)
    assert (peers.connections, clients.connections) == (64, 128)
