"""The second phase of a run: everything is healed, and the cluster must come to rest in time.

Byzantine replicas stay what they are. I13: every request of a correct client completes within the
bound. I19: all honest replicas reach one state. I14: an honest primary then stays. I8: the state
survives a loss of power on all replicas at once.
"""

from pbft.core.settings import MILLISECOND, SECOND
from pbft.core.state import Mode
from pbft.sim.checkers.history import Get, Put
from pbft.sim.invariants import Violation
from pbft.sim.network import CALM
from pbft.sim.node import SLOW_MERGE_US, Node
from pbft.sim.workload import Wish
from pbft.sim.world import World
from pbft.types import Digest, Micros, View

RETRANSMISSION_US = 1_000 * MILLISECOND
"""A client may have just sent before the healing: its next word comes this much later at most."""
HEALING_US = 2_500 * MILLISECOND
"""Reconnecting, one slow status, the patience before a transfer, one lying source, the transfer."""
CONVERGENCE_US = 10 * SECOND
"""Within this, everybody has what anybody has (adversary.md section 6 asks for 5 s after a healed
partition; a transfer from liars comes on top)."""
STATE_DOMAINS = 8


def settle(world: World) -> None:
    """Heals the world and sees it come to rest. Raises Violation if it does not."""
    heal(world)
    require_requests_done(world)
    require_convergence(world)
    require_stable_view(world)
    if world.scenario.power_loss_at_end:
        lose_power(world)
        require_convergence(world)
    read_everything(world)
    require_requests_done(world)
    require_equal_states(world)


def heal(world: World) -> None:
    """No more loss, no cuts, no late digests, everybody up, on a disk that can be read."""
    world.note("everything is healed")
    world.network.conditions = CALM
    world.network.mend_all()
    for node in world.nodes:
        node.slow_seals = node.slow_merges = 0.0
        node.thaw()
        if not node.is_up and not node.is_broken:
            node.start()
        if node.is_up:
            node.inspect()


def progress_bound_us(world: World) -> Micros:
    """B(f) = sum of 2^i T_now for i in 0..f, and 6 (f + 1) message delays for what is pending.

    A message delay is one way through the calm network and once through the disk; every request
    that is waiting may need a batch of its own.
    """
    thresholds = world.genesis.thresholds
    scenario = world.scenario
    timeout_us = scenario.timers.request_timeout_us
    for node in world.honest:
        if node.replica is not None:
            timeout_us = max(timeout_us, node.replica.core.timeout_us)
    delay_us = 2 * CALM.delay_us + 2 * scenario.speed.sync_us
    waiting = sum(client.waiting for client in world.clients)
    views_us = sum((1 << i) * timeout_us for i in range(thresholds.faulty + 1))
    merges_us = 4 * scenario.speed.merge_us
    if scenario.speed.slow_merges:
        # One may have begun just before everything was healed.
        merges_us += SLOW_MERGE_US
    batches_us = 6 * (thresholds.weak + waiting) * delay_us
    return views_us + batches_us + merges_us + RETRANSMISSION_US + HEALING_US


def require_requests_done(world: World) -> None:
    """I13."""
    bound_us = progress_bound_us(world)
    end_us = world.scheduler.now_us + bound_us
    if not world.scheduler.run_until(end_us, lambda: all(c.is_finished for c in world.clients)):
        open_requests = sum(client.waiting for client in world.clients)
        raise Violation(
            "I13", f"{open_requests} requests are not done {bound_us / SECOND:.1f} s after healing"
        )


def require_convergence(world: World) -> None:
    """I15, I19: everybody is up and has executed the same."""
    end_us = world.scheduler.now_us + CONVERGENCE_US
    if not world.scheduler.run_until(end_us, lambda: is_converged(world)):
        raise Violation("I19", f"no convergence: {'; '.join(map(_describe, world.honest))}")


def is_converged(world: World) -> bool:
    """Whether all honest replicas are at rest at the same point.

    One of them may be on its way to a view that nobody else moves to: f liars that suspect the
    primary and one honest replica whose timer fired are enough for it to sign a view-change. It
    goes on executing, and the next request that needs it brings the others after it.
    """
    executed = set()
    for node in world.honest:
        if node.replica is None:
            return False
        core = node.replica.core
        if core.transfer is not None or core.diverged:
            return False
        executed.add(core.executed)
    return len(executed) == 1


def common_view(world: World) -> View | None:
    """The view that all honest replicas are in; None if they are not all in one."""
    views = set()
    for node in world.honest:
        if node.replica is None or node.replica.core.mode is not Mode.NORMAL:
            return None
        views.add(node.replica.core.view)
    return views.pop() if len(views) == 1 else None


def _is_merging(node: Node) -> bool:
    return node.replica is not None and node.replica.core.merging is not None


def require_stable_view(world: World) -> None:
    """I14: with an honest primary nothing changes the view, idle or not."""
    # A merge of before the healing may make somebody wait who then finds the primary slow.
    merged_us = world.scheduler.now_us + SLOW_MERGE_US
    world.scheduler.run_until(merged_us, lambda: not any(map(_is_merging, world.honest)))
    timeout_us = world.scenario.timers.request_timeout_us
    view = common_view(world)
    begun = sum(world.view_changes.values())
    for client in world.clients:
        client.ask(Wish(Put(b"quiet", b"%d" % client.place)))
    world.scheduler.run_until(world.scheduler.now_us + world.scenario.quiet_timeouts * timeout_us)
    if view is not None and sum(world.view_changes.values()) != begun:
        primary = world.nodes[world.genesis.thresholds.primary_of(view)]
        if primary.is_honest:
            raise Violation("I14", f"view {view} of an honest primary was left in the quiet")
    require_requests_done(world)
    require_convergence(world)


def lose_power(world: World) -> None:
    """I8: all replicas lose what was not synced, at one moment, and come back one by one."""
    world.note("power loss of all replicas")
    for node in world.nodes:
        if node.is_up:
            node.crash()
    world.count_power_loss()
    for node in reversed(world.nodes):
        world.scheduler.run_until(world.scheduler.now_us + 20 * MILLISECOND)
        if not node.is_broken:
            node.start()


def read_everything(world: World) -> None:
    """One client reads every key in order: what was acknowledged must be there."""
    for number in range(world.scenario.keys):
        world.clients[0].ask(Wish(Get(b"key%d" % number)))


def require_equal_states(world: World) -> None:
    """I11, I19: the same records in every domain."""
    require_convergence(world)
    first, *others = world.honest
    content = _content(first)
    for node in others:
        if _content(node) != content:
            raise Violation("I11", f"replicas {first.place} and {node.place} hold other records")


def _content(node: Node) -> list[tuple[int, bytes, int, bytes]]:
    return [
        (domain, *record)
        for domain in range(STATE_DOMAINS)
        for record in node.state.domain(domain).scan(b"", None)
    ]


def _describe(node: Node) -> str:
    if node.replica is None:
        return f"replica {node.place} is down"
    core = node.replica.core
    transfer = " transferring" if core.transfer is not None else ""
    return (
        f"replica {node.place}: view {core.view} {core.mode.value}{transfer}, "
        f"h {core.low_water_mark}, executed {core.executed}"
    )


def final_digest(world: World) -> Digest:
    """The last state digest that was certified, for reports."""
    core = world.honest[0].replica
    assert core is not None
    return core.core.stable.digest
