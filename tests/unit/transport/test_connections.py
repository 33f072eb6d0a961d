"""Connections that are ended beside gRPC."""

import os
import socket

import pytest

from pbft.transport.connections import cut

SPELLED = {"127.0.0.1": "ipv4:127.0.0.1:{}", "::1": "ipv6:%5B::1%5D:{}"}


def listen(host: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, 0), family=family)
    except OSError:
        pytest.skip(f"this machine has no {host}")


@pytest.mark.parametrize("host", SPELLED)
def test_only_the_connections_with_that_address_are_cut(host: str) -> None:
    with listen(host) as listener:
        clients = [socket.create_connection(listener.getsockname()[:2]) for _ in range(2)]
        accepted = [listener.accept()[0] for _ in clients]
        before = len(os.listdir("/dev/fd"))
        assert cut(SPELLED[host].format(clients[0].getsockname()[1])) == 1
        assert len(os.listdir("/dev/fd")) == before
        assert clients[0].recv(1) == b""
        accepted[1].send(b"x")
        assert clients[1].recv(1) == b"x"
        for connection in (*clients, *accepted):
            connection.close()
