"""The demos that a local cluster of processes plays: real replicas, real messages, real kills."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from pbft.cli.demos.diagram import Diagram, Mark, Message, Phase
from pbft.cli.demos.story import Story, commas
from pbft.cli.demos.watching import (
    ANSWERS_WAIT_SECONDS,
    CLIENT,
    SAW,
    ClientLog,
    Seen,
    Slot,
    Watch,
    WatchedClient,
    draw_replies,
    draw_request,
    draw_slot,
    lanes,
    names,
    read_after_replies,
    saw_rows,
    slot_of,
)
from pbft.cli.failure import CommandFailed
from pbft.cli.fault import send_command
from pbft.cli.layout import MAIN_JOB_CLIENTS
from pbft.cli.observer import Observer
from pbft.cli.supervisor import LocalCluster
from pbft.quorum import Thresholds
from pbft.types import ReplicaId, View
from pbft_client.errors import ClientError
from pbft_client.results import PutResult

WRITE_SECONDS = 20.0
CUT_OFF_SECONDS = 2.5
"""Longer than a request timeout: the replicas had the time to do something wrong."""
EQUIVOCATED_WRITES = 5
CHECKPOINT_WRITES_MAX = 600
"""More than two checkpoint intervals of batches."""


@dataclass(slots=True)
class Stage:
    """What the scenes of a demo work with."""

    story: Story
    cluster: LocalCluster
    client: WatchedClient
    watch: Watch
    observer: Observer

    @property
    def thresholds(self) -> Thresholds:
        """Of the cluster."""
        return self.observer.thresholds

    @property
    def replicas(self) -> list[ReplicaId]:
        """All of them."""
        return list(range(self.thresholds.replicas))

    async def primary(self) -> tuple[View, ReplicaId]:
        """The view in which a quorum works, and its primary."""
        view = await self.observer.wait_for_view()
        return view, self.thresholds.primary_of(view)

    async def command(
        self, replica: ReplicaId, action: str, behaviour: str, **options: str
    ) -> None:
        """`pbft fault set` or `clear`."""
        document: dict[str, object] = {"action": action, "behaviour": behaviour, "options": options}
        cluster_file = self.cluster.layout.cluster_file
        await asyncio.to_thread(send_command, cluster_file, replica, document)

    async def write(
        self, key: bytes, value: bytes
    ) -> tuple[PutResult, Slot, ClientLog, list[Seen]]:
        """One acknowledged put, the slot that it got, what the client sent and was told, and
        everything that the replicas told meanwhile."""
        await asyncio.to_thread(self.watch.read)
        self.client.log.clear()
        result = await self.client.put(key, value, timeout=WRITE_SECONDS)
        seen = await read_after_replies(self.watch)
        log = self.client.log.of(result.execution.number)
        return result, slot_of(seen, result.execution.sequence), log, seen

    async def reads_back(self, key: bytes) -> str:
        """The value that f + 1 replicas vouch for, as text."""
        found = await self.client.get(key, consistency="ordered", timeout=WRITE_SECONDS)
        return "nothing" if found is None else found.value.decode()

    def diagram(self, *faulty: ReplicaId) -> Diagram:
        """An empty picture; the faulty replicas are marked."""
        return Diagram(names(len(self.replicas)), frozenset(one + 1 for one in faulty))


Scene = Callable[[Stage], Awaitable[None]]


def on_stage(scene: Scene) -> Callable[[Story, LocalCluster], Awaitable[None]]:
    """Makes a demo of a scene: all replicas up and honest, a client connected."""

    async def perform(story: Story, cluster: LocalCluster) -> None:
        for replica in cluster.replicas:
            cluster.start(replica)
        layout = cluster.layout
        observer = Observer(layout.cluster_file)
        await make_honest(observer, cluster)
        key = layout.client_key_file(MAIN_JOB_CLIENTS[-1])
        async with await WatchedClient.of(layout.cluster_file, key) as client:
            await hear_all(client, len(cluster.replicas))
            watch = Watch(layout.cluster_file)
            await scene(Stage(story, cluster, client, watch, observer))

    return perform


async def make_honest(observer: Observer, cluster: LocalCluster) -> None:
    """Every replica up, at work in one view, and without faults."""
    for replica in cluster.replicas:
        await observer.wait_until_reachable(replica)
        command: dict[str, object] = {"action": "clear"}
        await asyncio.to_thread(send_command, cluster.layout.cluster_file, replica, command)
    await observer.wait_until_all_work()


async def hear_all(client: WatchedClient, replicas: int) -> None:
    """Returns once every replica has answered the client: those that came up last are connected
    last. Raises CommandFailed if they do not all answer in time."""
    deadline = asyncio.get_running_loop().time() + WRITE_SECONDS
    while asyncio.get_running_loop().time() < deadline:
        client.log.clear()
        result = await client.put(b"demo/begin", b"now", timeout=WRITE_SECONDS)
        await asyncio.sleep(ANSWERS_WAIT_SECONDS)
        answers = client.log.of(result.execution.number).replies
        if len({claim.replica for claim in answers}) == replicas:
            return
    raise CommandFailed(f"not all {replicas} replicas answer the client")


async def normal_case(stage: Stage) -> None:
    """Three phases and the client's f + 1 matching replies."""
    story, thresholds = stage.story, stage.thresholds
    view, primary = await stage.primary()
    story.say(
        f"""A client puts one key. Four replicas, f = {thresholds.faulty}, q = {thresholds.quorum};
        replica {primary} is the primary of view {view}. The digest of the batch stands at each
        vote. A replica does not look at votes that it needs no more: those are not drawn."""
    )
    result, slot, log, _ = await stage.write(b"demo/greeting", b"hello")
    diagram = stage.diagram()
    draw_request(diagram, log)
    draw_slot(diagram, slot, thresholds)
    draw_replies(diagram, log, thresholds.weak)
    story.draw(diagram)
    story.saw(SAW, saw_rows(slot, len(stage.replicas)))
    story.why(
        """the pre-prepare fixes an order, the prepares show that q replicas heard the same one in
        this view, the commits that q replicas know that. Any two quorums share an honest replica,
        so no other batch can get this sequence in any view; and of f + 1 equal replies one is
        honest."""
    )
    executed, supporters = slot.replicas("executed"), log.supporters()
    commits = [len(slot.votes("commit_vote", one)) for one in executed]
    digests = {one.detail for one in slot.seen if one.event in ("prepare_vote", "commit_vote")}
    story.check(
        f"every replica executes at sequence {result.execution.sequence}",
        f"replicas {commas(executed)}",
        executed == stage.replicas,
    )
    story.check(
        "each had a quorum of commits, all votes for one digest",
        f"{commas(commits)} commits, {len(digests)} digest",
        min(commits, default=0) >= thresholds.quorum and len(digests) == 1,
    )
    story.check(
        "the client had f + 1 matching replies of distinct replicas",
        f"of replicas {commas(supporters)}",
        len(supporters) >= thresholds.weak,
    )
    value = await stage.reads_back(b"demo/greeting")
    story.check("what was written is read", value, value == "hello")


async def crashed_backup(stage: Stage) -> None:
    """One backup is killed: nobody notices."""
    story, thresholds = stage.story, stage.thresholds
    view, primary = await stage.primary()
    backup = stage.replicas[primary - 1]
    story.say(f"Replica {backup}, a backup, is killed (kill -9). A client puts one key.")
    await asyncio.to_thread(stage.cluster.kill, backup)
    result, slot, log, _ = await stage.write(b"demo/backup", b"is down")
    diagram = stage.diagram()
    diagram.rows.append(Mark(lanes([backup]), "killed", "✗", ends=True))
    draw_request(diagram, log)
    draw_slot(diagram, slot, thresholds)
    draw_replies(diagram, log, thresholds.weak)
    story.draw(diagram)
    story.saw(SAW, saw_rows(slot, len(stage.replicas)))
    story.why(
        "quorums have n - f replicas at most: no phase ever waits for the f that may be silent."
    )
    alive = [one for one in stage.replicas if one != backup]
    executed = slot.replicas("executed")
    story.check("the others execute", f"replicas {commas(executed)}", executed == alive)
    story.check("the view stays", f"view {slot.view}", slot.view == view)
    await asyncio.to_thread(stage.cluster.start, backup)
    await stage.observer.wait_until_reachable(backup)
    reached = await _wait_until_executed(stage, backup, result.execution.sequence)
    story.check("started again, it catches up", f"executed {reached}", reached > 0)


async def crashed_primary(stage: Stage) -> None:
    """The primary is killed: the others move to the next view."""
    story, thresholds = stage.story, stage.thresholds
    view, primary = await stage.primary()
    story.say(f"Replica {primary}, the primary of view {view}, is killed (kill -9). A client puts.")
    await asyncio.to_thread(stage.watch.read)
    begin = asyncio.get_running_loop().time()
    await asyncio.to_thread(stage.cluster.kill, primary)
    stage.client.log.clear()
    result = await stage.client.put(b"demo/primary", b"was killed", timeout=WRITE_SECONDS)
    seconds = asyncio.get_running_loop().time() - begin
    seen = await read_after_replies(stage.watch)
    slot = slot_of(seen, result.execution.sequence)
    log = stage.client.log.of(result.execution.number)
    diagram = stage.diagram()
    diagram.rows.append(Mark(lanes([primary]), "killed", "✗", ends=True))
    draw_request(diagram, log)
    _draw_view_change(diagram, seen, slot.view, thresholds)
    draw_slot(diagram, slot, thresholds)
    draw_replies(diagram, log, thresholds.weak)
    story.draw(diagram)
    story.saw(SAW, saw_rows(slot, len(stage.replicas)))
    story.why(
        """a view-change carries what its sender had prepared, signed by a quorum. The new primary
        must show q of them, and whatever was committed anywhere is in at least one: every backup
        computes the new-view for itself and accepts no other."""
    )
    alive = [one for one in stage.replicas if one != primary]
    entered = sorted(
        {one.replica for one in seen if one.event == "view_entered" and one.view == slot.view}
    )
    executed = slot.replicas("executed")
    story.check(
        "the others move to a later view with another primary",
        f"replicas {commas(entered)} entered view {slot.view}",
        len(entered) >= thresholds.quorum
        and slot.view > view
        and thresholds.primary_of(slot.view) != primary,
    )
    story.check("the write is acknowledged", f"{seconds:.2f} s after the kill", executed == alive)
    value = await stage.reads_back(b"demo/primary")
    story.check("what was written is read", value, value == "was killed")


def _draw_view_change(
    diagram: Diagram, seen: list[Seen], view: View, thresholds: Thresholds
) -> None:
    """From the suspicion of the old view to the entry into the new one."""
    rows = diagram.rows
    if suspects := sorted({one.replica for one in seen if one.event == "suspected"}):
        rows.append(Mark(lanes(suspects), "suspect", "?"))
    rows.append(Phase(f"view-change to {view}"))
    votes = [one for one in seen if one.event == "view_change_vote" and one.view == view]
    for sender in sorted({one.value for one in votes}):
        told = [one.replica for one in votes if one.value == sender != one.replica]
        if told:
            rows.append(Message(sender + 1, lanes(sorted(set(told)))))
    rows.append(Phase(f"new-view {view}"))
    primary = thresholds.primary_of(view)
    entered = {one.replica for one in seen if one.event == "view_entered" and one.view == view}
    if receivers := sorted(entered - {primary}):
        rows.append(Message(primary + 1, lanes(receivers)))
    rows.append(Mark(lanes(sorted(entered)), "enter", "■"))


async def lying_replica(stage: Stage) -> None:
    """A backup answers the client with forged results."""
    story, thresholds = stage.story, stage.thresholds
    _, primary = await stage.primary()
    liar = stage.replicas[primary - 1]
    story.say(
        f"""Replica {liar}* takes part in the protocol but lies to every client, under its own good
        signature (pbft fault set {liar} wrong-reply)."""
    )
    await stage.command(liar, "set", "wrong-reply")
    _, slot, log, _ = await stage.write(b"demo/truth", b"is told")
    diagram = stage.diagram(liar)
    draw_request(diagram, log)
    draw_slot(diagram, slot, thresholds)
    draw_replies(diagram, log, thresholds.weak)
    story.draw(diagram)
    rows: list[list[object]] = [
        [sequence, time_us, results[:16], commas(voters)]
        for (sequence, time_us, results), voters in log.claims()
    ]
    story.saw(["the client was told: sequence", "agreed time", "results", "by replicas"], rows)
    story.why("a result counts once f + 1 replicas vouch for it, and f liars are one too few.")
    supporters = log.supporters()
    answered = {claim.replica for claim in log.replies}
    story.check("the liar did answer", f"replicas {commas(sorted(answered))}", liar in answered)
    story.check(
        "what the client believed, f + 1 honest replicas said",
        f"replicas {commas(supporters)}",
        liar not in supporters and len(supporters) >= thresholds.weak,
    )
    value = await stage.reads_back(b"demo/truth")
    await stage.command(liar, "clear", "wrong-reply")
    story.check("what was written is read", value, value == "is told")


async def equivocating_primary(stage: Stage) -> None:
    """The primary proposes different batches to different backups."""
    story, thresholds = stage.story, stage.thresholds
    view, traitor = await stage.primary()
    story.say(
        f"""Replica {traitor}*, the primary of view {view}, tells different backups different
        batches for one sequence, all well signed (pbft fault set {traitor} equivocate). The digests
        at the votes show who was told which story."""
    )
    await stage.command(traitor, "set", "equivocate")
    pictured: Slot | None = None
    told = ClientLog()
    for number in range(EQUIVOCATED_WRITES):
        _, slot, log, seen = await stage.write(b"demo/story", str(number).encode())
        if pictured is None and len(_stories(seen, slot)) > 1:
            pictured, told = slot, log
    value = await stage.reads_back(b"demo/story")
    if pictured is not None:
        diagram = stage.diagram(traitor)
        draw_request(diagram, told)
        draw_slot(diagram, pictured, thresholds)
        draw_replies(diagram, told, thresholds.weak)
        story.draw(diagram)
        story.saw(SAW, saw_rows(pictured, len(stage.replicas)))
    story.why(
        """a quorum for one batch and a quorum for another would share an honest replica, which
        prepares only one batch per view and sequence. So at most one story can be agreed on; and
        two signed stories are a proof against their author, which anybody can check."""
    )
    honest = [one for one in stage.replicas if one != traitor]
    proofs = [await stage.observer.evidence_against(traitor, one) for one in honest]
    story.check("two stories were told", "yes" if pictured else "no", pictured is not None)
    story.check(
        "the honest replicas hold proofs against it", f"{commas(proofs)} proofs", sum(proofs) > 0
    )
    story.check(
        "every write is acknowledged, the last one read",
        value,
        value == str(EQUIVOCATED_WRITES - 1),
    )
    await stage.command(traitor, "clear", "equivocate")
    await _check_states(stage)


def _stories(seen: list[Seen], slot: Slot) -> set[str]:
    """The digests that replicas prepared in the slot."""
    return {
        one.detail
        for one in seen
        if one.event == "prepare_vote" and (one.view, one.sequence) == (slot.view, slot.sequence)
    }


async def partition(stage: Stage) -> None:
    """Two halves that do not hear each other."""
    story, thresholds = stage.story, stage.thresholds
    view, primary = await stage.primary()
    here = [primary, thresholds.primary_of(view + 1)]
    there = [one for one in stage.replicas if one not in here]
    story.say(
        f"""The network parts: replicas {commas(here)} and {commas(there)} do not hear each other.
        Neither side has a quorum of {thresholds.quorum}. A client that reaches both sides puts."""
    )
    # What was acknowledged before may still be executed by the slower ones.
    await read_after_replies(stage.watch)
    before = await _executed(stage)
    for one in here:
        await stage.command(one, "set", "partition", peers=",".join(map(str, there)))
    stage.client.log.clear()
    answered = await _try_to_write(stage)
    seen = await read_after_replies(stage.watch)
    slot = slot_of(seen, max((one.sequence for one in seen), default=0))
    diagram = stage.diagram()
    draw_request(diagram, stage.client.log)
    _draw_cut(diagram, slot, here, there)
    story.draw(diagram)
    story.saw(SAW, saw_rows(slot, len(stage.replicas)))
    during = await _executed(stage)
    story.check(
        "without a quorum the client gets no answer, right or wrong",
        "answered" if answered else f"none in {CUT_OFF_SECONDS} s",
        not answered,
    )
    story.check(
        "nobody executes anything meanwhile",
        f"executed {commas(before)} before, {commas(during)} after",
        before == during,
    )
    for one in here:
        await stage.command(one, "clear", "partition")
    begin = asyncio.get_running_loop().time()
    await stage.client.put(b"demo/healed", b"again", timeout=WRITE_SECONDS)
    seconds = asyncio.get_running_loop().time() - begin
    value = await stage.reads_back(b"demo/healed")
    story.say(f"The network heals; the next write is acknowledged after {seconds:.2f} s.")
    story.why(
        """who cannot hear a quorum cannot tell a slow half from a dead one. Waiting costs time, as
        it must in an asynchronous network; going on alone would cost agreement."""
    )
    story.check("after it heals, writes go on", f"read {value}", value == "again")
    await _check_states(stage)


def _draw_cut(diagram: Diagram, slot: Slot, here: list[ReplicaId], there: list[ReplicaId]) -> None:
    """What arrives on the own side, and what is lost on the way to the other."""
    primary = here[0]
    lost = lanes(there)
    diagram.rows.append(Phase("pre-prepare"))
    diagram.rows.append(Message(primary + 1, lanes(here[1:]), "m", lost))
    diagram.rows.append(Phase("prepare"))
    for sender in here:
        for digest, told in slot.digests("prepare_vote", sender).items():
            diagram.rows.append(Message(sender + 1, lanes(told), digest[:4], lost))
    diagram.rows.append(Phase("no quorum, no commit, no reply"))
    diagram.rows.append(Mark((CLIENT,), "waits", "…"))


async def _try_to_write(stage: Stage) -> bool:
    try:
        await stage.client.put(b"demo/cut", b"off", timeout=CUT_OFF_SECONDS)
    except ClientError:
        return False
    return True


async def _executed(stage: Stage) -> list[int]:
    return [one.executed or 0 for one in await stage.observer.statuses()]


async def _wait_until_executed(stage: Stage, replica: ReplicaId, sequence: int) -> int:
    """How far the replica is once it has executed this; 0 if it does not get there in time."""
    deadline = asyncio.get_running_loop().time() + WRITE_SECONDS
    while asyncio.get_running_loop().time() < deadline:
        reached = (await stage.observer.statuses())[replica].executed or 0
        if reached >= sequence:
            return reached
        await asyncio.sleep(0.1)
    return 0


async def _check_states(stage: Stage) -> None:
    """Writes until the next checkpoint, and compares what all replicas hold there."""
    goal = max(await _executed(stage))
    for number in range(CHECKPOINT_WRITES_MAX):
        await stage.client.put(b"demo/fill", str(number).encode(), timeout=WRITE_SECONDS)
        marks = [one.state_digest_sequence or 0 for one in await stage.observer.statuses()]
        if min(marks) >= goal:
            break
    sequence, digests = await stage.observer.wait_for_checkpoint(goal, stage.replicas)
    told = sorted({digest[:12] for digest in digests})
    stage.story.check(
        f"all replicas hold the same state at checkpoint {sequence}",
        commas(told),
        len(digests) == len(stage.replicas) and len(told) == 1,
    )
