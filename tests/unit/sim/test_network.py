"""The simulated network: loss, duplicates, reordering, cuts, and what the ends are told."""

from random import Random

from pbft.sim.network import CALM, Conditions, Network, Place
from pbft.sim.scheduler import Scheduler


class Cluster:
    """Three places, two of them replicas, that note what comes."""

    def __init__(self, conditions: Conditions = CALM) -> None:
        self.scheduler = Scheduler()
        self.network = Network(self.scheduler, Random(1), conditions, replicas=2)
        self.arrived: list[tuple[Place, Place, bytes]] = []
        self.notices: list[tuple[Place, Place, bool]] = []
        for place in range(3):
            self.attach(place)
        self.run()

    def attach(self, place: Place) -> None:
        self.network.attach(
            place,
            lambda origin, data: self.arrived.append((origin, place, data)),
            lambda peer, up: self.notices.append((place, peer, up)),
        )

    def run(self) -> None:
        self.scheduler.run_until(self.scheduler.now_us + 1_000_000)

    def send_many(self, count: int) -> list[int]:
        for number in range(count):
            self.network.send(0, 1, number.to_bytes(4, "big"))
        self.run()
        return [int.from_bytes(data, "big") for _, _, data in self.arrived]


def test_a_calm_network_delivers_everything_once() -> None:
    assert sorted(Cluster().send_many(200)) == list(range(200))


def test_loss_loses_about_its_share() -> None:
    assert 50 < len(Cluster(Conditions(lost=0.5)).send_many(200)) < 150


def test_duplication_delivers_twice() -> None:
    arrived = Cluster(Conditions(duplicated=0.5)).send_many(200)
    assert set(arrived) == set(range(200))
    assert 250 < len(arrived) < 350


def test_messages_of_one_direction_keep_their_order() -> None:
    arrived = Cluster(Conditions(late=0.3, late_us=100_000)).send_many(200)
    assert arrived == list(range(200))


def test_without_order_late_messages_are_overtaken() -> None:
    conditions = Conditions(late=0.3, late_us=100_000, ordered=False)
    arrived = Cluster(conditions).send_many(200)
    assert arrived != sorted(arrived)
    assert sorted(arrived) == list(range(200))


def test_a_cut_stops_one_direction_only_and_both_ends_notice() -> None:
    cluster = Cluster()
    cluster.notices.clear()
    cluster.network.cut([(0, 1)], noticed=True)
    cluster.run()
    cluster.network.send(0, 1, b"lost")
    cluster.network.send(1, 0, b"arrives")
    cluster.run()
    assert cluster.arrived == [(1, 0, b"arrives")]
    assert sorted(cluster.notices) == [(0, 1, False), (1, 0, False)]
    cluster.network.mend([(0, 1)], noticed=True)
    cluster.run()
    assert sorted(cluster.notices[2:]) == [(0, 1, True), (1, 0, True)]


def test_a_hidden_cut_is_not_noticed() -> None:
    cluster = Cluster()
    cluster.notices.clear()
    cluster.network.cut([(0, 1)], noticed=False)
    cluster.run()
    cluster.network.send(0, 1, b"lost")
    cluster.run()
    assert cluster.arrived == [] and cluster.notices == []


def test_overlapping_cuts_are_mended_one_by_one() -> None:
    cluster = Cluster()
    cluster.network.cut([(0, 1)], noticed=True)
    cluster.network.cut([(0, 1)], noticed=False)
    cluster.network.mend([(0, 1)], noticed=True)
    assert cluster.send_many(3) == []
    cluster.network.mend_all()
    assert len(cluster.send_many(3)) == 3


def test_a_link_goes_down_with_its_end_and_comes_up_with_it() -> None:
    cluster = Cluster()
    cluster.notices.clear()
    cluster.network.detach(1)
    cluster.run()
    assert sorted(cluster.notices) == [(0, 1, False), (2, 1, False)]
    cluster.notices.clear()
    cluster.attach(1)
    cluster.run()
    assert sorted(cluster.notices) == [(0, 1, True), (1, 0, True), (1, 2, True), (2, 1, True)]


def test_what_is_under_way_to_a_place_that_went_away_is_lost() -> None:
    cluster = Cluster()
    cluster.network.send(0, 1, b"too late")
    cluster.network.detach(1)
    cluster.run()
    assert cluster.arrived == []
