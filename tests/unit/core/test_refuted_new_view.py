"""A valid new-view that contradicts what was decided in its view or above: its author signed two,
or the view was left (protocol.md section 8). It is refused; only a contradiction with a lower view
halts."""

import pytest

from pbft.core.effects import Halt
from pbft.core.state import Mode
from pbft.crypto.digest import batch_digest
from pbft.errors import Reason
from pbft.messages import Prepare
from tests.harness.core_cluster import SECOND, Cluster
from tests.harness.core_solo import Solo

LIAR = 1


@pytest.fixture
def cluster() -> Cluster:
    """Replica 1 lies; in view 0 the batch at 1 was prepared at 0 only, that at 2 at 2 only, and all
    others wait for the new-view of the liar."""
    it = Cluster(4, [0, 2, 3])
    it.drop(
        lambda m: m.says(Prepare) and not (m.sender == 2 and m.to == 0 and m.body.sequence == 1)
    )
    requests = [it.forge.request(number) for number in (1, 2)]
    for request in requests:
        it.submit(request, [0])
    for replica, sequence in ((0, 1), (2, 2)):
        slot = it[replica].core.log.get(sequence)
        assert slot is not None and slot.pre_prepare is not None
        digest = slot.pre_prepare.message.digest
        it.tell(replica, it.forge.prepare(LIAR, sequence, digest))
        assert slot.prepared is not None
    for request in requests:
        it.submit(request, [2, 3])
    it.advance(5 * SECOND // 2)
    assert all(node.core.mode is Mode.VIEW_CHANGING for node in it.up)
    it.drop(None)
    return it


def test_the_second_new_view_of_a_liar_halts_nobody(cluster: Cluster) -> None:
    forge = cluster.forge
    changes = {replica: cluster[replica].view_change() for replica in (0, 2, 3)}
    one = forge.new_view(1, [changes[0], changes[2], changes[3]])
    # As valid as the first, and nothing was prepared at 1 as far as it goes.
    two = forge.new_view(1, [forge.view_change(LIAR, 1), changes[2], changes[3]])
    digests = {}
    for replica, sequence in ((0, 1), (2, 2)):
        slot = cluster[replica].core.log.get(sequence)
        assert slot is not None and slot.prepared is not None
        digests[sequence] = slot.prepared.digest
    cluster.tell(0, one)
    cluster.tell(2, one)
    for sequence, digest in digests.items():
        for replica in (0, 2, 3):
            cluster.tell(replica, forge.commit(LIAR, sequence, digest, view=1))
    late = cluster[3]
    assert cluster.executed() == {2} and late.core.mode is Mode.VIEW_CHANGING
    cluster.tell(3, two)
    assert not any(isinstance(effect, Halt) for effect in late.effects)
    assert late.core.mode is Mode.VIEW_CHANGING
    # It hears of the first from the others, and all go on without the liar.
    cluster.submit(forge.request(3), [0, 2, 3])
    cluster.advance(30 * SECOND)
    assert cluster.executed() == {3}
    assert all(node.core.mode is Mode.NORMAL for node in cluster.up)


@pytest.mark.parametrize("view", [1, 2])
def test_a_new_view_is_refused_by_what_was_decided_there_or_above(view: int) -> None:
    solo = Solo(4, me=3)
    forge = solo.forge
    proof = forge.proof(2, batch_digest(solo.batch(3)))
    changes = [forge.view_change(0, 1, [proof]), *(forge.view_change(r, 1) for r in (1, 2))]
    solo.cluster.tell(3, forge.committed(1, solo.batch(1), view=view), sender=0)
    assert solo.node.core.executed == 1
    solo.cluster.tell(3, forge.new_view(1, changes))
    assert not any(isinstance(effect, Halt) for effect in solo.node.effects)
    assert solo.rejected(Reason.DIGEST_CONFLICT) == 1
    assert solo.node.core.entered_view == 0 and solo.node.core.new_view is None
