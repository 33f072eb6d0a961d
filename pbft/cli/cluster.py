"""`pbft cluster`: what each replica says about itself, side by side."""

from pathlib import Path

import click

from pbft.cli import exit_codes
from pbft.cli.admin import ReplicaStatus, admin_addresses, fetch_statuses, get
from pbft.cli.options import cluster_option, format_option
from pbft.cli.output import print_json, print_table, say
from pbft.quorum import Thresholds

DIGEST_CHARACTERS = 12
"""How much of a digest a table shows; JSON has all of it."""


@click.group()
def cluster() -> None:
    """Look at a cluster."""


@cluster.command()
@cluster_option
@format_option
def status(cluster_file: Path, output: str) -> int:
    """One row per replica: role, view, how far it is, the digest of its state."""
    statuses = fetch_statuses(admin_addresses(cluster_file))
    if output == "json":
        print_json([one.to_json() for one in statuses])
    else:
        columns = [name for name in statuses[0].to_json() if name != "state_digest_sequence"]
        print_table(columns, [_row(one, columns) for one in statuses])
    return _enough([one.reachable for one in statuses], Thresholds.of(len(statuses)).weak)


@cluster.command()
@cluster_option
@format_option
def health(cluster_file: Path, output: str) -> int:
    """Whether a quorum of replicas is ready; exit code 3 if not."""
    from concurrent.futures import ThreadPoolExecutor

    addresses = admin_addresses(cluster_file)
    with ThreadPoolExecutor(max_workers=2 * len(addresses)) as pool:
        live = list(pool.map(lambda address: _answers(address, "/livez"), addresses))
        ready = list(pool.map(lambda address: _answers(address, "/readyz"), addresses))
    columns = ["replica", "live", "ready"]
    rows = list(zip(range(len(addresses)), live, ready, strict=True))
    if output == "json":
        print_json([dict(zip(columns, row, strict=True)) for row in rows])
    else:
        print_table(columns, rows)
    return _enough(ready, Thresholds.of(len(addresses)).quorum)


@cluster.command(name="hash")
@cluster_option
@format_option
def hash_command(cluster_file: Path, output: str) -> int:
    """Compare the digests of the replicas' states; exit code 4 if two differ at one sequence."""
    statuses = fetch_statuses(admin_addresses(cluster_file))
    columns = ["replica", "executed", "state_digest_sequence", "state_digest"]
    rows = [[getattr(one, name) for name in columns] for one in statuses]
    if output == "json":
        print_json([dict(zip(columns, row, strict=True)) for row in rows])
    else:
        print_table(columns, rows)
    if digests_differ(statuses):
        say("the states differ at one sequence number: at least one replica is corrupt")
        return exit_codes.VERIFICATION_FAILED
    return _enough([one.reachable for one in statuses], Thresholds.of(len(statuses)).weak)


@cluster.command()
@cluster_option
@format_option
def members(cluster_file: Path, output: str) -> None:
    """The replicas of the genesis, with their keys and addresses."""
    from pbft_client.cluster_file import load_cluster_file, load_genesis

    addresses = load_cluster_file(cluster_file)
    genesis = load_genesis(addresses)
    columns = ["replica", "client", "admin", "public_key"]
    rows = [
        [index, replica.client, replica.admin, key.hex()]
        for index, (replica, key) in enumerate(
            zip(addresses.replicas, genesis.replicas, strict=True)
        )
    ]
    if output == "json":
        print_json([dict(zip(columns, row, strict=True)) for row in rows])
    else:
        print_table(columns, rows)


def digests_differ(statuses: list[ReplicaStatus]) -> bool:
    """Whether two replicas tell different digests of one sequence number."""
    seen: dict[int, str] = {}
    for one in statuses:
        sequence, digest = one.state_digest_sequence, one.state_digest
        if sequence is None or digest is None:
            continue
        if seen.setdefault(sequence, digest) != digest:
            return True
    return False


def _row(one: ReplicaStatus, columns: list[str]) -> list[object]:
    digest = one.state_digest
    shown = {**one.to_json(), "state_digest": digest and digest[:DIGEST_CHARACTERS]}
    return [shown[name] for name in columns]


def _answers(address: str, path: str) -> bool:
    try:
        return get(address, path)[0] == 200
    except OSError:
        return False


def _enough(answers: list[bool], needed: int) -> int:
    """The exit code for a cluster of which these replicas answered."""
    if sum(answers) >= needed:
        return exit_codes.OK
    silent = ", ".join(str(index) for index, answer in enumerate(answers) if not answer)
    say(f"{sum(answers)} of {len(answers)} replicas answered, {needed} needed (not: {silent})")
    return exit_codes.TOO_FEW_REPLICAS
