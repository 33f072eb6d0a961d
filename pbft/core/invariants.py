"""What must hold after every step of an honest replica; checked by the simulator and the tests."""

from pbft.core.checkpoint import UNSEALED_MAX
from pbft.core.state import Core, Mode
from pbft.core.tail import CERTIFICATES_MAX
from pbft.crypto.digest import NULL_DIGEST


def check(core: Core) -> None:
    """Raises AssertionError naming what does not hold (protocol.md sections 5 to 8, 14)."""
    _check_watermarks(core)
    _check_slots(core)
    _check_bounds(core)


def _check_watermarks(core: Core) -> None:
    interval = core.genesis.constants.checkpoint_interval
    assert core.low_water_mark % interval == 0, "h is not at a checkpoint"
    assert core.entered_view <= core.view, "entered a view above mine"
    if core.mode is Mode.NORMAL:
        assert core.entered_view == core.view, "normal in a view that was not entered"
        assert core.view == 0 or core.new_view is not None, "a view above 0 without its new-view"
    elif core.is_trusted:
        mine = core.view_change.received.get(core.me)
        assert mine is not None and mine.message.view == core.view, "moving without a view-change"
    assert core.state.durable_sequence <= max(core.executed, core.low_water_mark)


def _check_slots(core: Core) -> None:
    # After every step of a simulation, for every slot: one loop, and nothing looked up twice.
    view, primary = core.view, core.primary
    low = core.low_water_mark - core.genesis.constants.checkpoint_interval
    proposed = core.high_water_mark
    high = proposed + core.genesis.constants.window
    bodies_max = core.settings.limits.bodies_per_slot + 3
    for slot in core.log:
        sequence, bodies = slot.sequence, slot.bodies
        assert low < sequence <= high or sequence in core.to_execute, "a slot outside the windows"
        if slot.pre_prepare is not None:
            vote = slot.pre_prepare.message
            assert vote.view == view and slot.pre_prepare.signer == primary
            assert vote.sequence == sequence <= proposed
            assert vote.digest == NULL_DIGEST or vote.digest in bodies, "accepted unread"
        prepares = slot.prepares.current
        for votes in (prepares, slot.commits.current):
            for signed in votes.values():
                assert signed.message.view == view, "a vote of another view counted"
        assert primary not in prepares, "the primary's prepare counted"
        if len(bodies) > bodies_max:
            assert len(bodies.keys() - slot.accepted) <= bodies_max, "too many bodies kept"


def _check_bounds(core: Core) -> None:
    constants, limits = core.genesis.constants, core.settings.limits
    replicas = core.thresholds.replicas
    restored = max(0, core.restored_end - core.executed)
    assert len(core.log) <= 3 * constants.window + constants.checkpoint_interval + restored
    assert core.tail.memory_bytes <= limits.tail_bytes
    assert set(core.chunks_asked) <= set(core.snapshots)
    assert core.pool.count <= limits.pending_requests
    assert len(core.held_reads) <= limits.held_reads
    assert len(core.evidence) <= limits.evidence
    assert len(core.view_change.received) <= replicas
    assert len(core.snapshots) < replicas
    window = 2 * constants.window // constants.checkpoint_interval
    assert len(core.checkpoints) <= window
    assert len(core.sealed) <= window + 1
    assert len(core.unsealed) <= UNSEALED_MAX + 1
    assert len(core.certified) <= window
    assert len(core.tail.certificates) <= CERTIFICATES_MAX
    assert len(core.holds) < replicas
    assert not core.effects and not core.replies and not core.read_replies, "a step left work"
