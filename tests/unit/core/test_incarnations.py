"""What a replica signed before it lost its votes is void (protocol.md section 10)."""

import pytest

from pbft.core.new_view import verify_new_view
from pbft.core.view_change import check_view_change
from pbft.errors import Reason, Rejected
from pbft.messages import NewView, ViewChange
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
