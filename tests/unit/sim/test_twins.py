"""Twins: one replica at two places, each seen by a part of the others."""

from random import Random

from pbft.sim.network import CALM, Network, Place
from pbft.sim.scenario import Crime, Scenario
from pbft.sim.scheduler import Scheduler
from pbft.sim.trace import Trace
from pbft.sim.twins import CopysNetwork, Directions, Phases, Twin, draw_parts
from pbft.sim.world import World

COPY = 9


class Post:
    """Two replicas, 0 and 1, on a network; 1 is at place 9 as well."""

    def __init__(self) -> None:
        self.scheduler = Scheduler()
        self.network = Network(self.scheduler, Random(1), CALM, 2)
        self.network.add_copy(1, COPY)
        self.copys = CopysNetwork(self.network, COPY)
        self.got: list[tuple[str, Place, bytes]] = []
        self.noticed: list[tuple[str, Place, bool]] = []
        for name, place, links in (
            ("zero", 0, self.network),
            ("one", 1, self.network),
            ("copy", 1, self.copys),
        ):
            links.attach(place, self._receive(name), self._notice(name))

    def _receive(self, name: str):  # type: ignore[no-untyped-def]
        return lambda origin, data: self.got.append((name, origin, data))

    def _notice(self, name: str):  # type: ignore[no-untyped-def]
        return lambda peer, up: self.noticed.append((name, peer, up))

    def run(self) -> None:
        self.scheduler.run_until(self.scheduler.now_us + 100_000)


def test_what_is_sent_to_a_twin_reaches_both_and_what_either_sends_comes_from_one() -> None:
    post = Post()
    post.network.send(0, 1, b"question")
    post.network.send(1, 0, b"answer")
    post.copys.send(1, 0, b"other answer")
    post.run()
    assert sorted(post.got) == [
        ("copy", 0, b"question"),
        ("one", 0, b"question"),
        ("zero", 1, b"answer"),
        ("zero", 1, b"other answer"),
    ]


def test_each_copy_can_be_cut_off_by_itself() -> None:
    post = Post()
    post.network.cut([(0, COPY)], noticed=False)
    post.network.send(0, 1, b"question")
    post.run()
    assert post.got == [("one", 0, b"question")]


def test_a_copy_that_leaves_leaves_the_other_there() -> None:
    post = Post()
    post.copys.detach(1)
    post.network.send(0, 1, b"question")
    post.run()
    assert post.got == [("one", 0, b"question")]


def test_nobody_hears_of_more_than_one_link_to_a_twin() -> None:
    post = Post()
    post.run()
    assert sorted(post.noticed) == [("copy", 0, True), ("one", 0, True), ("zero", 1, True)]


def test_the_parts_are_two_sides() -> None:
    drawn: set[Directions] = set()
    for seed in range(200):
        parted = draw_parts(Random(seed), [1, 2, 3, 4], [(0, COPY)], 4)
        drawn.add(parted)
        assert (0, COPY) in parted or not parted
        assert {(other, one) for one, other in parted} == set(parted)
        if parted:
            reached = {place for place in (1, 2, 3, 4) if (0, place) not in parted}
            also = {place for place in (1, 2, 3, 4) if (COPY, place) not in parted}
            assert reached | also, "somebody sees one of them"
    assert () in drawn and len(drawn) > 50
    assert any((1, 2) in parted for parted in drawn), "the honest are parted, too"
    assert any({(0, 1), (0, 2), (0, 3)} <= set(parted) for parted in drawn), "alone"


def test_phases_begin_when_all_are_ready_and_end_with_the_faults() -> None:
    scheduler = Scheduler()
    network = Network(scheduler, Random(1), CALM, 2)
    got: list[bytes] = []
    network.attach(1, lambda origin, data: got.append(data))
    network.attach(0, lambda origin, data: None)
    phases = Phases(scheduler, network, lambda: ((0, 1),), Random(1), 5_000_000)
    ready: list[bool] = []
    phases.begin(lambda: bool(ready))
    for at_us, data in ((900_000, b"before"), (2_000_000, b"amid"), (5_100_000, b"after")):
        scheduler.at(at_us, network.send, 0, 1, data)
    scheduler.run_until(1_000_000)
    ready.append(True)
    scheduler.run_until(4_999_999)
    scheduler.at(5_050_000, network.mend_all)
    scheduler.run_until(6_000_000)
    assert got == [b"before", b"after"]


def test_a_world_runs_both_copies_and_counts_what_leaves_them() -> None:
    world = World(Scenario(1, 4, crimes=(Crime(2, Twin.name),)), Trace(4))
    world.start()
    world.scheduler.run_until(1_000_000)
    (copy,) = world.copies
    assert copy.place == 2 and copy.is_up and not copy.is_honest
    assert copy.log is not world.nodes[2].log and copy.signer is world.nodes[2].signer
    assert [node.place for node in world.honest] == [0, 1, 3]
    alone = world.nodes[2].behaviour
    assert alone is not None
    assert world.behaviours()[Twin.name] > alone.acted > 0
