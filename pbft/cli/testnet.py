"""`pbft testnet init`: genesis, keys, configurations and addresses of a new cluster."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pbft.cli.failure import CommandFailed
from pbft.cli.layout import COMMAND_CLIENT, Layout
from pbft.cli.options import directory_option, format_option
from pbft.cli.output import print_json, say
from pbft.quorum import MAX_REPLICAS, MIN_REPLICAS

if TYPE_CHECKING:
    from pbft.genesis import Genesis

CLIENTS_DEFAULT = 256
HOST = "127.0.0.1"
PORTS_PER_REPLICA = 3
"""Client, peer and admin listener, in this order."""
FREE_PORTS_START = 20_000
FREE_PORTS_END_FALLBACK = 32_768
FREE_PORTS_ATTEMPTS = 200
PARTIAL = ".partial-"
"""In the name of a directory in which the files of a testnet are made before they go to their
place."""


@dataclass(frozen=True, slots=True)
class ReplicaPorts:
    """Where one replica listens on this machine."""

    client: int
    peer: int
    admin: int


@dataclass(frozen=True, slots=True)
class Hosts:
    """Where the replicas listen and what others call them; `{}` stands for a replica's index."""

    listen: str = HOST
    peer: str = HOST
    client: str = HOST

    @staticmethod
    def of(template: str, replica: int) -> str:
        """The name of one replica."""
        return template.replace("{}", str(replica))


ON_THIS_MACHINE = Hosts()


@click.group()
def testnet() -> None:
    """Make the files of a new cluster."""


@testnet.command()
@click.option(
    "--replicas",
    type=click.IntRange(MIN_REPLICAS, MAX_REPLICAS),
    default=4,
    show_default=True,
    help="n; (n - 1) / 3 of them may be faulty.",
)
@click.option(
    "--out",
    "directory",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="A directory that does not exist yet, or is empty.",
)
@click.option(
    "--clients",
    type=click.IntRange(min=1),
    default=CLIENTS_DEFAULT,
    show_default=True,
    help="How many client keys to make; all are admitted.",
)
@click.option(
    "--base-port",
    type=click.IntRange(1, 65_535),
    default=None,
    help="Replica i listens on P+3i (clients), P+3i+1 (peers), P+3i+2 (admin).  [default: free]",
)
@click.option(
    "--listen",
    default=HOST,
    show_default=True,
    metavar="ADDRESS",
    help="Where each replica listens, e.g. 0.0.0.0 in a container.",
)
@click.option(
    "--peer-host",
    default=HOST,
    show_default=True,
    metavar="HOST",
    help="What the peers call replica i; {} stands for i.",
)
@click.option(
    "--client-host",
    default=HOST,
    show_default=True,
    metavar="HOST",
    help="What the clients call replica i; {} stands for i.",
)
@click.option(
    "--insecure",
    is_flag=True,
    help="Plain text, no certificates: for a network that is itself trusted.",
)
@format_option
def init(
    replicas: int,
    directory: Path,
    clients: int,
    base_port: int | None,
    listen: str,
    peer_host: str,
    client_host: str,
    insecure: bool,
    output: str,
) -> None:
    """Write genesis, keys and one configuration per replica into a new directory."""
    hosts = Hosts(listen, peer_host, client_host)
    layout = create_testnet(directory, replicas, clients, base_port, hosts=hosts, insecure=insecure)
    if output == "json":
        print_json({"directory": str(directory), "replicas": replicas, "clients": clients})
        return
    say(f"{directory}: a cluster of {replicas} replicas, {clients} client keys")
    if insecure:
        say("warning: it talks in plain text, and nothing but signatures tells who connects")
    configuration = layout.configuration_file(0)
    say(f"next, for each replica: pbft storage init --config {configuration}")
    say(f"                        pbft start --config {configuration}")


@testnet.command()
@directory_option
def renew(directory: Path) -> None:
    """Make all certificates anew, before they expire, by the same authority.

    A replica takes its own when it starts: restart them one after the other.
    """
    from pbft.cli.certificates import renew_certificates
    from pbft.genesis import parse_genesis

    layout = Layout(directory.absolute())
    if not layout.authority_key_file.exists():
        raise CommandFailed(f"{layout.authority_key_file} is not there: nothing else can sign")
    count = renew_certificates(layout, parse_genesis(layout.genesis_file.read_bytes()))
    say(f"{directory}: {count} new certificates; restart the replicas one after the other")


def create_testnet(
    directory: Path,
    replicas: int,
    clients: int = CLIENTS_DEFAULT,
    base_port: int | None = None,
    initialise_storage: bool = False,
    hosts: Hosts = ON_THIS_MACHINE,
    insecure: bool = False,
) -> Layout:
    """Makes a whole testnet or nothing: its files appear in the directory when all are made.

    Raises CommandFailed if the directory holds anything already, or another command is quicker to
    fill it: keys are never overwritten.
    """
    layout = Layout(directory.absolute())
    _require_empty(layout.directory)
    ports = choose_ports(replicas, base_port)
    layout.directory.parent.mkdir(parents=True, exist_ok=True)
    with _partial(layout) as partial:
        genesis = _write_keys(partial, replicas, clients)
        for replica in range(replicas):
            _write_configuration(partial, replica, ports, hosts, insecure)
            if initialise_storage:
                from pbft.storage import directory as storage

                storage.create(partial.data_directory(replica), genesis.cluster_id, replica)
        if not insecure:
            from pbft.cli.certificates import create_certificates

            create_certificates(partial, genesis)
        _write_cluster_file(partial, ports, hosts, insecure)
        _publish(partial, layout)
    return layout


def _require_empty(directory: Path) -> None:
    """Refuses what is not empty; what other commands are making in there does not count yet."""
    if directory.exists() and not directory.is_dir():
        raise CommandFailed(f"{directory} is a file: name a new directory")
    if directory.exists() and not all(
        path.name.startswith(PARTIAL) for path in directory.iterdir()
    ):
        raise CommandFailed(
            f"{directory} is not empty, and nothing is ever overwritten: name another "
            "directory, or remove this one if nothing in it is needed"
        )


@contextmanager
def _partial(layout: Layout) -> Iterator[Layout]:
    """A directory to make the testnet in, gone at the end if it is still there.

    It is beside the one that is wanted; inside, if that exists: it may be a mounted volume, or the
    working directory of a shell, and has to stay what it is.
    """
    import secrets
    import shutil

    name = f"{PARTIAL}{secrets.token_hex(8)}"
    if layout.directory.exists():
        directory = layout.directory / name
    else:
        directory = layout.directory.with_name(layout.directory.name + name)
    try:
        directory.mkdir()
        yield Layout(directory)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _publish(partial: Layout, layout: Layout) -> None:
    """Puts the files in their place. A directory does not take the place of one that holds
    something: so of several commands that make a testnet there at once, the first wins.
    """
    import errno

    try:
        if partial.directory.parent == layout.directory:
            _move_files(partial, layout.directory)
        else:
            partial.directory.rename(layout.directory)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        raise CommandFailed(
            f"another command has made {layout.directory} at the same time; it was left as it is"
        ) from error


def _move_files(partial: Layout, directory: Path) -> None:
    """First the clients' directory, which decides who wins; last the file that says that all is
    there."""
    ends = (partial.clients_directory, partial.cluster_file)
    middle = [path for path in partial.directory.iterdir() if path not in ends]
    for path in (partial.clients_directory, *middle, partial.cluster_file):
        path.rename(directory / path.name)


def _write_keys(layout: Layout, replicas: int, clients: int) -> "Genesis":
    """Keys of all, and the genesis that names them."""
    import secrets

    from pbft.crypto.keys import generate_key_pair, save_key_pair
    from pbft.genesis import Genesis, dump_genesis, parse_genesis

    replica_keys = [generate_key_pair() for _ in range(replicas)]
    client_keys = [generate_key_pair() for _ in range(clients)]
    document = dump_genesis(
        Genesis(
            nonce=secrets.token_bytes(32),
            replicas=tuple(key.public for key in replica_keys),
            clients=frozenset(key.public for key in client_keys),
        )
    )
    layout.genesis_file.write_bytes(document)
    for client, key in enumerate(client_keys):
        save_key_pair(layout.client_key_file(client), key)
    for replica, key in enumerate(replica_keys):
        save_key_pair(layout.replica_key_file(replica), key)
    return parse_genesis(document)


def _write_configuration(
    layout: Layout, replica: int, ports: Sequence[ReplicaPorts], hosts: Hosts, insecure: bool
) -> None:
    from pbft.node.config import Address, NodeConfiguration, dump_configuration

    configuration = NodeConfiguration(
        replica=replica,
        genesis=layout.genesis_file,
        key=layout.replica_key_file(replica),
        data=layout.data_directory(replica),
        peer_address=Address(hosts.listen, ports[replica].peer),
        client_address=Address(hosts.listen, ports[replica].client),
        admin_address=Address(hosts.listen, ports[replica].admin),
        peers={
            other: Address(Hosts.of(hosts.peer, other), address.peer)
            for other, address in enumerate(ports)
            if other != replica
        },
        certificate=None if insecure else layout.replica_certificate_file(replica),
        authority=None if insecure else layout.authority_file,
        insecure=insecure,
    )
    path = layout.configuration_file(replica)
    path.write_text(dump_configuration(configuration, relative_to=path.parent))


def _write_cluster_file(
    layout: Layout, ports: Sequence[ReplicaPorts], hosts: Hosts, insecure: bool
) -> None:
    from pbft_client.cluster_file import ClusterFile, ReplicaAddresses, dump_cluster_file

    names = [Hosts.of(hosts.client, replica) for replica in range(len(ports))]
    cluster = ClusterFile(
        genesis=layout.genesis_file,
        replicas=tuple(
            ReplicaAddresses(client=f"{name}:{one.client}", admin=f"{name}:{one.admin}")
            for name, one in zip(names, ports, strict=True)
        ),
        key=layout.client_key_file(COMMAND_CLIENT),
        certificate=None if insecure else layout.client_certificate_file(COMMAND_CLIENT),
        authority=None if insecure else layout.authority_file,
        operator=None if insecure else layout.operator_file,
        insecure=insecure,
    )
    layout.cluster_file.write_text(dump_cluster_file(cluster, layout.directory))


def choose_ports(replicas: int, base_port: int | None) -> list[ReplicaPorts]:
    """Ports from `base_port` on, or a block that is free now. Raises CommandFailed.

    Free ones lie below the range from which the kernel takes ports for outgoing connections:
    otherwise a connection of somebody else could sit on the port of a replica that is down.
    """
    import secrets

    count = replicas * PORTS_PER_REPLICA
    if base_port is not None:
        if base_port + count - 1 > 65_535:
            raise CommandFailed(f"--base-port {base_port}: {count} ports do not fit below 65536")
        return _ports_from(base_port, replicas)
    end = _outgoing_ports_start()
    for _ in range(FREE_PORTS_ATTEMPTS):
        start = FREE_PORTS_START + secrets.randbelow(end - FREE_PORTS_START - count)
        if _all_free(range(start, start + count)):
            return _ports_from(start, replicas)
    raise CommandFailed(f"no {count} free ports in a row were found: choose with --base-port")


def _ports_from(start: int, replicas: int) -> list[ReplicaPorts]:
    return [
        ReplicaPorts(first, first + 1, first + 2)
        for first in range(start, start + replicas * PORTS_PER_REPLICA, PORTS_PER_REPLICA)
    ]


def _outgoing_ports_start() -> int:
    try:
        text = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text()
    except OSError:
        return FREE_PORTS_END_FALLBACK
    start = int(text.split()[0])
    return start if start > FREE_PORTS_START + 1_000 else FREE_PORTS_END_FALLBACK


def _all_free(ports: range) -> bool:
    import socket

    with ExitStack() as stack:
        for port in ports:
            listener = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
            try:
                listener.bind((HOST, port))
            except OSError:
                return False
    return True
