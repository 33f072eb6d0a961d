"""One liar, one replica that lost its votes once and has rejoined, a power loss, and disks that are
slow: no two batches are decided at one sequence (protocol.md sections 1 and 10)."""

from collections.abc import Iterable

from pbft.core.effects import EventName
from pbft.core.state import Mode
from pbft.crypto.digest import batch_digest
from pbft.limits import LocalLimits
from pbft.messages import Commit, Recall, Recalled, Request, Signed
from pbft.storage.memory import MemoryBase, MemoryLog
from tests.harness.core_cluster import SECOND, Cluster, Message

B, LIAR, R, A = range(4)


def answer_recall(it: Cluster, replica: int, view: int, change: Signed | None) -> None:
    """The liar remembers nothing but, possibly, a view-change."""
    (recall,) = it[replica].sent(Recall)[-1:]
    answer = Recalled(replica, recall.nonce, view, 0, (), change, ())
    it.tell(replica, it.forge.sign(LIAR, answer))


def suspect(it: Cluster, replica: int, client: int) -> Signed:
    """It alone has a request that is overdue; with the liar it leaves view 0."""
    it.submit(it.forge.request(1, client=client, acknowledged=0), [replica])
    it.advance(5 * SECOND // 2)
    it.tell(replica, it.forge.status(LIAR, suspects=True))
    it.advance(SECOND // 5)
    assert it[replica].core.mode is Mode.VIEW_CHANGING and it[replica].core.view == 1
    return it[replica].view_change()


def vote_as_the_liar(it: Cluster, to: Iterable[int]) -> None:
    """For all that the primary proposed, as an honest replica would."""
    core = it[B].core
    votes = []
    for slot in core.log:
        if slot.sequence > core.executed and slot.pre_prepare is not None:
            digest = slot.pre_prepare.message.digest
            votes.append(it.forge.prepare(LIAR, slot.sequence, digest))
            votes.append(it.forge.commit(LIAR, slot.sequence, digest))
    for sequence, state in sorted(core.sealed.items()):
        if sequence > core.low_water_mark:
            votes.append(it.forge.checkpoint(LIAR, sequence, state))
    for replica in to:
        it.tell(replica, *votes)


def test_a_void_view_change_is_void_after_a_power_loss() -> None:
    it = Cluster(4, [B, R, A], limits=LocalLimits(operations_per_step=1))
    for replica in (A, B):
        it[replica].holds_merges = True
    it.run(3)
    it.drop(lambda m: m.sender == R and m.says(Request))
    void = suspect(it, R, client=1)
    it.drop(None)
    it[R].crash()
    it[R].log, it[R].base = MemoryLog(), MemoryBase()
    it[R].start()
    it.settle()
    answer_recall(it, R, 0, void)
    for _ in range(100):
        it.advance(SECOND // 10)
        vote_as_the_liar(it, (A, B, R))
    assert it[R].events(EventName.REJOINED) and it[R].core.is_trusted
    rejoined_at = it[R].core.rejoins[R]
    for replica in (A, B):
        core = it[replica].core
        assert core.view == 0 and core.incarnations == it[R].core.incarnations
        assert core.low_water_mark >= rejoined_at + 8 and core.state.durable_sequence < rejoined_at

    # A is cut off, and with the liar signs for view 1.
    def is_cut_off(message: Message) -> bool:
        return (message.sender == A) != (message.to == A)

    it.drop(is_cut_off)
    changes = [void, it.forge.view_change(LIAR, 1), suspect(it, A, client=2)]
    # B, R and the liar commit n in view 0. Only R sees it; it executes it and answers.
    n = it[B].core.executed + 1
    it.drop(lambda m: is_cut_off(m) or (m.to != R and m.says(Commit)))
    it.submit(it.forge.request(4), [B])
    slot = it[B].core.log.get(n)
    assert slot is not None and slot.pre_prepare is not None
    digest = slot.pre_prepare.message.digest
    for replica in (B, R):
        it.tell(replica, it.forge.prepare(LIAR, n, digest))
    it.tell(R, it.forge.commit(LIAR, n, digest))
    assert it[R].core.executed == n and it[R].replies()[-1].number == 4
    assert it[B].core.executed == n - 1

    # The power fails at A and B, and the first that they are sent is the liar's new-view.
    it.drop(lambda m: (m.sender == R) != (m.to == R))
    for replica in (A, B):
        it[replica].crash()
    new_view = it.forge.new_view(1, changes)
    for replica in (A, B):
        it[replica].start()
        it[replica].receive(LIAR, new_view)
    it.settle()
    for replica in (A, B):
        answer_recall(it, replica, 1, None)
    it.advance(SECOND)
    # It proposes something else at n. (The oracles look at every decision.)
    other = it.forge.batch(it.forge.request(5, client=2, acknowledged=0))
    for replica in (A, B):
        it.tell(replica, it.forge.proposal(n, other, view=1))
    for replica in (A, B):
        it.tell(replica, it.forge.commit(LIAR, n, batch_digest(other), view=1))
    it.settle()
    for replica in (A, B):
        core = it[replica].core
        assert core.entered_view == 0 and core.incarnations == it[R].core.incarnations
