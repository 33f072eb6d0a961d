"""A new-view that a decision contradicts, as its own author and as a laggard see it: neither halts
(protocol.md section 8)."""

from pbft.core.effects import Halt
from pbft.core.state import Mode, Rejoining
from pbft.crypto.digest import batch_digest
from pbft.errors import Reason
from pbft.messages import NewView
from tests.harness.core_cluster import SECOND
from tests.harness.core_solo import Solo


def halts(solo: Solo) -> bool:
    return any(isinstance(effect, Halt) for effect in solo.node.effects)


def test_the_primary_of_a_view_that_was_left_makes_no_new_view_against_a_later_decision() -> None:
    """Only the liar (3) holds a certificate of view 0, and left it out for view 2, which the others
    entered without this replica: they decided something else."""
    solo = Solo(4, me=1)
    forge = solo.forge
    proof = forge.proof(1, batch_digest(solo.batch(7)), backups=[2, 3])
    decided = forge.committed(1, solo.batch(1), view=2, signers=[0, 2, 3])
    solo.cluster.tell(1, decided, sender=3)
    assert solo.node.core.executed == 1
    solo.cluster.tell(1, forge.view_change(3, 1, [proof]), forge.view_change(0, 1))
    core = solo.node.core
    assert core.view == 1 and core.is_primary and len(core.view_change.valid) == 3
    assert not halts(solo) and not solo.node.sent(NewView)
    # It goes on with the others.
    solo.cluster.advance(3 * SECOND)
    assert core.view == 2 and core.mode is Mode.VIEW_CHANGING


def test_a_void_view_change_that_a_laggard_cannot_know_as_such_does_not_halt_it() -> None:
    """n = 6. Replica 2 rejoined at 1, which replica 5 has not executed; 13, of which the liar (1)
    tells it, was decided by the others in view 0."""
    solo = Solo(6, me=5)
    forge, stable_at, n = solo.forge, 12, 13
    stable = forge.checkpoints(stable_at, b"d" * 32, (0, 1, 3, 4))
    decided = forge.committed(n, solo.batch(n), signers=(0, 1, 2, 3))
    solo.cluster.tell(5, decided, sender=1)
    assert n in solo.decided() and solo.node.core.executed == 0
    proof = forge.proof(n + 1, batch_digest(solo.batch(n + 1)), backups=(1, 2, 3))
    liars = forge.view_change(1, 1, [proof], stable_at, stable)
    fourth = forge.view_change(4, 1, (), stable_at, stable)
    solo.cluster.tell(5, fourth, liars)
    assert solo.node.core.mode is Mode.VIEW_CHANGING
    # Signed before replica 2 lost its votes.
    void = forge.view_change(2, 1)
    mine = solo.node.core.view_change.received[5].signed
    solo.cluster.tell(5, forge.new_view(1, [void, liars, fourth, mine]))
    assert not halts(solo)
    assert solo.node.core.entered_view == 0 and solo.rejected(Reason.DIGEST_CONFLICT) == 1


def test_a_view_change_of_an_earlier_incarnation_of_mine_moves_nobody() -> None:
    """It comes back while this replica rejoins. Together with a liar's it would be f + 1."""
    solo = Solo(4, me=1)
    forge, core = solo.forge, solo.node.core
    core.rejoining, core.incarnation = Rejoining(77), 77
    before = solo.rejected(Reason.UNWANTED)
    solo.cluster.tell(1, forge.view_change(1, 5), sender=3)
    assert solo.rejected(Reason.UNWANTED) == before + 1
    core.rejoining = None
    solo.cluster.tell(1, forge.view_change(3, 5))
    assert core.view == 0 and set(core.view_change.received) == {3}
