"""The one-shot `init` service of docker-compose.yml: makes a cluster and deals it out.

It runs as root, because a new volume belongs to root, with the volumes of all replicas and that of
the clients mounted under VOLUMES. Each replica's volume gets what is public and that replica's own
directory; the clients' volume what is public and the directories of the clients and the operator.
Afterwards nothing holds all the keys, and nobody the authority's: they were made in memory. A
second run finds the cluster and changes nothing.
"""

import io
import os
import shutil
import stat
import sys
import tempfile
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path

from pbft.cli.main import run
from pbft_client.cluster_file import (
    ClusterFile,
    ReplicaAddresses,
    dump_cluster_file,
    load_cluster_file,
)

VOLUMES = Path("/volumes")
CLIENTS = VOLUMES / "clients"
OWNER = 10001
"""The numeric user and group that the image runs as."""
BASE_PORT = 7400
"""The first of the ports that docker-compose.yml publishes."""
CLUSTER = "cluster.toml"
"""For clients on the host, through the published ports. Written last: it marks a whole cluster."""
INSIDE = "inside.toml"
"""For clients in a container, through the client network."""
TO_CLIENTS = ("clients", "operator")
"""Directories of those who use and run the cluster. The authority's goes to nobody: whoever has
its key can pass as anybody."""
PUBLIC = stat.S_IRGRP | stat.S_IROTH


class SetUpFailed(Exception):
    """The text says why and what to do."""


def main() -> int:
    """Makes the cluster, unless it is there."""
    volumes = {int(path.name.removeprefix("replica")): path for path in VOLUMES.glob("replica*")}
    try:
        if (CLIENTS / CLUSTER).exists():
            report_existing(volumes)
        else:
            refuse_remains([*volumes.values(), CLIENTS])
            make_cluster(volumes)
    except SetUpFailed as failure:
        print(f"error: {failure}", file=sys.stderr)
        return 1
    return 0


def report_existing(volumes: dict[int, Path]) -> None:
    """Says that the cluster is kept, and which replicas have lost their volume.

    A lost one is not made anew: a replica without its memory must not vote under its old key.
    """
    print("the cluster exists, nothing is changed")
    for replica, volume in sorted(volumes.items()):
        if not (volume / f"replica{replica}").exists():
            print(f"replica {replica} has lost its volume and will not start", file=sys.stderr)


def refuse_remains(volumes: list[Path]) -> None:
    """Raises SetUpFailed if a volume holds anything, although the cluster is not whole."""
    for volume in volumes:
        if any(volume.iterdir()):
            raise SetUpFailed(
                f"{volume.name} is not empty, but the cluster is not whole, and nothing is ever "
                "overwritten: `docker-compose down --volumes` removes what is there"
            )


def make_cluster(volumes: dict[int, Path]) -> None:
    """Makes all files in memory and deals them out. Raises SetUpFailed."""
    with tempfile.TemporaryDirectory() as directory:
        testnet = Path(directory) / "testnet"
        make_testnet(testnet, len(volumes))
        for replica, volume in sorted(volumes.items()):
            deal_to_replica(testnet, replica, volume)
        deal_to_clients(testnet)
    print(f"a new cluster of {len(volumes)} replicas")


def make_testnet(testnet: Path, replicas: int) -> None:
    """Genesis, keys and configurations. Raises SetUpFailed."""
    command = ["testnet", "init", "--replicas", str(replicas), "--out", str(testnet)]
    command += ["--base-port", str(BASE_PORT), "--listen", "0.0.0.0", "--peer-host", "peer{}"]
    command += ["--client-host", os.environ["PBFT_PUBLISH_ADDRESS"]]
    command += ["--write-out", "json"]
    with redirect_stdout(io.StringIO()):
        # Its account names a directory that is about to go.
        code = run(command)
    if code != 0:
        raise SetUpFailed("the files of the cluster could not be made")


def deal_to_replica(testnet: Path, replica: int, volume: Path) -> None:
    """What is public, the replica's own directory, and an empty data directory."""
    copy_public_files(testnet, volume)
    own = volume / f"replica{replica}"
    shutil.copytree(testnet / own.name, own)
    if run(["storage", "init", "--config", str(own / "replica.toml")]) != 0:
        raise SetUpFailed(f"replica {replica} got no data directory")
    give_away(own)


def copy_public_files(testnet: Path, volume: Path) -> None:
    """Genesis and the authority's certificate: what others may read, but for the addresses."""
    for path in testnet.iterdir():
        if path.is_file() and path.stat().st_mode & PUBLIC and path.name != CLUSTER:
            shutil.copy(path, volume)


def deal_to_clients(testnet: Path) -> None:
    """All that is neither a replica's nor the authority's private key, which nobody keeps, and a
    second file of addresses for the client network."""
    for path in testnet.iterdir():
        if path.is_file() and path.name != CLUSTER:
            shutil.copy(path, CLIENTS)
        elif path.is_dir() and not path.name.startswith(("replica", "authority")):
            shutil.copytree(path, CLIENTS / path.name)
    shutil.copy(testnet / CLUSTER, CLIENTS / f"{CLUSTER}.partial")
    inside = addresses_inside(load_cluster_file(CLIENTS / f"{CLUSTER}.partial"))
    (CLIENTS / INSIDE).write_text(dump_cluster_file(inside, CLIENTS))
    for path in CLIENTS.iterdir():
        give_away(path)
    (CLIENTS / f"{CLUSTER}.partial").rename(CLIENTS / CLUSTER)


def addresses_inside(cluster: ClusterFile) -> ClusterFile:
    """The same cluster, each replica called by the name of its service."""
    replicas = []
    for index, addresses in enumerate(cluster.replicas):
        assert addresses.admin is not None
        ports = (text.rpartition(":")[2] for text in (addresses.client, addresses.admin))
        replicas.append(ReplicaAddresses(*(f"replica{index}:{port}" for port in ports)))
    return replace(cluster, replicas=tuple(replicas))


def give_away(path: Path) -> None:
    """Makes the image's user the owner of a file or of a whole directory.

    Deepest first: root has no rights here in a directory that is no longer its own.
    """
    for directory, names, files in os.walk(path, topdown=False):
        for name in [*names, *files]:
            os.lchown(Path(directory) / name, OWNER, OWNER)
    os.lchown(path, OWNER, OWNER)


if __name__ == "__main__":
    sys.exit(main())
