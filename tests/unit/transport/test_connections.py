"""Connections that are found and ended beside gRPC."""

import os
import socket
from contextlib import ExitStack

import pytest

from pbft.transport.connections import Accepted, cut

SPELLED = {"127.0.0.1": "ipv4:127.0.0.1:{}", "::1": "ipv6:%5B::1%5D:{}"}

ADDRESSES = {"127.0.0.1": 1, "0.0.0.0": 1, "localhost": 1, "127.0.0.2": 0}


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


@pytest.mark.parametrize("host", SPELLED)
def test_a_listeners_connections_are_found_oldest_first_and_nobody_elses(host: str) -> None:
    with listen(host) as listener, listen(host) as other, ExitStack() as stack:
        address = f"[{host}]:0" if ":" in host else f"{host}:0"
        accepted = Accepted(address, listener.getsockname()[1])

        def connect(to: socket.socket) -> int:
            client = stack.enter_context(socket.create_connection(to.getsockname()[:2]))
            stack.enter_context(to.accept()[0])
            return int(client.getsockname()[1])

        def found() -> list[int]:
            return [it.remote[1] for it in accepted.look()]

        assert found() == []
        connect(other)
        first = connect(listener)
        assert found() == [first]
        second = connect(listener)
        assert found() == [first, second]
    assert accepted.look() == []


def test_another_address_with_the_same_port_is_another_listener() -> None:
    with listen("127.0.0.1") as listener:
        port = listener.getsockname()[1]
        with (
            socket.create_connection(("127.0.0.1", port)),
            listener.accept()[0],
        ):
            seen = {at: len(Accepted(f"{at}:0", port).look()) for at in ADDRESSES}
    assert seen == ADDRESSES


def test_a_connection_whose_descriptor_passed_to_another_is_left_alone() -> None:
    with listen("127.0.0.1") as listener:
        port = listener.getsockname()[1]
        accepted = Accepted("127.0.0.1:0", port)
        with socket.create_connection(("127.0.0.1", port)) as first:
            end = listener.accept()[0]
            (gone,) = accepted.look()
            end.shutdown(socket.SHUT_RDWR)
            with (
                socket.create_connection(("127.0.0.1", port)) as second,
                listener.accept()[0] as it,
            ):
                os.dup2(it.fileno(), end.fileno())
                gone.shut_down()
                it.send(b"x")
                assert second.recv(1) == b"x"
                accepted.look()[0].shut_down()
                assert second.recv(1) == b""
            end.close()
            assert first.recv(1) == b""
