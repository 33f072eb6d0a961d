"""A three-node etcd on loopback, and the few calls of its client API that a comparison needs.

The messages are declared here instead of being generated from etcd's protos: only their first
fields matter, and the wire format ignores the rest.
"""

import asyncio
import shutil
import subprocess
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from pbft.cli.failure import CommandFailed
from pbft.cli.testnet import HOST, choose_ports
from pbft.grpc_environment import aio, grpc

NODES = 3
START_SECONDS = 30.0
STOP_SECONDS = 10.0
CALL_SECONDS = 30.0

BYTES = descriptor_pb2.FieldDescriptorProto.TYPE_BYTES
UINT64 = descriptor_pb2.FieldDescriptorProto.TYPE_UINT64
MESSAGES: dict[str, dict[str, tuple[int, int]]] = {
    "PutRequest": {"key": (1, BYTES), "value": (2, BYTES)},
    "RangeRequest": {"key": (1, BYTES)},
    "StatusRequest": {},
    "Header": {"member_id": (2, UINT64)},
    "StatusResponse": {"header": (1, BYTES), "leader": (4, UINT64)},
    "Ignored": {},
}
"""Name and wire type of the fields used. A nested message is read as bytes."""


def _declare() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(name="etcd_subset.proto", package="etcd_subset")
    file.syntax = "proto3"
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, (number, kind) in fields.items():
            message.field.add(
                name=field,
                number=number,
                type=descriptor_pb2.FieldDescriptorProto.Type.ValueType(kind),
                label=descriptor_pb2.FieldDescriptorProto.LABEL_OPTIONAL,
            )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"etcd_subset.{name}"))
        for name in MESSAGES
    }


CLASSES = _declare()


class EtcdClient:
    """Calls to one node over one channel."""

    def __init__(self, address: str) -> None:
        """`address` is host:port. Call from a running event loop."""
        self._channel = aio.insecure_channel(address)
        self._put = self._method("/etcdserverpb.KV/Put", "PutRequest", "Ignored")
        self._range = self._method("/etcdserverpb.KV/Range", "RangeRequest", "Ignored")
        self._status = self._method(
            "/etcdserverpb.Maintenance/Status", "StatusRequest", "StatusResponse"
        )

    def put(self, key: bytes, value: bytes) -> Awaitable[object]:
        """Sets a key; done when a majority has it on disk."""
        call: Awaitable[object] = self._put(
            CLASSES["PutRequest"](key=key, value=value), timeout=CALL_SECONDS
        )
        return call

    def get(self, key: bytes) -> Awaitable[object]:
        """Reads a key linearizably."""
        call: Awaitable[object] = self._range(
            CLASSES["RangeRequest"](key=key), timeout=CALL_SECONDS
        )
        return call

    async def is_leader(self) -> bool:
        """Whether the node leads. Raises grpc.RpcError while it is not ready."""
        answer = await self._status(CLASSES["StatusRequest"](), timeout=1.0)
        header = CLASSES["Header"].FromString(answer.header)
        return bool(answer.leader) and answer.leader == header.member_id

    async def close(self) -> None:
        """Ends the connection."""
        await self._channel.close()

    def _method(self, path: str, request: str, response: str) -> Callable[..., Any]:
        method: Callable[..., Any] = self._channel.unary_unary(
            path,
            request_serializer=CLASSES[request].SerializeToString,
            response_deserializer=CLASSES[response].FromString,
        )
        return method


@contextmanager
def etcd_nodes() -> Iterator[list[str]]:
    """Starts three nodes that sync every write to disk (etcd's default) and yields their client
    addresses. Raises CommandFailed if etcd is not installed."""
    program = shutil.which("etcd")
    if program is None:
        raise CommandFailed("etcd is not installed: `apt install etcd-server` on Debian")
    ports = choose_ports(NODES, None)
    members = ",".join(f"node{i}=http://{HOST}:{ports[i].peer}" for i in range(NODES))
    with tempfile.TemporaryDirectory(prefix="pbft-etcd-") as directory:
        nodes = []
        try:
            for index in range(NODES):
                client = f"http://{HOST}:{ports[index].client}"
                peer = f"http://{HOST}:{ports[index].peer}"
                arguments = {
                    "name": f"node{index}",
                    "data-dir": str(Path(directory) / f"node{index}"),
                    "listen-client-urls": client,
                    "advertise-client-urls": client,
                    "listen-peer-urls": peer,
                    "initial-advertise-peer-urls": peer,
                    "initial-cluster": members,
                    "log-level": "error",
                }
                command = [program, *(f"--{name}={value}" for name, value in arguments.items())]
                with (Path(directory) / f"node{index}.log").open("wb") as log:
                    nodes.append(subprocess.Popen(command, stdout=log, stderr=log))
            yield [f"{HOST}:{port.client}" for port in ports]
        finally:
            for node in nodes:
                node.terminate()
            for node in nodes:
                try:
                    node.wait(STOP_SECONDS)
                except subprocess.TimeoutExpired:
                    node.kill()
                    node.wait()


async def connect_to_leader(addresses: list[str]) -> EtcdClient:
    """A client of the node that leads, which saves etcd a hop. Raises CommandFailed if none does
    in time."""
    deadline = asyncio.get_running_loop().time() + START_SECONDS
    while asyncio.get_running_loop().time() < deadline:
        for address in addresses:
            client = EtcdClient(address)
            try:
                if await client.is_leader():
                    return client
            except grpc.RpcError:
                await asyncio.sleep(0.2)
            await client.close()
    raise CommandFailed(f"etcd has no leader after {START_SECONDS:.0f} s")
