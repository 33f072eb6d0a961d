"""Where everything of a local cluster lies: DIR as `pbft testnet init` and `pbft up` make it."""

import re
from dataclasses import dataclass
from pathlib import Path

DEFAULT_DIRECTORY = Path(".pbft")
DEFAULT_CLUSTER_FILE = DEFAULT_DIRECTORY / "cluster.toml"

COMMAND_CLIENT = 0
"""The client key that the commands sign with."""
MAIN_JOB_CLIENTS = range(1, 16)
"""Keys of the main job and of other scripted runs."""
BENCH_CLIENTS_START = 16
"""`pbft bench` uses this key and those above it, so that it never shares a session with a
command."""
_REPLICA_DIRECTORY = re.compile("replica(0|[1-9][0-9]*)")
"""Exactly the names that `replica_directory` makes: `replica03` would be replica 3 twice."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Paths below one directory. Nothing here touches the disk except where a name says so."""

    directory: Path

    @property
    def genesis_file(self) -> Path:
        """Shared by everybody; its hash is the cluster id."""
        return self.directory / "genesis.toml"

    @property
    def cluster_file(self) -> Path:
        """Addresses for clients."""
        return self.directory / "cluster.toml"

    @property
    def clients_directory(self) -> Path:
        """Private keys of the clients, `<i>.key`."""
        return self.directory / "clients"

    def client_key_file(self, client: int) -> Path:
        """Private key of client number `client`."""
        return self.clients_directory / f"{client}.key"

    def client_certificate_file(self, client: int) -> Path:
        """TLS certificate, with its private key, of client number `client`."""
        return self.clients_directory / f"{client}.pem"

    @property
    def authority_file(self) -> Path:
        """Certificate of the authority that signed all others; everybody has it."""
        return self.directory / "authority.pem"

    @property
    def authority_key_file(self) -> Path:
        """The authority's private key: only to make more certificates."""
        return self.directory / "authority" / "authority.key"

    @property
    def operator_file(self) -> Path:
        """The operator's TLS certificate with its private key."""
        return self.directory / "operator" / "operator.pem"

    def replica_directory(self, replica: int) -> Path:
        """Everything that belongs to one replica alone."""
        return self.directory / f"replica{replica}"

    def configuration_file(self, replica: int) -> Path:
        """The TOML that `pbft start` reads."""
        return self.replica_directory(replica) / "replica.toml"

    def replica_key_file(self, replica: int) -> Path:
        """The replica's private key: its own directory, so that a container can mount it alone."""
        return self.replica_directory(replica) / "replica.key"

    def replica_certificate_file(self, replica: int) -> Path:
        """The replica's TLS certificate with its private key."""
        return self.replica_directory(replica) / "replica.pem"

    def data_directory(self, replica: int) -> Path:
        """Vote log and state; made by `pbft storage init`."""
        return self.replica_directory(replica) / "data"

    def log_file(self, replica: int) -> Path:
        """What the process writes to stdout and stderr under `pbft up`."""
        return self.replica_directory(replica) / "replica.log"

    def process_file(self, replica: int) -> Path:
        """Which process `pbft up` started last for this replica."""
        return self.replica_directory(replica) / "process.json"

    def exists(self) -> bool:
        """Whether a testnet was made here: cluster.toml is written last (reads the disk)."""
        return self.cluster_file.exists()

    def replicas(self) -> list[int]:
        """Indices of the replicas that have a directory here, ascending (reads the disk). What is
        named otherwise, such as a copy in `replica3.bak`, is no replica's."""
        names = (path.parent.name for path in self.directory.glob("replica*/replica.toml"))
        matches = (_REPLICA_DIRECTORY.fullmatch(name) for name in names)
        return sorted(int(match[1]) for match in matches if match is not None)
