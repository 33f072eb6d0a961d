"""What view-changes are counted when every new-view that they allow is tried."""

from pbft.crypto.digest import batch_digest
from pbft.messages import Signed, ViewChange
from pbft.sim.new_views import NewViewWatch
from tests.harness.core_forge import forge


def problems(changes: list[Signed]) -> list[str | None]:
    """Sequence 1 was decided in view 0; these leave for view 1."""
    world = forge()
    decided = {1: (batch_digest(b""), 0)}
    watch = NewViewWatch(world.genesis, world.verifier, decided)
    return [watch.on_view_change(change) for change in changes]


def test_a_set_that_leaves_out_what_was_decided_is_found() -> None:
    assert problems(forge().view_changes(1, (1, 2))) == [None, None]
    found = problems(forge().view_changes(1, (1, 2, 3)))[-1]
    assert found is not None and "could leave out sequence 1" in found


def test_what_one_says_in_the_names_of_others_is_not_counted() -> None:
    world = forge()
    changes = [world.sign(3, ViewChange(1, named, 0, 0, (), ())) for named in range(4)]
    assert problems(changes) == [None] * 4
