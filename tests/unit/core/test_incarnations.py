"""What a replica signed before it lost its votes is void (protocol.md section 10)."""

import pytest

from pbft.core import suspicion
from pbft.core.effects import Halt
from pbft.core.new_view import verify_new_view
from pbft.core.view_change import check_view_change
from pbft.crypto.digest import batch_digest
from pbft.errors import Reason, Rejected
from pbft.messages import NewView, Signed, ViewChange
from tests.harness.core_cluster import SECOND
from tests.harness.core_forge import forge
from tests.harness.core_solo import Solo


def view_change(incarnation: int) -> ViewChange:
    return ViewChange(1, 2, incarnation, 0, (), ())


@pytest.mark.parametrize(("incarnation", "is_void"), [(6, True), (7, False), (8, False)])
def test_a_new_view_with_a_view_change_of_an_older_incarnation_is_refused(
    incarnation: int, is_void: bool
) -> None:
    world = forge()
    changes = [*world.view_changes(1, (0, 1)), world.sign(2, view_change(incarnation))]
    message = world.verifier.decode(world.new_view(1, changes))
    assert isinstance(message, NewView)
    known = {2: 7}
    if is_void:
        with pytest.raises(Rejected, match="older incarnation"):
            verify_new_view(message, world.genesis, world.verifier, known)
    else:
        verify_new_view(message, world.genesis, world.verifier, known)
    # Of somebody who never lost anything, any will do.
    verify_new_view(message, world.genesis, world.verifier, {})


def test_a_view_change_of_an_older_incarnation_is_refused() -> None:
    core = Solo().node.core
    assert check_view_change(core, view_change(6), 2) is None
    core.incarnations[2] = 7
    assert check_view_change(core, view_change(6), 2) is Reason.BAD_VIEW_CHANGE
    assert check_view_change(core, view_change(7), 2) is None


@pytest.fixture
def rejoined() -> Solo:
    """At replica 1: replica 2 signed a view-change for view 5, lost its votes, and rejoined."""
    solo = Solo(4, me=1)
    forge = solo.forge
    solo.cluster.tell(1, forge.view_change(2, 5))
    assert set(solo.node.core.view_change.received) == {2}
    solo.decide(1, forge.batch(forge.rejoin(2, 77)))
    assert solo.node.core.incarnations == {2: 77}
    return solo


def test_a_void_view_change_joins_no_view(rejoined: Solo) -> None:
    """One liar and what an honest replica does not know any more are not f + 1."""
    rejoined.cluster.tell(1, rejoined.forge.view_change(3, 5))
    assert rejoined.node.core.view == 0


def test_a_void_view_change_is_no_suspicion(rejoined: Solo) -> None:
    rejoined.cluster.tell(1, rejoined.forge.status(2))
    assert suspicion.suspecting(rejoined.node.core) == 0


def test_a_void_view_change_makes_room_for_the_new_one(rejoined: Solo) -> None:
    new = rejoined.forge.sign(2, ViewChange(5, 2, 77, 0, (), ()))
    rejoined.cluster.tell(1, new)
    assert rejoined.node.core.view_change.received[2].signed == new


def test_no_new_view_is_made_of_a_view_change_that_became_void() -> None:
    """Its certificates were verified before the rejoin of its signer was executed."""
    solo = Solo(4, me=1)
    world, core = solo.forge, solo.node.core
    solo.node.submit(world.request(1))
    solo.cluster.tell(1, world.status(2, suspects=True), world.view_change(2, 1))
    solo.cluster.advance(3 * SECOND)
    assert core.view == 1 and set(core.view_change.valid) == {1, 2}
    solo.cluster.tell(1, world.committed(1, world.batch(world.rejoin(2, 77))), sender=0)
    assert core.incarnations == {2: 77}
    solo.cluster.tell(1, world.view_change(0, 1))
    assert not solo.node.sent(NewView)
    solo.cluster.tell(1, world.sign(2, ViewChange(1, 2, 77, 0, (), ())))
    assert len(solo.node.sent(NewView)) == 1


def void_new_view(solo: Solo) -> Signed:
    """For view 3, made of a view-change that replica 2 signed before it lost its votes."""
    return solo.forge.new_view(3, solo.forge.view_changes(3, (0, 2, 3)))


def test_a_decision_of_an_earlier_view_excuses_no_void_view_change(rejoined: Solo) -> None:
    """It says nothing about who entered this view."""
    rejoined.cluster.tell(1, void_new_view(rejoined))
    assert rejoined.decided() == [1]
    assert rejoined.node.core.entered_view == 0


def test_a_decision_of_the_view_itself_lets_a_laggard_in(rejoined: Solo) -> None:
    """The others entered it before they executed the rejoin, and q - f honest ones voted there."""
    committed = rejoined.forge.committed(2, rejoined.batch(2), view=3)
    rejoined.cluster.tell(1, committed, sender=3)
    rejoined.cluster.tell(1, void_new_view(rejoined))
    assert rejoined.node.core.entered_view == 3


def test_a_void_view_change_that_lacks_what_was_decided_since_halts_nobody() -> None:
    """Replica 2 voted for it after it had rejoined, in an earlier view than that for which it had
    signed before; the primary of that view signs a second new-view, of which the old view-change
    is a part."""
    solo = Solo(4, me=1)
    world, liar = solo.forge, 3
    solo.cluster.tell(1, world.committed(1, world.batch(world.rejoin(2, 77))), sender=0)
    solo.cluster.tell(1, world.committed(2, solo.batch(2), signers=(0, 2, liar)), sender=0)
    solo.cluster.tell(1, world.committed(4, solo.batch(4), view=3), sender=0)
    assert solo.node.core.executed == 2
    proof = world.proof(3, batch_digest(solo.batch(3)))
    changes = [*world.view_changes(3, (1, 2)), world.view_change(liar, 3, [proof])]
    solo.cluster.tell(1, world.new_view(3, changes))
    assert not any(isinstance(effect, Halt) for effect in solo.node.effects)
    assert solo.rejected(Reason.DIGEST_CONFLICT) == 1
    assert solo.node.core.entered_view == 0


def test_a_view_change_of_the_present_incarnation_stays() -> None:
    """Though its signer's rejoin is executed here only after it came."""
    solo = Solo()
    solo.cluster.tell(1, solo.forge.sign(2, ViewChange(5, 2, 77, 0, (), ())))
    solo.decide(1, solo.forge.batch(solo.forge.rejoin(2, 77)))
    assert solo.node.core.incarnations == {2: 77}
    assert set(solo.node.core.view_change.received) == {2}


def test_a_refused_new_view_that_others_entered_is_not_waited_for_for_ever() -> None:
    """Replica 2 signed a view-change, lost its votes and rejoined; 5 and 6 entered view 3 before
    they executed the rejoin. They suspect it, but they are no f + 1, and the view-changes of those
    who refuse the new-view are no q."""
    solo = Solo(7, me=1)
    world, core = solo.forge, solo.node.core
    solo.decide(1, world.batch(world.rejoin(2, 77)))
    solo.cluster.tell(1, *world.view_changes(3, (0, 3, 4)))
    assert core.view == 3
    changes = [*world.view_changes(3, (0, 3, 5, 6)), world.view_change(2, 3)]
    solo.cluster.tell(1, world.new_view(3, changes))
    assert core.entered_view == 0
    assert core.view_change.deadline_us is None
    solo.cluster.tell(1, world.status(5, 3, suspects=True))
    assert core.view_change.deadline_us is not None
    solo.cluster.advance(core.timeout_us)
    assert core.view == 4


def test_a_liar_that_claims_a_view_counts_once() -> None:
    """It may sign a view-change for it as well."""
    solo = Solo(7, me=0)
    world, core = solo.forge, solo.node.core
    solo.cluster.tell(0, *world.view_changes(3, (1, 3, 4)), world.status(4, 9))
    assert core.view == 3
    assert core.view_change.deadline_us is None
    solo.cluster.tell(0, world.status(5, 2))
    assert core.view_change.deadline_us is None
    solo.cluster.tell(0, world.status(5, 3))
    assert core.view_change.deadline_us is not None
