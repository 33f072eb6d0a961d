"""Decided batches that peers may still need: in memory, on disk, and how they come back
(protocol.md sections 6, 8 and 9)."""

from dataclasses import replace

import pytest

from pbft.core.effects import EventName, ReadBack, Send, Truncate
from pbft.core.shares import STANDING_IN_US, STRIPE, STUCK_US, UNDER_WAY_BYTES, Share, share_of
from pbft.core.state_transfer import PATIENCE_AFTER_TRANSFER
from pbft.core.tail import Tail, weight
from pbft.limits import KIB, STATEMENT_BYTES, LocalLimits
from pbft.messages import (
    CommittedBatch,
    StateChunk,
    StateRequest,
    Status,
)
from tests.harness.core_cluster import SECOND, Cluster, Node
from tests.harness.core_forge import INTERVAL, WINDOW
from tests.harness.core_transfer import FAR

MORE = 4 * WINDOW
LATE = 3


def item(size: int = 0) -> CommittedBatch:
    return CommittedBatch((), bytes(size))


# The parts.


def test_in_memory_the_newest_stay() -> None:
    tail = Tail(INTERVAL)
    for sequence in (1, 2, 3):
        tail.keep(sequence, item(100))
    tail.trim(1, 2 * weight(item(100)))
    assert (len(tail), tail.get(1)) == (2, None)
    tail.trim(0, 2 * weight(item(100)) - 1)
    assert [tail.get(sequence) for sequence in (1, 2, 3)] == [None, None, item(100)]
    assert tail.memory_bytes == weight(item(100))


def test_what_is_kept_twice_counts_once() -> None:
    tail = Tail(INTERVAL)
    tail.keep(1, item(100))
    tail.keep(1, item(50))
    assert (len(tail), tail.memory_bytes) == (1, weight(item(50)))


def executed(count: int, size: int = 0) -> Tail:
    tail = Tail(INTERVAL)
    for sequence in range(1, count + 1):
        tail.note_executed(sequence, size, 1)
    return tail


def floor_after(tail: Tail, wanted: int, durable: int, limit_bytes: int) -> int:
    tail.cut(wanted, durable, limit_bytes)
    return tail.floor


def test_on_disk_whole_intervals_go_up_to_what_is_wanted_and_durable() -> None:
    tail = executed(3 * INTERVAL + 1, size=10)
    assert tail.disk_bytes == (3 * INTERVAL + 1) * (10 + STATEMENT_BYTES)
    assert floor_after(tail, INTERVAL - 1, 3 * INTERVAL, KIB * KIB) == 0
    assert floor_after(tail, INTERVAL + 1, 3 * INTERVAL, KIB * KIB) == INTERVAL
    assert floor_after(tail, 4 * INTERVAL, 2 * INTERVAL, KIB * KIB) == 2 * INTERVAL
    assert tail.disk_bytes == (INTERVAL + 1) * (10 + STATEMENT_BYTES)


def test_on_disk_the_oldest_beyond_the_limit_go_though_wanted_but_only_if_durable() -> None:
    tail = executed(4 * INTERVAL)
    interval_bytes = INTERVAL * STATEMENT_BYTES
    assert floor_after(tail, 0, 4 * INTERVAL, 4 * interval_bytes) == 0
    assert floor_after(tail, 0, 4 * INTERVAL, 4 * interval_bytes - 1) == INTERVAL
    assert floor_after(tail, 0, 2 * INTERVAL, 0) == 2 * INTERVAL
    assert tail.floor == 2 * INTERVAL


def test_after_an_installation_what_was_before_is_not_counted_on() -> None:
    tail = executed(3 * INTERVAL)
    tail.restart(2 * INTERVAL)
    assert (tail.floor, tail.disk_bytes) == (2 * INTERVAL, 0)
    tail.note_executed(2 * INTERVAL + 1, 0, 1)
    assert tail.disk_bytes == STATEMENT_BYTES
    assert floor_after(tail, 3 * INTERVAL, 3 * INTERVAL, 0) == 3 * INTERVAL
    assert tail.disk_bytes == 0


# Who pushes.


def places(shares: list[Share], sequences: range, now_us: int = 0) -> list[list[int]]:
    """Who of them pushes each sequence."""
    return [
        [place for place, share in enumerate(shares) if share.is_due(sequence, now_us)]
        for sequence in sequences
    ]


def shares(peer: int = 1) -> list[Share]:
    found = [share_of(me, peer, 4) for me in (0, 2, 3)]
    assert sorted(share.mine for share in found) == [0, 1, 2]
    return sorted(found, key=lambda share: share.mine)


@pytest.mark.parametrize("peer", range(4))
def test_each_batch_is_pushed_by_one_of_the_others(peer: int) -> None:
    others = [share_of(me, peer, 4) for me in range(4) if me != peer]
    pushers = places(others, range(1, 6 * STRIPE))
    assert all(len(found) == 1 for found in pushers)
    assert {found[0] for found in pushers} == {0, 1, 2}


def test_the_stripes_of_one_who_does_not_push_are_pushed_by_all_for_a_while() -> None:
    known = shares()
    for share in known:
        share.note(STRIPE - 1, 0)
        share.note(STRIPE - 1, STUCK_US - 1)
        assert share.is_due(STRIPE, STUCK_US - 1) == (share.mine == 1)
        share.note(STRIPE - 1, STUCK_US)
    later_us = STUCK_US + STANDING_IN_US
    assert places(known, range(STRIPE, STRIPE + 1), later_us - 1) == [[0, 1, 2]]
    assert places(known, range(STRIPE, STRIPE + 1), later_us) == [[1]]
    assert places(known, range(2 * STRIPE, 2 * STRIPE + 1), STUCK_US) == [[2]]


def test_a_peer_that_goes_forward_is_held_against_nobody() -> None:
    (share, *_) = shares()
    for step in range(5):
        share.note(STRIPE - 3 + step, step * (STUCK_US - 1))
    assert not share.standing_in


def test_what_is_under_way_is_not_pushed_again_at_once_and_is_bounded() -> None:
    (share, *_) = shares()
    share.note_pushed(3 * STRIPE, 100, 0)
    assert not share.is_due(3 * STRIPE, 0)
    assert share.room() == UNDER_WAY_BYTES - 100
    share.note(3 * STRIPE, 1)
    assert share.room() == UNDER_WAY_BYTES


def test_a_peer_that_goes_back_has_no_more_under_way_than_it_can_take() -> None:
    """Small batches would hardly count: a liar that went back step by step would be pushed, and
    have remembered, all that there is."""
    (share, *_) = shares()
    for executed in range(10 * WINDOW, 0, -WINDOW):
        share.note(executed, 0)
        for sequence in range(executed + 1, executed + WINDOW + 1):
            share.note_pushed(sequence, 0, 0)
        assert len(share.pushed) == WINDOW


def test_what_was_pushed_is_lost_when_the_peer_stands_still_not_when_it_is_slow() -> None:
    (share, *_) = shares()
    share.note_pushed(3 * STRIPE, 100, 0)
    for step in range(1, 6):
        share.note(step, step * (STUCK_US - 1))
        assert not share.is_due(3 * STRIPE, step * STUCK_US)
    last_us = 5 * (STUCK_US - 1)
    share.note_pushed(6 * STRIPE, 10, last_us + 1)
    share.note(5, last_us + STUCK_US)
    assert share.is_due(3 * STRIPE, last_us + STUCK_US)
    assert not share.is_due(6 * STRIPE, last_us + STUCK_US)
    assert share.room() == UNDER_WAY_BYTES - 10


# Together.


def fetching(limits: LocalLimits, weighs: int | None = None) -> Cluster:
    """A cluster whose last replica has asked for a state (which `weighs` so much to its sources),
    of which nothing has come yet, while the others went on for MORE batches."""
    cluster = Cluster(4, limits=limits)
    cluster.isolate(LATE)
    cluster.run(FAR)
    cluster.drop(None)
    cluster.hold(lambda m: isinstance(m.item, StateChunk))
    cluster.advance(SECOND // 2)
    assert cluster[LATE].core.transfer is not None and cluster.network.held
    for node in sources(cluster):
        assert node.core.holds[LATE].size > 0
        if weighs is not None:
            node.core.holds[LATE].size = weighs
    cluster.run(MORE, first=FAR + 1)
    return cluster


def sources(cluster: Cluster) -> list[Node]:
    return [node for node in cluster.up if node.id != LATE]


def test_a_transfer_ends_though_memory_does_not_hold_what_was_decided_meanwhile() -> None:
    """One transfer, and then the tail, out of the vote logs of the sources."""
    cluster = fetching(LocalLimits(tail_bytes=KIB))
    cluster.release()
    cluster.advance(5 * SECOND)
    assert cluster.agree() and cluster.executed() == {FAR + MORE}
    assert len(cluster[LATE].events(EventName.STATE_TRANSFER_STARTED)) == 1
    assert not cluster[LATE].core.follows_transfer
    assert all(any(isinstance(e, ReadBack) for e in n.effects) for n in sources(cluster))


def test_without_the_disk_it_takes_another_transfer() -> None:
    """The bound of what is kept there holds."""
    cluster = fetching(LocalLimits(tail_bytes=KIB, tail_disk_bytes=0), weighs=0)
    cluster.run(2 * INTERVAL, first=FAR + MORE + 1)
    for node in sources(cluster):
        assert node.core.tail.disk_bytes <= 2 * INTERVAL * KIB
        assert node.core.tail.floor > FAR
    cluster.release()
    cluster.advance(5 * SECOND)
    assert cluster.agree()
    assert len(cluster[LATE].events(EventName.STATE_TRANSFER_STARTED)) > 1


def test_as_much_as_the_state_weighs_is_kept_though_the_limit_is_lower() -> None:
    cluster = fetching(LocalLimits(tail_bytes=KIB, tail_disk_bytes=0), weighs=KIB * KIB)
    cluster.run(2 * INTERVAL, first=FAR + MORE + 1)
    assert {node.core.tail.floor for node in sources(cluster)} == {
        node.core.holds[LATE].sequence for node in sources(cluster)
    }


def test_what_leads_on_from_the_own_state_of_a_peer_stays_while_it_fetches_another() -> None:
    """It may be the shorter way, and is gone for good once the log is truncated."""
    cluster = fetching(LocalLimits(tail_bytes=KIB))
    source, floor = cluster[0], cluster[0].core.tail.floor
    cluster.drop(lambda m: LATE in (m.sender, m.to))
    durable = source.core.state.durable_sequence
    assert floor + 1 < durable
    for told, kept in ((floor - 1, durable), (floor, floor), (floor + 1, floor + 1)):
        source.core.peers[LATE] = replace(cluster[1].core.peers[LATE], executed=told)
        cluster.advance(2 * SECOND)
        source.receive(LATE, StateRequest(1, 0))
        assert source.core.holds[LATE].sequence == kept


def test_the_log_is_truncated_once_the_peer_has_caught_up() -> None:
    cluster = fetching(LocalLimits(tail_bytes=KIB, transfer_idle_us=2 * SECOND))
    held = {node.core.holds[LATE].sequence for node in sources(cluster)}
    assert held and max(held) <= FAR
    for node in sources(cluster):
        assert max(e.sequence for e in node.effects if isinstance(e, Truncate)) <= max(held)
    cluster.release()
    cluster.advance(10 * SECOND)
    assert cluster.agree()
    cluster.run(2 * INTERVAL, first=FAR + MORE + 1)
    cluster.advance(SECOND)
    for node in sources(cluster):
        assert not node.core.holds and not node.core.snapshots
        assert node.core.tail.floor == node.core.state.durable_sequence >= FAR + MORE
        assert not node.log.load().decided


def test_what_is_left_of_a_truncation_goes_though_nothing_more_is_given_up() -> None:
    """One deletes so much and no more: a peer that goes on fetching would leave ever more there."""
    cluster = fetching(LocalLimits(tail_bytes=KIB))
    source = cluster[0]
    floor = source.core.tail.floor
    before = len(source.effects)
    cluster.run(2 * INTERVAL, first=FAR + MORE + 1)
    said = [e.sequence for e in source.effects[before:] if isinstance(e, Truncate)]
    assert said == [floor] * 2


def test_what_was_decided_stays_while_the_peer_executes_it() -> None:
    """Its snapshot is unpinned by then; each step forward is told, and counts."""
    cluster = fetching(LocalLimits(tail_bytes=KIB, transfer_idle_us=SECOND))
    cluster.release()
    source = cluster[0]
    cluster.drop(lambda m: LATE in (m.sender, m.to))
    source.core.snapshots.pop(LATE).snapshot.release()
    status = cluster[1].core.peers[LATE]
    for executed_there in range(FAR + 1, FAR + MORE - 2 * WINDOW):
        cluster.advance(SECOND - SECOND // 10)
        told = replace(status, executed=executed_there, clock_us=source.now().wall_us)
        cluster.tell(0, cluster.forge.signers[LATE].sign(told), sender=LATE)
        assert source.core.holds[LATE].sequence == executed_there
    # It came closer for so long, and may take as long again to come closer once more.
    hold = source.core.holds[LATE]
    cluster.advance(2 * (hold.used_us - hold.begun_us) - 2 * SECOND)
    assert LATE in source.core.holds
    cluster.advance(3 * SECOND)
    assert LATE not in source.core.holds


def test_what_was_decided_outlives_the_snapshot_that_it_leads_on_from() -> None:
    """Who fetched it executes the rest when nobody asks for records any more."""
    cluster = fetching(LocalLimits(tail_bytes=KIB, transfer_idle_us=SECOND))
    cluster.release()
    source = cluster[0]
    cluster.drop(lambda m: LATE in (m.sender, m.to))
    status = cluster[1].core.peers[LATE]
    executed_there = FAR
    while LATE in source.core.snapshots or executed_there < FAR + 5:
        executed_there += 1
        told = replace(status, executed=executed_there, clock_us=source.now().wall_us)
        cluster.tell(0, cluster.forge.signers[LATE].sign(told), sender=LATE)
        cluster.advance(SECOND - SECOND // 10)
        assert LATE in source.core.holds
    assert executed_there < FAR + MORE - 2 * WINDOW, "and it is far from done"
    hold = source.core.holds[LATE]
    assert hold.sequence == executed_there


def test_a_portion_is_read_for_each_status_of_a_peer() -> None:
    """Of what this replica is to push; what was read just now is not read again, nor pushed."""
    limits = LocalLimits(tail_bytes=KIB, healing_bytes_per_status=1)
    cluster = fetching(limits)
    source = cluster[0]
    cluster.drop(lambda m: LATE in (m.sender, m.to))
    known = cluster[1].core.peers[LATE]
    first = source.core.holds[LATE].sequence + 1
    for elapsed in range(6):
        # Every second status comes before the disk may be read again.
        cluster.advance(30_000)
        told = replace(known, executed=first - 1, clock_us=source.now().wall_us + elapsed)
        cluster.tell(0, cluster.forge.signers[LATE].sign(told), sender=LATE)
    reads = [effect for effect in source.effects if isinstance(effect, ReadBack)]
    assert [(read.peer, read.size) for read in reads] == [(LATE, 1)] * 3
    share = share_of(0, LATE, 4)
    mine = [n for n in range(first, first + WINDOW) if share.is_due(n, 0)]
    assert [read.sequences[0] for read in reads] == mine[:3]
    assert not source.core.reading_back


@pytest.mark.parametrize("memory_bytes", [KIB, KIB * KIB])
def test_no_more_is_pushed_than_may_be_under_way(memory_bytes: int) -> None:
    cluster = fetching(LocalLimits(tail_bytes=memory_bytes))
    source = cluster[0]
    cluster.drop(lambda m: LATE in (m.sender, m.to))
    told = replace(cluster[1].core.peers[LATE], executed=FAR, clock_us=source.now().wall_us)
    share = source.core.holds[LATE].share
    share.note(FAR, source.core.now.monotonic_us)
    share.note_pushed(FAR + 2 * WINDOW, UNDER_WAY_BYTES, source.core.now.monotonic_us)
    assert not pushed(source, cluster, told)
    share.note_pushed(FAR + 2 * WINDOW, UNDER_WAY_BYTES - 1, source.core.now.monotonic_us)
    assert pushed(source, cluster, told)


def pushed(source: Node, cluster: Cluster, told: Status) -> list[object]:
    """What of the tail is pushed, or read to be pushed, after a status."""
    before = len(source.effects)
    cluster.advance(30_000)
    cluster.tell(source.id, cluster.forge.signers[LATE].sign(told), sender=LATE)
    tail = [source.core.tail.get(n) for n in range(FAR + MORE)]
    effects = source.effects[before:]
    reads = [e for e in effects if isinstance(e, ReadBack)]
    return [*reads, *(e for e in effects if isinstance(e, Send) and e.item in tail)]


def test_what_is_pushed_out_of_the_log_takes_no_room() -> None:
    """It is executed last."""
    cluster = fetching(LocalLimits(tail_bytes=KIB))
    source = cluster[0]
    cluster.drop(lambda m: LATE in (m.sender, m.to))
    near = source.core.log_floor
    told = replace(cluster[1].core.peers[LATE], executed=near, clock_us=source.now().wall_us)
    cluster.advance(SECOND)
    before = len(source.effects)
    cluster.tell(0, cluster.forge.signers[LATE].sign(told), sender=LATE)
    sent = [e.item for e in source.effects[before:] if isinstance(e, Send)]
    assert any(isinstance(item, CommittedBatch) for item in sent)
    assert not source.core.holds[LATE].share.pushed


def test_for_a_peer_one_portion_at_a_time_is_read() -> None:
    cluster = fetching(LocalLimits(tail_bytes=KIB))
    source = cluster[0]
    cluster.drop(lambda m: LATE in (m.sender, m.to))
    told = replace(cluster[1].core.peers[LATE], executed=FAR, clock_us=source.now().wall_us)
    source.core.reading_back.add(LATE)
    assert not pushed(source, cluster, told)
    source.core.reading_back.clear()
    assert pushed(source, cluster, told)


def test_to_a_peer_whose_state_leads_nowhere_nothing_is_pushed() -> None:
    """Before it has installed the one that it fetches it could execute none of it."""
    cluster = fetching(LocalLimits())
    source = cluster[0]
    assert len(source.core.tail) and cluster[LATE].core.executed < source.core.tail.floor
    cluster.drop(lambda m: LATE in (m.sender, m.to))
    told = replace(cluster[1].core.peers[LATE], clock_us=source.now().wall_us)
    assert told.executed < source.core.tail.floor
    assert not pushed(source, cluster, told)


def test_a_replica_whose_state_is_wrong_pushes_nothing_that_it_read() -> None:
    cluster = fetching(LocalLimits(tail_bytes=KIB))
    core, replica = cluster[0].core, cluster[0].replica
    core.diverged = True
    core.reading_back.add(LATE)
    records = cluster[0].log.read_decided((core.tail.floor + 1,), KIB)
    assert records
    effects = cluster[0].step(lambda now: replica.read_back(LATE, records, now))
    assert not any(isinstance(getattr(e, "item", None), CommittedBatch) for e in effects)
    assert not core.reading_back


@pytest.mark.parametrize("restarted", [0, 1])
def test_a_restart_loads_nothing_that_is_kept_for_others(restarted: int) -> None:
    cluster = fetching(LocalLimits(tail_bytes=KIB))
    node = cluster[restarted]
    durable = node.core.state.durable_sequence
    assert min(record.sequence for record in node.log.load().decided) <= FAR + 1 < durable
    node.restart()
    assert node.core.executed >= durable == node.core.tail.floor
    assert all(slot.sequence > durable for slot in node.core.log)
    cluster.settle()
    cluster.release()
    cluster.advance(20 * SECOND)
    assert cluster.agree()


def after_a_transfer() -> Cluster:
    """A cluster whose last replica has installed a state and is pushed nothing of what came
    after."""
    cluster = fetching(LocalLimits(tail_bytes=KIB))
    cluster.drop(lambda m: m.to == LATE and isinstance(m.item, CommittedBatch))
    cluster.release()
    cluster.advance(SECOND // 10)
    late = cluster[LATE]
    assert late.events(EventName.STATE_TRANSFER_FINISHED)
    assert late.core.executed < late.core.low_water_mark
    return cluster


def started(cluster: Cluster) -> int:
    return len(cluster[LATE].events(EventName.STATE_TRANSFER_STARTED))


def test_after_a_transfer_its_sources_are_given_time_to_push_the_rest() -> None:
    """They have it on disk, and another transfer would be overtaken like the first."""
    cluster = after_a_transfer()
    cluster.advance(PATIENCE_AFTER_TRANSFER.wait_us - SECOND // 2)
    assert started(cluster) == 1
    cluster.advance(SECOND)
    assert started(cluster) == 2


def test_large_batches_are_progress_though_they_are_few() -> None:
    cluster = after_a_transfer()
    late = cluster[LATE]
    for _ in range(2):
        cluster.advance(PATIENCE_AFTER_TRANSFER.wait_us - SECOND // 2)
        late.core.tail.executed_bytes += PATIENCE_AFTER_TRANSFER.size
        cluster.advance(SECOND // 4)
    assert started(cluster) == 1
    late.core.tail.executed_bytes += PATIENCE_AFTER_TRANSFER.size - 1
    cluster.advance(PATIENCE_AFTER_TRANSFER.wait_us + SECOND)
    assert started(cluster) == 2
