"""What the replicas say about themselves on their admin listeners. Each speaks for itself alone:
nothing here is verified by a quorum, and a corrupt one may answer with anything, or for ever.
"""

import io
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pbft.cli.failure import CommandFailed
from pbft.cli.untrusted import number_of, parse_json, text_of, texts_of

if TYPE_CHECKING:
    import socket
    import ssl
    from collections.abc import Iterable

    from _typeshed import WriteableBuffer
    from prometheus_client.samples import Sample

ANSWER_SECONDS = 2.0
COMMAND_SECONDS = 10.0
"""A command is carried out between two turns of the replica's event loop."""
ANSWER_BYTES_MAX = 1 << 20


@dataclass(frozen=True, slots=True)
class ReplicaStatus:
    """One row of `pbft cluster status`; the rest is None where the replica is not reachable."""

    replica: int
    reachable: bool
    role: str | None = None
    view: int | None = None
    mode: str | None = None
    low_water_mark: int | None = None
    executed: int | None = None
    state_digest: str | None = None
    """Of the state at `state_digest_sequence`, its last checkpoint; None before the first."""
    faults: list[str] | None = None
    state_digest_sequence: int | None = None

    def to_json(self) -> dict[str, Any]:
        """The fixed fields, in their order."""
        return asdict(self)


def admin_addresses(cluster_file: Path) -> list[str]:
    """Admin address of each replica, host:port. Raises CommandFailed if the file lacks one."""
    from pbft_client.cluster_file import load_cluster_file

    addresses = []
    for index, replica in enumerate(load_cluster_file(cluster_file).replicas):
        if replica.admin is None:
            raise CommandFailed(f"{cluster_file} has no admin address for replica {index}: add it")
        addresses.append(replica.admin)
    return addresses


def get(address: str, path: str, timeout_seconds: float = ANSWER_SECONDS) -> tuple[int, bytes]:
    """One HTTP GET: status code and body. Raises OSError if nobody answers as HTTP, within
    ANSWER_BYTES_MAX, in `timeout_seconds` for all of it."""
    return _request(address, "GET", path, timeout_seconds)


def read_samples(address: str) -> "list[Sample]":
    """All that a replica's metrics say now. Raises OSError as `get`, and for what are no
    metrics."""
    from prometheus_client.parser import text_string_to_metric_families

    _, body = get(address, "/metrics")
    try:
        families = text_string_to_metric_families(body.decode())
        return [sample for family in families for sample in family.samples]
    except ValueError as error:
        raise OSError(f"{address} answers with something else than metrics") from error


def total(samples: "Iterable[Sample]", name: str, **labels: str) -> float:
    """The sum of those with this name and these labels, whatever others they have."""
    wanted = labels.items()
    return sum(it.value for it in samples if it.name == name and wanted <= it.labels.items())


def post(cluster_file: Path, replica: int, path: str, document: object) -> tuple[int, bytes]:
    """One HTTP POST of a JSON document, by TLS as the operator unless the cluster file says
    `insecure`: status code and body.

    Raises OSError as `get`, CommandFailed if the cluster file names no operator's certificate.
    """
    from pbft.genesis import parse_genesis
    from pbft_client.cluster_file import load_cluster_file

    address = admin_addresses(cluster_file)[replica]
    body = json.dumps(document).encode()
    cluster = load_cluster_file(cluster_file)
    if cluster.insecure:
        return _request(address, "POST", path, COMMAND_SECONDS, body)
    if cluster.operator is None or cluster.authority is None:
        raise CommandFailed(
            f"{cluster_file} names no `operator` certificate and `authority`: only the operator "
            "may change a replica"
        )
    from pbft.crypto.tls import load_identity, server_name

    context = load_identity(cluster.authority, cluster.operator).client_context()
    name = server_name(parse_genesis(cluster.genesis.read_bytes()).cluster_id, replica)
    return _request(address, "POST", path, COMMAND_SECONDS, body, (context, name))


def _request(
    address: str,
    method: str,
    path: str,
    timeout_seconds: float,
    body: bytes | None = None,
    security: "tuple[ssl.SSLContext, str] | None" = None,
) -> tuple[int, bytes]:
    """`security`: how to do TLS, and what the other end must be called."""
    import http.client

    deadline = time.monotonic() + timeout_seconds
    host, _, port = address.rpartition(":")
    connection = http.client.HTTPConnection(host.strip("[]"), int(port), timeout=timeout_seconds)
    try:
        if security is not None:
            connection.connect()
            context, name = security
            connection.sock = context.wrap_socket(connection.sock, server_hostname=name)
        headers = {} if body is None else {"Content-Type": "application/json"}
        connection.request(method, path, body, headers)
        # Not by `getresponse`: it would wait anew for each byte, head and body alike.
        response = http.client.HTTPResponse(connection.sock, method=method)
        response.fp = io.BufferedReader(_UntilDeadline(connection.sock, deadline))
        response.begin()
        answer = response.read(ANSWER_BYTES_MAX + 1)
    except http.client.HTTPException as error:
        raise ConnectionError(f"{address} does not speak HTTP") from error
    finally:
        connection.close()
    if len(answer) > ANSWER_BYTES_MAX:
        raise ConnectionError(f"{address} answers with more than {ANSWER_BYTES_MAX} bytes")
    return response.status, answer


class _UntilDeadline(io.RawIOBase):
    """What comes from a socket until one moment, however it comes: a timeout of the socket's own
    begins again with every byte."""

    def __init__(self, connection: "socket.socket", deadline: float) -> None:
        """`deadline`: on the monotonic clock, in seconds."""
        self._connection = connection
        self._deadline = deadline

    def readable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int:
        """See RawIOBase. Raises TimeoutError when the time is up."""
        remaining = self._deadline - time.monotonic()
        if remaining <= 0:
            raise TimeoutError("no whole answer in time")
        self._connection.settimeout(remaining)
        return self._connection.recv_into(buffer)


def fetch_status(replica: int, address: str) -> ReplicaStatus:
    """The status of one replica; not reachable if it does not answer with what it should."""
    try:
        code, body = get(address, "/status")
        document = parse_json(body)
    except (OSError, ValueError):
        return ReplicaStatus(replica, reachable=False)
    if code != 200 or not isinstance(document, dict) or document.get("replica") != replica:
        return ReplicaStatus(replica, reachable=False)
    return ReplicaStatus(
        replica,
        reachable=True,
        role=text_of(document, "role"),
        view=number_of(document, "view"),
        mode=text_of(document, "mode"),
        low_water_mark=number_of(document, "low_water_mark"),
        executed=number_of(document, "executed"),
        state_digest=text_of(document, "state_digest") or None,
        faults=texts_of(document, "faults"),
        state_digest_sequence=number_of(document, "state_digest_sequence"),
    )


def fetch_statuses(addresses: Sequence[str]) -> list[ReplicaStatus]:
    """The status of all replicas, asked at the same time."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(max_workers=len(addresses)) as pool:
        return list(pool.map(fetch_status, range(len(addresses)), addresses))
