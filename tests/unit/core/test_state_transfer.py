"""State transfer (protocol.md section 9): several sources, poisoned, stalled and slow ones,
crashes, and the source's bounds."""

from dataclasses import replace

import pytest

from pbft.core import checkpoint, state_transfer
from pbft.core.effects import DecidedRecord, EventName, Install, Persist
from pbft.errors import Reason
from pbft.limits import KIB, LocalLimits, ProtocolLimits
from pbft.messages import (
    Commit,
    CommittedBatch,
    Prepare,
    StableCertificate,
    StateChunk,
    StateLeaves,
    StateRecord,
)
from tests.harness.core_cluster import SECOND, Cluster
from tests.harness.core_forge import INTERVAL, WINDOW, Forge
from tests.harness.core_solo import Solo
from tests.harness.core_transfer import FAR, Tamper, Target, answer_to, serve_all
from tests.harness.journal import Journal


def lagging(n: int = 4, count: int = FAR, live: int = 3) -> tuple[Cluster, int]:
    """A cluster of which the last replica missed so much that only a transfer helps."""
    cluster = Cluster(n)
    cluster.isolate(n - 1)
    cluster.run(count)
    cluster.drop(None)
    return cluster, n - 1


def test_a_replica_far_behind_gets_the_state_and_goes_on(n: int = 7) -> None:
    cluster, late = lagging(n)
    cluster.advance(5 * SECOND)
    assert cluster.agree()
    assert cluster[late].events(EventName.STATE_TRANSFER_FINISHED)
    cluster.run(3, first=FAR + 1)
    assert cluster.agree()
    assert len(cluster[late].journal) == FAR + 3


def test_no_transfer_begins_while_pushed_batches_can_do_it() -> None:
    cluster, late = lagging(count=INTERVAL + 1)
    cluster.advance(5 * SECOND)
    assert cluster.agree()
    assert not cluster[late].events(EventName.STATE_TRANSFER_STARTED)


def test_batches_pushed_one_by_one_put_no_transfer_off() -> None:
    """By a liar that kept the decided batches: as long as some come, nobody else has to."""
    cluster, late = lagging()
    liar = late - 1
    decided = {
        effect.record.sequence: effect.record
        for effect in cluster[liar].effects
        if isinstance(effect, Persist) and isinstance(effect.record, DecidedRecord)
    }
    cluster[liar].crash()
    cluster.submit(cluster.forge.request(FAR + 1))
    for _ in range(10):
        record = decided[cluster[late].core.executed + 1]
        cluster[late].receive(liar, CommittedBatch(record.commits, record.batch))
        cluster.advance(state_transfer.PATIENCE.wait_us - 20_000)
        if cluster[late].events(EventName.STATE_TRANSFER_STARTED):
            break
    assert cluster[late].events(EventName.STATE_TRANSFER_STARTED)
    cluster.advance(3 * SECOND)
    assert cluster[late].events(EventName.STATE_TRANSFER_FINISHED)
    assert cluster[late].core.executed == FAR + 1


def test_it_ends_under_load() -> None:
    """The checkpoint moves on while the state travels; the tail is pushed."""
    cluster, late = lagging()
    for number in range(FAR + 1, FAR + 41):
        cluster.submit(cluster.forge.request(number))
        cluster.advance(SECOND // 20)
    cluster.advance(3 * SECOND)
    assert cluster.agree()
    assert len(cluster[late].journal) == FAR + 40


@pytest.mark.parametrize("ahead", [WINDOW, 3 * WINDOW])
def test_it_ends_though_what_is_durable_is_far_below_h(ahead: int) -> None:
    """Of sources whose disks are slow: what they decided above the state that they pin was below
    h - K before it was pinned."""
    cluster, late = lagging(count=INTERVAL)
    cluster.isolate(late)
    for node in cluster.up[:late]:
        node.holds_merges = True
    cluster.run(ahead, first=INTERVAL + 1)
    assert [node.core.low_water_mark for node in cluster.up[:late]] == [INTERVAL + ahead] * late
    cluster.drop(None)
    cluster.advance(5 * SECOND)
    assert cluster[0].core.state.durable_sequence == INTERVAL
    assert cluster.agree()
    cluster.advance(60 * SECOND)
    for node in cluster.up[:late]:
        node.finish_jobs()
        assert not len(node.core.tail) and not node.core.tail.memory_bytes


def test_small_batches_kept_for_a_transfer_weigh_what_their_certificates_do() -> None:
    solo = Solo(limits=LocalLimits(tail_bytes=4 * KIB))
    solo.node.holds_merges = True
    core = solo.node.core
    for last in range(INTERVAL, FAR + 1, INTERVAL):
        solo.decide_to(last, first=last - INTERVAL + 1)
        slots = {slot.sequence: slot for slot in core.log}
        solo.stabilise(last)
    assert 0 < len(core.tail) <= 4
    again = core.low_water_mark - INTERVAL
    assert core.tail.get(again) is not None and core.tail.get(again + 1) is None
    # What is executed again, after a state that was wrong was replaced, is kept once.
    (kept, before) = (len(core.tail), core.tail.memory_bytes)
    core.log.slot(again).decision = slots[again].decision
    core.log.slot(again).bodies = slots[again].bodies
    checkpoint.discard(core)
    assert (len(core.tail), core.tail.memory_bytes) == (kept, before)


def test_the_sessions_come_with_the_state() -> None:
    """T8: without the replies exactly-once would break."""
    cluster, late = lagging()
    cluster.advance(5 * SECOND)
    cluster.submit(cluster.forge.request(FAR), to=[late])
    replies = [node.replies()[-1] for node in (cluster[0], cluster[late])]
    assert replies[0].sequence == replies[1].sequence == FAR
    assert replies[0].results_digest == replies[1].results_digest
    assert len(cluster[late].journal) == FAR


def test_several_sources_share_the_buckets() -> None:
    """The first to answer does not get all of them, or the others would have nothing to send."""
    target = Target()
    shares = []
    for peer in (0, 1, 2):
        target.tell_leaves(peer)
        (share,) = target.requests(peer)[1:]
        shares.append(int.from_bytes(share.buckets, "little"))
    assert all(shares)
    assert not shares[0] & shares[1] | shares[0] & shares[2] | shares[1] & shares[2]
    assert not target.transfer.todo
    sizes = [share.bit_count() for share in shares]
    assert max(sizes) - min(sizes) <= 1


def test_the_share_kept_for_a_source_that_does_not_come_goes_to_who_is_there() -> None:
    target = Target()
    for peer in (0, 1):
        target.tell_leaves(peer)
    assert target.transfer.todo
    begin = target.node.core.now
    for peer in (0, 1):
        target.node.receive(peer, answer_to(target, target.requests(peer)[-1]))
    target.node.receive(0, answer_to(target, target.requests(0)[-1]))
    target.expect_state()
    assert target.node.core.now == begin, "nobody was waited for"


def test_nobody_is_asked_for_leaves_while_a_source_delivers() -> None:
    """What is kept for others does not bring them: they answer when they can."""
    target = Target()
    target.tell_leaves(0)
    assert target.transfer.todo
    before = len(target.requests(1))
    now_us = target.node.core.now.monotonic_us
    target.transfer.fetching[0].progress_us = now_us + 2 * SECOND
    target.transfer.fetching[0].due_us = now_us + 9 * SECOND
    target.solo.cluster.advance(2 * SECOND)
    assert set(target.transfer.fetching) == {0}
    assert len(target.requests(1)) == before


def test_one_source_is_enough() -> None:
    target = Target()
    for _ in range(5):
        target.serve(2)
        target.solo.cluster.advance(SECOND)
    target.expect_state()


def flip(record: StateRecord) -> StateRecord:
    """The same record with one bit of its value (or key) wrong."""
    if record.value:
        return replace(record, value=bytes([record.value[0] ^ 1]) + record.value[1:])
    return replace(record, key=record.key + b"x")


POISONS: dict[str, Tamper] = {
    "one bit of a record": lambda a: (
        replace(a, records=(*a.records[:-1], flip(a.records[-1])))
        if isinstance(a, StateChunk) and a.records
        else a
    ),
    "a record missing": lambda a: (
        replace(a, records=a.records[1:]) if isinstance(a, StateChunk) else a
    ),
    "a record twice": lambda a: (
        replace(a, records=(*a.records, *a.records[:1])) if isinstance(a, StateChunk) else a
    ),
    "a record too many": lambda a: (
        replace(a, records=(*a.records, StateRecord(2, b"more", 0, b"")))
        if isinstance(a, StateChunk)
        else a
    ),
    "one bit of the leaves": lambda a: (
        replace(a, leaves=(replace(a.leaves[0], count=a.leaves[0].count + 1), *a.leaves[1:]))
        if isinstance(a, StateLeaves)
        else a
    ),
    "a cursor that does not move": lambda a: (
        replace(a, cursor=b"", records=()) if isinstance(a, StateChunk) else a
    ),
    "a cursor going back": lambda a: (
        replace(a, cursor=b"\0" if not a.cursor else a.cursor[:1])
        if isinstance(a, StateChunk)
        else a
    ),
}


@pytest.mark.parametrize("name", POISONS)
def test_a_poisoned_source_is_demoted_and_nothing_of_it_is_installed(name: str) -> None:
    """T1: found before installation; the others deliver."""
    target = Target()
    serve_all(target, peer1=POISONS[name])
    target.expect_state()
    assert target.solo.rejected(Reason.BAD_SNAPSHOT) >= 1


def test_a_certificate_of_another_checkpoint_does_not_go_with_the_leaves() -> None:
    """T2: the leaves must hash to what q replicas signed."""
    target = Target()
    other = target.solo.forge.checkpoints(FAR, bytes(32))

    def swap(answer: StateLeaves | StateChunk) -> StateLeaves | StateChunk:
        if isinstance(answer, StateLeaves):
            return replace(answer, certificate=StableCertificate(other))
        return answer

    serve_all(target, peer1=swap)
    target.expect_state()


def test_leaves_without_a_quorum_or_below_h_are_refused() -> None:
    target = Target()
    leaves = target.snapshot().leaves()
    thin = StableCertificate(target.certificate[:-1])
    target.node.receive(1, StateLeaves(thin, leaves))
    assert target.solo.rejected(Reason.BAD_CERTIFICATE) == 1
    old = Target(INTERVAL)
    target.node.receive(2, StateLeaves(StableCertificate(old.certificate), old.snapshot().leaves()))
    assert target.solo.rejected(Reason.SEQUENCE_LOW) == 1
    assert target.node.core.transfer is not None
    assert target.node.core.transfer.certificate is None


def test_a_silent_source_is_replaced() -> None:
    """T3: it says that it has the state and never delivers."""
    target = Target()
    target.serve(1, most=1)
    assert target.node.core.transfer is not None and target.node.core.transfer.fetching
    serve_all(target, peer1=lambda a: a if isinstance(a, StateLeaves) else replace(a, number=1))
    target.expect_state()


def test_a_source_that_drips_is_replaced() -> None:
    """Something in each chunk, and an end never: the share has a time to be whole."""
    target = Target()
    target.serve(1, most=1)
    for step in range(40):
        target.solo.cluster.advance(SECOND * 9 // 10)
        number = target.requests(1)[-1].number
        chunk = StateChunk(target.snapshot().sequence, (), bytes([1, step]), number)
        target.node.receive(1, chunk)
    assert len([r for r in target.requests(1) if r.sequence]) < 10
    serve_all(target)
    target.expect_state()


def test_a_source_that_lied_does_not_decide_what_is_fetched() -> None:
    target = Target()
    target.serve(1, POISONS["a record missing"])
    assert target.transfer.demoted == {1}
    target.solo.cluster.advance(10 * SECOND)
    target.tell_leaves(1)
    assert target.solo.rejected(Reason.BAD_SNAPSHOT) == 2
    assert target.transfer.demoted == {1}
    assert target.transfer.certificate is None
    serve_all(target)
    target.expect_state()


def test_demoted_sources_are_asked_again_when_nobody_else_is_left() -> None:
    target = Target()
    for peer in (0, 1, 2):
        target.serve(peer, POISONS["a record missing"])
    target.solo.cluster.advance(5 * SECOND)
    serve_all(target)
    target.expect_state()


def test_busy_sources_are_not_asked_for_leaves_again() -> None:
    """Asking them would unpin what they are serving."""
    target = Target()
    target.serve(0, most=1)
    target.serve(2, POISONS["a record missing"])
    leaves = [r for r in target.requests(0) if r.sequence == 0]
    target.solo.cluster.advance(SECOND * 9 // 10)
    assert [r for r in target.requests(0) if r.sequence == 0] == leaves


def test_unwanted_chunks_and_leaves_are_refused() -> None:
    solo = Solo(4, me=3)
    donor = Target(INTERVAL)
    solo.node.receive(1, StateChunk(INTERVAL, (), b""))
    leaves = StateLeaves(StableCertificate(donor.certificate), donor.snapshot().leaves())
    solo.node.receive(1, leaves)
    assert solo.rejected(Reason.UNWANTED) == 2
    assert solo.node.core.transfer is None


def test_a_crash_during_the_transfer_starts_it_again() -> None:
    """T7: what was staged is lost, nothing else."""
    target = Target()
    target.serve(0, most=1)
    target.restart()
    assert target.node.core.executed == 0
    target.solo.cluster.advance(SECOND)
    serve_all(target)
    target.expect_state()


def test_a_crash_before_the_installation_is_durable_starts_it_again() -> None:
    target = Target()
    target.node.holds_merges = True
    serve_all(target)
    assert isinstance(target.node.jobs[0], Install)
    target.restart()
    target.node.holds_merges = False
    target.solo.cluster.advance(SECOND)
    serve_all(target)
    target.expect_state()


def test_a_crash_after_the_installation_keeps_it() -> None:
    target = Target()
    serve_all(target)
    target.restart()
    target.expect_state()


def test_nothing_is_executed_while_the_state_is_being_installed() -> None:
    target = Target()
    target.node.holds_merges = True
    serve_all(target)
    batch = target.solo.batch(FAR + 1)
    target.node.receive(0, target.solo.forge.committed(FAR + 1, batch))
    assert target.node.core.executed == 0
    target.node.receive(0, StateLeaves(StableCertificate(target.certificate),
                                       target.snapshot().leaves()))  # fmt: skip
    target.node.finish_jobs()
    assert target.node.core.executed == FAR + 1
    assert target.node.journal[-1] == b"0.1.%d" % (FAR + 1)


def test_a_primary_that_installs_a_state_proposes_what_batches_below_it_left() -> None:
    """It has not executed them: nothing tells it which requests had no room in them."""
    cluster = Cluster(with_forge=Forge(limits=ProtocolLimits(records_per_batch=4)))
    forge, primary = cluster.forge, cluster[0]
    for node in cluster.up:
        assert isinstance(node.core.service, Journal)
        node.core.service.weight = 2
    cluster.run(2)
    cluster.drop(lambda message: message.to == 0 and message.says(Commit, CommittedBatch, Prepare))
    primary.core.settings = replace(primary.core.settings, pipeline_depth=0)
    for client, number in ((0, 3), (1, 1), (2, 1)):
        cluster.submit(forge.request(number, client=client), range(4))
    primary.core.settings = replace(primary.core.settings, pipeline_depth=3)
    primary.tick()
    cluster.settle()
    cluster.submit(forge.request(2, client=1, acknowledged=0), range(4))
    assert [len(node.journal) for node in cluster.up] == [2, 5, 5, 5], "one was left"
    cluster.advance(SECOND // 2)
    cluster.drop(None)
    cluster.advance(SECOND)
    assert primary.events(EventName.STATE_TRANSFER_FINISHED)
    assert [len(node.journal) for node in cluster.up] == [6] * 4
    assert cluster.views() == {0}
