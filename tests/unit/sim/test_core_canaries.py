"""What must hold after every step of a core: each part is broken once by hand, and must be seen."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeAlias

import pytest

from pbft.core import invariants
from pbft.core.certificates import GENESIS_CHECKPOINT
from pbft.core.state import Mode
from pbft.limits import LocalLimits
from pbft.messages import Authenticated, Signed
from tests.harness.core_forge import INTERVAL, WINDOW
from tests.harness.core_solo import Solo

LIMITS = LocalLimits(pending_requests=3, held_reads=4, evidence=2, bodies_per_slot=1)
DIGEST = b"d" * 32
OPEN = INTERVAL + 1
"""A sequence above the stable checkpoint, accepted and not prepared."""
HIGH = INTERVAL + WINDOW
"""H"""

Breakage: TypeAlias = Callable[[Solo], object]


@pytest.fixture
def solo() -> Solo:
    """A backup of view 0 with a durable checkpoint, and one slot above it under way."""
    solo = Solo(limits=LIMITS)
    solo.decide_to(INTERVAL)
    solo.stabilise(INTERVAL)
    solo.propose(OPEN)
    assert solo.node.core.state.durable_sequence == INTERVAL
    assert solo.slot(OPEN).pre_prepare is not None
    return solo


def test_an_unbroken_core_passes(solo: Solo) -> None:
    invariants.check(solo.node.core)


def require_seen(solo: Solo, breakage: Breakage, words: str) -> None:
    """By the assertion with these words in its condition or message, and by none before it."""
    breakage(solo)
    with pytest.raises(AssertionError) as caught:
        invariants.check(solo.node.core)
    assert words in str(caught.traceback[-1].statement)


def values(**changed: object) -> Breakage:
    """Attributes of the core that have these values."""

    def breakage(solo: Solo) -> None:
        for name, value in changed.items():
            setattr(solo.node.core, name, value)

    return breakage


def many(count: int) -> dict[Any, Any]:
    """So many of whatever is bounded."""
    return dict.fromkeys(range(count))


def admitted(solo: Solo, signed: Signed) -> Authenticated[Any]:
    return Authenticated(solo.forge.verifier.decode(signed), signed)


# Watermarks and views.


def stable_within_an_interval(solo: Solo) -> None:
    solo.node.core.stable = replace(solo.node.core.stable, sequence=OPEN)


def view_change_for_another_view(solo: Solo) -> None:
    values(mode=Mode.VIEW_CHANGING, view=2)(solo)
    received = solo.node.core.view_change.received
    received[solo.me] = admitted(solo, solo.forge.view_change(1, solo.me))


@pytest.mark.parametrize(
    ("breakage", "words"),
    [
        (stable_within_an_interval, "h is not at a checkpoint"),
        (values(entered_view=1), "entered a view above mine"),
        (values(view=1), "normal in a view that was not entered"),
        (values(view=1, entered_view=1), "a view above 0 without its new-view"),
        (values(mode=Mode.VIEW_CHANGING, view=1), "moving without a view-change"),
        (view_change_for_another_view, "moving without a view-change"),
        (values(stable=GENESIS_CHECKPOINT, executed=0), "core.state.durable_sequence <="),
    ],
)
def test_wrong_watermarks_and_views_are_seen(solo: Solo, breakage: Breakage, words: str) -> None:
    require_seen(solo, breakage, words)


# Slots.


def slot_at(sequence: int) -> Breakage:
    """Something known about a sequence that no window has."""
    return lambda solo: solo.node.core.log.slot(sequence)


def accepted(
    said: int = OPEN, *, at: int = OPEN, view: int = 0, signer: int | None = None
) -> Breakage:
    """A pre-prepare for one sequence in the slot of another, or of another view or replica."""

    def breakage(solo: Solo) -> None:
        signed = solo.forge.pre_prepare(said, DIGEST, view, signer)
        solo.node.core.log.slot(at).pre_prepare = admitted(solo, signed)

    return breakage


def prepare_counted(replica: int, view: int) -> Breakage:
    """Among those of view 0."""

    def breakage(solo: Solo) -> None:
        signed = solo.forge.prepare(replica, OPEN, DIGEST, view)
        solo.slot(OPEN).prepares.current[replica] = admitted(solo, signed)

    return breakage


def commit_of_another_view(solo: Solo) -> None:
    signed = solo.forge.commit(2, OPEN, DIGEST, 1)
    solo.slot(OPEN).commits.current[2] = admitted(solo, signed)


@pytest.mark.parametrize(
    ("breakage", "words"),
    [
        (slot_at(0), "a slot outside the windows"),
        (slot_at(HIGH + WINDOW + 1), "a slot outside the windows"),
        (accepted(view=1, signer=0), "vote.view == view and slot.pre_prepare.signer == primary"),
        (accepted(signer=2), "vote.view == view and slot.pre_prepare.signer == primary"),
        (accepted(OPEN + 1), "vote.sequence == sequence <= proposed"),
        (accepted(HIGH + 1, at=HIGH + 1), "vote.sequence == sequence <= proposed"),
        (accepted(), "accepted unread"),
        (prepare_counted(2, view=1), "a vote of another view counted"),
        (commit_of_another_view, "a vote of another view counted"),
        (prepare_counted(0, view=0), "the primary's prepare counted"),
        (lambda solo: solo.slot(OPEN).bodies.update(many(5)), "too many bodies kept"),
    ],
)
def test_wrong_slots_are_seen(solo: Solo, breakage: Breakage, words: str) -> None:
    require_seen(solo, breakage, words)


# Bounds.


def slots_without_end(solo: Solo) -> None:
    """Under numbers of which none is outside the windows."""
    slots = dict.fromkeys(range(4 * WINDOW), solo.slot(OPEN))
    solo.node.core.log._slots.update(slots)


def large_tail(solo: Solo) -> None:
    solo.node.core.tail.memory_bytes = LIMITS.tail_bytes + 1


def full_pool(solo: Solo) -> None:
    solo.node.core.pool.count = LIMITS.pending_requests + 1


def reads_without_end(solo: Solo) -> None:
    solo.node.core.held_reads._all.update(many(LIMITS.held_reads + 1))


def view_changes_of_more_than_there_are(solo: Solo) -> None:
    solo.node.core.view_change.received.update(many(5))


@pytest.mark.parametrize(
    ("breakage", "words"),
    [
        (slots_without_end, "len(core.log) <="),
        (large_tail, "core.tail.memory_bytes <="),
        (values(chunks_asked=many(1)), "set(core.chunks_asked) <="),
        (full_pool, "core.pool.count <="),
        (reads_without_end, "len(core.held_reads) <="),
        (values(evidence=many(LIMITS.evidence + 1)), "len(core.evidence) <="),
        (view_changes_of_more_than_there_are, "len(core.view_change.received) <="),
        (values(snapshots=many(4)), "len(core.snapshots) <"),
        (values(checkpoints=many(2 * WINDOW // INTERVAL + 1)), "len(core.checkpoints) <="),
        (values(effects=[None]), "a step left work"),
        (values(replies=many(1)), "a step left work"),
        (values(read_replies=many(1)), "a step left work"),
    ],
)
def test_what_grows_without_bounds_is_seen(solo: Solo, breakage: Breakage, words: str) -> None:
    require_seen(solo, breakage, words)
