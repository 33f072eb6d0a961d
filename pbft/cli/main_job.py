"""`make run`: a cluster that serves while its primaries are killed and its replicas lie.

Never more than f replicas are faulty at a time: what was killed votes again before the next is
hurt. Every claim is checked; one that does not hold makes the command fail.
"""

from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pbft.cli.failure import CommandFailed
from pbft.cli.layout import MAIN_JOB_CLIENTS
from pbft.cli.local import open_or_create, say_next_steps, until_serving
from pbft.cli.options import Seconds, directory_option, format_option
from pbft.cli.output import print_json, print_table, say
from pbft.cli.supervisor import LocalCluster

if TYPE_CHECKING:
    from pbft.cli.observer import Observer
    from pbft.cli.traffic import Traffic
    from pbft_client import Client

CLIENTS = 4
MEDIAN_SECONDS_MAX = 1.0
"""With the default timers: the primary is gone until the next write is acknowledged."""
ROUND_TRIP_KEY = b"main-job/round-trip"
CHECKPOINT_WRITES_MAX = 1_000
"""More than one checkpoint interval of batches."""


@dataclass(frozen=True, slots=True)
class Claim:
    """Something that the account says, and whether it held."""

    claim: str
    outcome: str
    held: bool


@dataclass(slots=True)
class Scene:
    """What the acts of the story share."""

    cluster: LocalCluster
    observer: "Observer"
    traffic: "Traffic"
    client: "Client"
    """Measures; its operations are not part of the traffic."""
    account: list[Claim] = field(default_factory=list)

    def tell(self, claim: str, outcome: str, held: bool) -> None:
        """Adds a line to the account and says it at once."""
        self.account.append(Claim(claim, outcome, held))
        say(f"  {claim}: {outcome}" + ("" if held else "   <-- DOES NOT HOLD"))


@click.command(hidden=True)
@directory_option
@click.option("--kills", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--seconds", type=Seconds(), default=4.0, show_default=True, help="With each liar.")
@format_option
def main_job(directory: Path, kills: int, seconds: float, output: str) -> int:
    """Run the main job: requests go on while replicas are killed and corrupted."""
    import asyncio

    say(f"starting four replicas, each a process with its own disk, in {directory}")
    cluster = open_or_create(directory, None)
    heal(cluster)
    account = asyncio.run(perform(cluster, kills, seconds))
    if output == "json":
        print_json([asdict(claim) for claim in account])
    else:
        say("")
        print_table(
            ["what was claimed", "what happened", "held"],
            [[claim.claim, claim.outcome, claim.held] for claim in account],
        )
    say(f"\nThe cluster in {directory} is still up. Next:")
    say_next_steps(directory, ".venv/bin/pbft" if Path(".venv/bin/pbft").exists() else "pbft")
    return 0 if all(claim.held for claim in account) else 1


def heal(cluster: LocalCluster) -> None:
    """Starts what is down and what an earlier run left corrupt, honestly."""
    from pbft.cli.admin import admin_addresses, fetch_statuses

    corrupt = [
        one.replica
        for one in fetch_statuses(admin_addresses(cluster.layout.cluster_file))
        if one.faults
    ]
    cluster.stop(corrupt)
    for replica in cluster.replicas:
        cluster.start(replica)


async def perform(cluster: LocalCluster, kills: int, seconds: float) -> list[Claim]:
    """The whole story; returns the account. Leaves honest replicas, all started."""
    from pbft.cli.bench import connect_all
    from pbft.cli.observer import Observer
    from pbft.cli.traffic import Traffic

    await until_serving(cluster)
    layout = cluster.layout
    keys = [layout.client_key_file(number) for number in MAIN_JOB_CLIENTS[: CLIENTS + 1]]
    async with AsyncExitStack() as stack:
        measuring, *clients = await connect_all(stack, layout.cluster_file, keys)
        traffic = await stack.enter_async_context(Traffic(clients))
        scene = Scene(cluster, Observer(layout.cluster_file), traffic, measuring)
        say(f"{CLIENTS} clients read and write the same few keys from now on")
        await kill_primaries(scene, kills)
        await suffer_wrong_replies(scene, seconds)
        await suffer_equivocation(scene, seconds)
        await traffic.stop()
        await traffic.read_all()
        await judge(scene)
        return scene.account


async def kill_primaries(scene: Scene, kills: int) -> None:
    """kill -9 of the primary, again and again; how long until the next write is acknowledged?"""
    import asyncio
    import statistics

    say(f"\nkill -9 of the primary, {kills} times")
    loop = asyncio.get_running_loop()
    times = []
    view = await scene.observer.wait_for_view()
    for _ in range(kills):
        primary = scene.observer.thresholds.primary_of(view)
        begin = loop.time()
        await asyncio.to_thread(scene.cluster.kill, primary)
        await scene.client.put(ROUND_TRIP_KEY, str(begin).encode())
        times.append(loop.time() - begin)
        view = await scene.observer.wait_for_view(above=view)
        await asyncio.to_thread(scene.cluster.start, primary)
        await scene.observer.wait_until_voting(primary)
        say(
            f"  replica {primary} killed; next write acknowledged after {times[-1]:.2f} s; "
            f"view is now {view}; replica {primary} is back and votes"
        )
        # The view may have moved again while the replica came back.
        view = await scene.observer.wait_for_view()
    median = statistics.median(times)
    scene.tell(
        f"primary killed {kills} times: next write within {MEDIAN_SECONDS_MAX:.0f} s (median)",
        f"median {median:.2f} s, longest {max(times):.2f} s",
        median <= MEDIAN_SECONDS_MAX,
    )


async def suffer_wrong_replies(scene: Scene, seconds: float) -> None:
    """A backup answers clients with forged results, under its own good signature."""
    say("\na replica that sends wrong replies to every client")
    view = await scene.observer.wait_for_view()
    liar = scene.observer.thresholds.primary_of(view + 1)
    await restart(scene, liar, ["--fault", "wrong-reply"])
    answered = await let_run(scene, seconds)
    faults = (await scene.observer.statuses())[liar].faults
    scene.tell(
        f"replica {liar} lies to the clients: they go on, and believe nothing of it",
        f"{answered} requests answered meanwhile",
        answered > 0 and faults == ["wrong-reply"],
    )
    await restart(scene, liar)


async def suffer_equivocation(scene: Scene, seconds: float) -> None:
    """The primary proposes different batches to different backups.

    It is corrupted while it serves: were it stopped for that, the others would leave its view
    before it can do any harm.
    """
    import asyncio

    from pbft.cli.fault import send_command

    say("\nthe primary is told to propose different batches to different replicas")
    view = await scene.observer.wait_for_view()
    traitor = scene.observer.thresholds.primary_of(view)
    command: dict[str, object] = {"action": "set", "behaviour": "equivocate", "options": {}}
    file = scene.cluster.layout.cluster_file
    await asyncio.to_thread(send_command, file, traitor, command)
    answered = await let_run(scene, seconds)
    honest = [replica for replica in scene.cluster.replicas if replica != traitor]
    proofs = [await scene.observer.evidence_against(traitor, witness) for witness in honest]
    faults = (await scene.observer.statuses())[traitor].faults
    scene.tell(
        f"primary {traitor} equivocates: no fork, requests go on, its own signatures prove it",
        f"{answered} requests answered meanwhile, {sum(proofs)} proofs against it",
        answered > 0 and sum(proofs) > 0 and faults == ["equivocate"],
    )
    await restart(scene, traitor)


async def restart(scene: Scene, replica: int, options: Sequence[str] = ()) -> None:
    """Stops and starts a replica; returns when it votes again."""
    import asyncio

    await asyncio.to_thread(scene.cluster.stop, [replica])
    command = ["--allow-fault-injection", *options]
    await asyncio.to_thread(scene.cluster.start, replica, command)
    await scene.observer.wait_until_voting(replica)


async def let_run(scene: Scene, seconds: float) -> int:
    """Watches the traffic for a while; returns how many requests were answered."""
    import asyncio

    before = scene.traffic.acknowledged
    await asyncio.sleep(seconds)
    scene.traffic.check_running()
    return scene.traffic.acknowledged - before


async def judge(scene: Scene) -> None:
    """What all the clients saw, and what all the replicas hold."""
    import asyncio

    from pbft.sim.checkers import check_black_box, check_the_checkers, check_witness

    say("\nwhat the clients saw, and what the replicas hold")
    traffic = scene.traffic
    for failure in traffic.failures:
        say(f"  failed: {failure}")
    scene.tell(
        "every request is answered",
        f"{traffic.acknowledged} requests served, {traffic.failed} failed",
        traffic.acknowledged > 0 and traffic.failed == 0,
    )
    await asyncio.to_thread(check_the_checkers)
    for name, check in (("order of execution", check_witness), ("clients", check_black_box)):
        violation = await asyncio.to_thread(check, traffic.history)
        scene.tell(
            f"the history is linearizable (judged by the {name})",
            "yes" if violation is None else str(violation),
            violation is None,
        )
    replicas = scene.cluster.replicas
    sequence, digests = await compare_states(scene.observer, scene.client, replicas)
    scene.tell(
        "all replicas hold the same state",
        f"at sequence {sequence}: {', '.join(sorted({digest[:12] for digest in digests}))}",
        len(set(digests)) == 1,
    )


async def compare_states(
    observer: "Observer", client: "Client", replicas: Sequence[int]
) -> tuple[int, list[str]]:
    """Writes until the next checkpoint, which covers all that was executed; returns it and the
    digest of each replica there. Raises CommandFailed if it does not come."""
    goal = max(one.executed or 0 for one in await observer.statuses())
    for number in range(CHECKPOINT_WRITES_MAX):
        result = await client.put(ROUND_TRIP_KEY, str(number).encode())
        marks = [one.state_digest_sequence or 0 for one in await observer.statuses()]
        if min(marks) >= goal:
            return await observer.wait_for_checkpoint(goal, replicas)
    raise CommandFailed(f"no checkpoint at or above {goal} by {result.execution.sequence}")
