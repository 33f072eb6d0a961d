"""Numbering, gathering, retransmission and the end of sessions (protocol.md section 4)."""

import itertools
from collections.abc import Iterable
from dataclasses import replace

from pbft.messages import Outcome, Refusal, Reply, Request
from pbft_client.collector import Ignored
from pbft_client.gathering import Call, GatherSettings, Transmission
from pbft_client.session import Session, SessionSettings, Settlement
from tests.unit.client.world import World, at, digest_of, digest_only, reply, request_in

SESSION = 1_000


class Driver:
    """A session with everything it sends decoded, and replies made to measure."""

    def __init__(
        self, world: World | None = None, up: Iterable[int] = range(4), **settings: object
    ) -> None:
        self.world = world or World()
        gather = settings.pop("gather", GatherSettings())
        assert isinstance(gather, GatherSettings)
        chosen = SessionSettings(gather=gather, retransmission_jitter=0.0)
        chosen = replace(chosen, **settings)  # type: ignore[arg-type]
        self.random = 0.0
        """What is drawn next, and from then on."""
        self.session = Session(
            self.world.genesis, self.world.signer, SESSION, lambda: self.random, chosen
        )
        self.digests: dict[tuple[int, int], bytes] = {}
        for replica in up:
            self.session.link_up(replica)

    def calls(self, *operations: bytes) -> list[Call]:
        calls = [Call(operation) for operation in operations]
        for call in calls:
            self.session.enqueue(call)
        return calls

    def poll(self, seconds: float) -> list[Transmission]:
        sent = self.session.poll(at(seconds))
        for transmission in sent:
            request, submit = request_in(transmission.item)
            digest = digest_of(submit.request)
            assert self.digests.setdefault((request.session, request.number), digest) == digest
        return sent

    def requests(self, seconds: float) -> list[Request]:
        return [request_in(transmission.item)[0] for transmission in self.poll(seconds)]

    def answer(
        self,
        number: int,
        replica: int,
        seconds: float = 0,
        *,
        session: int = SESSION,
        view: int = 0,
        full: bool = True,
        lost: bool = False,
        **fields: object,
    ) -> list[Settlement]:
        """One replica's reply to a request that was sent; `lost`: it keeps the digest only."""
        digest = self.digests[(session, number)]
        known = {"session": session, "number": number, **fields}
        made: Reply = reply(digest, **known)  # type: ignore[arg-type]
        if lost:
            made = replace(made, results=None, outcome=Outcome.RESULT_FORGOTTEN)
        elif not full:
            made = digest_only(made)
        envelope = self.world.replies(replica, [made], view)
        return self.session.receive(envelope, at(seconds, wall_us=2_000))

    def settle(self, number: int, seconds: float = 0, **fields: object) -> Settlement:
        """f + 1 replies; returns what they settle."""
        assert self.answer(number, 1, seconds, **fields) == []  # type: ignore[arg-type]
        (settlement,) = self.answer(number, 2, seconds, **fields)  # type: ignore[arg-type]
        return settlement


def test_the_first_call_goes_at_once_and_to_all_while_no_view_is_known() -> None:
    driver = Driver()
    (call,) = driver.calls(b"one")
    (sent,) = driver.poll(0)
    request, submit = request_in(sent.item)
    assert sent.replicas == (0, 1, 2, 3)
    assert request == Request(driver.world.client, SESSION, 1, 0, 0, (b"one",))
    assert not submit.full_results
    settlement = driver.settle(1)
    assert settlement.calls == [call]
    assert settlement.decision.results == (b"result",)
    assert driver.session.under_way == 0


def test_requests_go_to_the_primary_that_f_plus_1_tell() -> None:
    driver = Driver()
    driver.calls(b"one")
    driver.poll(0)
    driver.settle(1, view=6)
    driver.calls(b"two")
    (sent,) = driver.poll(1)
    assert sent.replicas == (2,)


def test_without_a_stream_to_the_primary_requests_go_to_all() -> None:
    driver = Driver()
    driver.calls(b"one")
    driver.poll(0)
    driver.settle(1, view=6)
    driver.session.link_down(2)
    driver.calls(b"two")
    (sent,) = driver.poll(1)
    assert sent.replicas == (0, 1, 3)
    # Number 2 designates the replica that is down, so the results are wanted from the others.
    assert request_in(sent.item)[1].full_results
    driver.settle(2)
    driver.calls(b"three")
    (sent,) = driver.poll(2)
    assert sent.replicas == (0, 1, 3)
    assert not request_in(sent.item)[1].full_results


def test_when_the_stream_to_the_primary_breaks_everything_goes_to_all() -> None:
    driver = Driver()
    driver.calls(b"one")
    driver.poll(0)
    driver.settle(1, view=4)
    driver.calls(b"two")
    driver.poll(1)
    driver.session.link_down(3)
    assert driver.poll(1.01) == []
    driver.session.link_down(0)
    (sent,) = driver.poll(1.02)
    assert sent.replicas == (1, 2)
    assert request_in(sent.item)[0].number == 2
    assert driver.poll(1.03) == [], "once"


def test_a_new_stream_is_sent_what_is_under_way() -> None:
    driver = Driver(up=range(3))
    driver.calls(b"one")
    driver.poll(0)
    driver.session.link_up(3)
    (sent,) = driver.poll(0.1)
    assert sent.replicas == (3,)
    assert driver.poll(0.2) == []


def test_a_new_primary_is_sent_what_is_under_way() -> None:
    driver = Driver()
    driver.calls(b"one")
    driver.poll(0)
    driver.settle(1, view=4)
    driver.calls(b"two")
    assert driver.poll(1)[0].replicas == (0,)
    driver.calls(b"three")
    driver.poll(1)
    driver.poll(1.02)
    driver.settle(2, view=5)
    (sent,) = driver.poll(1.03)
    assert sent.replicas == (1,)
    assert request_in(sent.item)[0].number == 3


def test_nothing_is_lost_while_no_stream_is_up() -> None:
    driver = Driver(up=())
    driver.calls(b"one")
    assert driver.poll(0) == []
    driver.session.link_up(1)
    (sent,) = driver.poll(0.1)
    assert sent.replicas == (1,)


def test_calls_gather_while_a_request_is_under_way() -> None:
    driver = Driver(gather=GatherSettings(under_way=2, enough_calls=3, patience_us=10_000))
    driver.calls(b"a", b"b")
    assert [request.operations for request in driver.requests(0)] == [(b"a", b"b")]
    driver.calls(b"c", b"d")
    assert driver.requests(0) == []
    driver.calls(b"e")
    assert [request.operations for request in driver.requests(0)] == [(b"c", b"d", b"e")]
    driver.calls(b"f", b"g", b"h", b"i")
    assert driver.requests(5) != []  # Retransmissions only: two are under way.
    assert {key[1] for key in driver.digests} == {1, 2}
    driver.settle(1, results=(b"",) * 2)
    driver.settle(2, results=(b"",) * 3)
    assert [request.operations for request in driver.requests(6)] == [(b"f", b"g", b"h", b"i")]


def test_a_call_waits_no_longer_for_others_than_its_patience() -> None:
    driver = Driver(gather=GatherSettings(under_way=2, enough_calls=3, patience_us=10_000))
    driver.calls(b"a")
    driver.poll(0)
    driver.calls(b"b")
    assert driver.requests(0.001) == []
    assert driver.session.next_deadline_us() == 11_000
    assert driver.requests(0.0109) == []
    assert [request.operations for request in driver.requests(0.011)] == [(b"b",)]


def test_a_call_that_waits_for_a_request_under_way_wakes_nobody() -> None:
    driver = Driver(gather=GatherSettings(under_way=1, patience_us=10_000))
    driver.calls(b"a")
    driver.poll(0)
    driver.calls(b"b")
    assert driver.requests(0) == []
    assert driver.session.next_deadline_us() == 500_000, "the retransmission"


def test_a_request_is_full_at_its_limits() -> None:
    driver = Driver(request_operations=3, request_bytes=1_000)
    driver.calls(*[b"x"] * 7)
    assert [len(request.operations) for request in driver.requests(0)] == [3]
    driver = Driver(request_bytes=1_256)
    calls = driver.calls(b"x" * 400, b"y" * 400, b"z" * 400)
    assert [len(request.operations) for request in driver.requests(0)] == [2]
    driver.settle(1, results=(b"", b""))
    assert [request.operations for request in driver.requests(1)] == [(b"z" * 400,)]
    assert calls[2].index == 0


def test_a_request_is_no_larger_than_the_genesis_allows() -> None:
    """The replicas would refuse it, however often it is sent."""
    world = World()
    limits = replace(world.genesis.limits, operations_per_request=2, request_bytes=1_256)
    world.genesis.__dict__["limits"] = limits
    driver = Driver(world)
    driver.calls(*[b"x"] * 5)
    assert [len(request.operations) for request in driver.requests(0)] == [2]
    driver = Driver(world)
    driver.calls(b"x" * 600, b"y" * 600)
    assert [len(request.operations) for request in driver.requests(0)] == [1]
    world.genesis.__dict__["limits"] = replace(limits, operations_per_request=1024)
    driver = Driver(world)
    driver.calls(*[b"x"] * 1_000)
    for sent in driver.poll(0):
        assert len(request_in(sent.item)[1].request.payload) <= 1_256


def test_a_single_large_operation_still_goes() -> None:
    driver = Driver(request_bytes=1_000)
    driver.calls(b"x" * 5_000)
    assert [len(request.operations) for request in driver.requests(0)] == [1]


def test_retransmissions_are_the_same_bytes_to_all_and_back_off() -> None:
    driver = Driver()
    driver.calls(b"one")
    driver.poll(0)
    driver.settle(1, view=0)
    driver.calls(b"two")
    (first,) = driver.poll(10)
    assert first.replicas == (0,)
    times = []
    now = 10.0
    while now < 40:
        deadline = driver.session.next_deadline_us()
        assert deadline is not None
        now = deadline / 1e6
        (sent,) = driver.poll(now)
        assert sent.replicas == (0, 1, 2, 3)
        assert request_in(sent.item)[1].full_results
        assert request_in(sent.item)[1].request == request_in(first.item)[1].request
        times.append(round(now, 3))
    gaps = [round(b - a, 3) for a, b in itertools.pairwise([10.0, *times])]
    assert gaps[:6] == [0.5, 1.0, 2.0, 4.0, 5.0, 5.0]


def test_retransmissions_are_spread_by_jitter() -> None:
    world = World()
    for random, expected in ((0.0, 500_000), (0.999, 624_875)):
        session = Session(world.genesis, world.signer, SESSION, itertools.repeat(random).__next__)
        session.link_up(0)
        session.enqueue(Call(b"x"))
        session.poll(at(0))
        assert session.next_deadline_us() == expected


def test_all_are_asked_in_full_when_the_designated_replica_fails() -> None:
    driver = Driver()
    driver.calls(b"one")
    driver.poll(0)
    driver.answer(1, 0, full=False)
    driver.answer(1, 2, full=False)
    assert driver.session.next_deadline_us() == 50_000
    assert driver.poll(0.049) == []
    (sent,) = driver.poll(0.05)
    assert sent.replicas == (0, 1, 2, 3)
    assert request_in(sent.item)[1].full_results
    driver.answer(1, 3, full=False)
    assert driver.poll(0.2) == [], "asked once; from then on the retransmissions ask"
    (settlement,) = driver.answer(1, 3)
    assert settlement.decision.results == (b"result",)


def test_all_are_asked_in_full_at_once_when_the_designated_answered_without() -> None:
    driver = Driver()
    driver.calls(b"one")
    driver.poll(0)
    driver.answer(1, 1, full=False)
    driver.answer(1, 2, full=False)
    (sent,) = driver.poll(0)
    assert request_in(sent.item)[1].full_results


def test_all_are_asked_in_full_at_once_when_the_designated_is_gone() -> None:
    driver = Driver()
    driver.calls(b"one")
    driver.poll(0)
    driver.session.link_down(1)
    driver.answer(1, 0, full=False)
    driver.answer(1, 2, full=False)
    (sent,) = driver.poll(0)
    assert sent.replicas == (0, 2, 3)
    assert request_in(sent.item)[1].full_results


def test_acknowledged_never_passes_a_number_without_a_fate() -> None:
    driver = Driver(gather=GatherSettings(under_way=4, enough_calls=1))
    for number in range(1, 4):
        driver.calls(b"call %d" % number)
        assert [request.acknowledged for request in driver.requests(0)] == [0]
    driver.settle(2)
    driver.settle(3)
    driver.calls(b"four")
    assert [request.acknowledged for request in driver.requests(0)] == [0]
    driver.settle(1)
    driver.calls(b"five")
    assert [request.acknowledged for request in driver.requests(0)] == [3]
    driver.settle(4)
    driver.settle(5)
    driver.calls(b"six")
    assert [request.acknowledged for request in driver.requests(0)] == [5]


def test_a_number_is_settled_only_when_all_its_calls_were_given_up() -> None:
    driver = Driver(gather=GatherSettings(enough_calls=1))
    first, second = driver.calls(b"a", b"b")
    driver.poll(0)
    assert driver.session.abandon(first)
    assert driver.session.acknowledged == 0
    assert driver.session.abandon(second)
    assert driver.session.acknowledged == 1
    assert driver.session.under_way == 0
    late = driver.answer(1, 1) + driver.answer(1, 2)
    assert late == []
    assert driver.session.ignored[Ignored.UNKNOWN_REQUEST] == 2


def test_a_call_that_was_not_sent_has_no_effect_when_it_is_given_up() -> None:
    driver = Driver()
    driver.calls(b"a")
    driver.poll(0)
    waiting, other = driver.calls(b"b", b"c")
    assert not driver.session.abandon(waiting)
    driver.settle(1)
    assert [request.operations for request in driver.requests(1)] == [(b"c",)]
    assert driver.session.answers(other).answered == ()


def test_a_call_given_up_leaves_a_hole_in_the_settlement() -> None:
    driver = Driver()
    first, second = driver.calls(b"a", b"b")
    driver.poll(0)
    assert driver.session.abandon(first)
    settlement = driver.settle(1, results=(b"1", b"2"))
    assert settlement.calls == [None, second]
    assert second.index == 1


def test_what_was_not_executed_goes_again_in_halves_that_nobody_joins() -> None:
    driver = Driver(gather=GatherSettings(under_way=2, enough_calls=9, patience_us=10_000))
    calls = driver.calls(b"0", b"1", b"2", b"3", b"4", b"5")
    assert len(driver.requests(0)) == 1
    driver.settle(1, results=(b"r",) * 6)
    driver.calls(b"new")
    driver.session.enqueue_again(calls[1:])
    first, second = driver.requests(0)
    assert (first.number, first.acknowledged, first.operations) == (2, 1, (b"1", b"2", b"3"))
    assert (second.number, second.operations) == (3, (b"4", b"5"))
    assert [(call.index, call.carrier is not None) for call in calls[1:4]] == [
        (0, True),
        (1, True),
        (2, True),
    ]
    driver.settle(2, results=(b"r",) * 3)
    driver.session.enqueue_again(calls[3:4])
    assert [request.operations for request in driver.requests(0)] == [(b"3",)]
    driver.settle(3, results=(b"r",) * 2)
    driver.settle(4)
    assert [request.operations for request in driver.requests(0)] == [(b"new",)]


def test_what_waits_to_go_again_has_no_effect_when_it_is_given_up() -> None:
    driver = Driver(gather=GatherSettings(under_way=1))
    calls = driver.calls(b"0", b"1", b"2")
    driver.poll(0)
    driver.settle(1, results=(b"r",) * 3)
    driver.session.enqueue_again(calls[1:])
    assert not driver.session.abandon(calls[1])
    assert [request.operations for request in driver.requests(0)] == [(b"2",)]
    assert driver.session.abandon(calls[2])


def test_the_window_bounds_the_numbers_above_acknowledged() -> None:
    world = World()
    limits = replace(world.genesis.limits, requests_in_flight=3)
    world.genesis.__dict__["limits"] = limits
    driver = Driver(world, gather=GatherSettings(under_way=9, enough_calls=1))
    for number in range(1, 4):
        driver.calls(b"x")
        assert [request.number for request in driver.requests(0)] == [number]
    driver.settle(2)
    driver.settle(3)
    driver.calls(b"y")
    assert driver.requests(0.1) == []
    deadline = driver.session.next_deadline_us()
    assert deadline is not None
    assert deadline > 100_000, "waiting for the window must not spin"
    driver.settle(1)
    assert [request.number for request in driver.requests(0.2)] == [4]


def test_closing_sends_a_last_request_that_acknowledges_everything() -> None:
    driver = Driver(gather=GatherSettings(enough_calls=9))
    driver.calls(b"a")
    driver.poll(0)
    driver.settle(1)
    driver.calls(b"b")
    driver.poll(1)
    waiting = driver.calls(b"c")
    closing = Call(b"")
    under_way_before_close = driver.session.under_way
    assert driver.session.close(closing) == waiting
    (request,) = driver.requests(1.1)
    assert under_way_before_close == 1
    assert request.close_session
    assert request.operations == ()
    assert (request.number, request.acknowledged) == (3, 1)
    driver.settle(2)
    assert driver.settle(3, results=(), outcome=Outcome.SESSION_CLOSED).calls == [closing]
    assert driver.session.session == SESSION


def test_a_session_never_used_needs_no_closing() -> None:
    driver = Driver()
    closing = Call(b"")
    assert driver.session.close(closing) == []
    assert driver.poll(0) == []
    assert closing.carrier is None


def test_refusals_are_advice_for_the_text_of_errors_only() -> None:
    driver = Driver()
    (call,) = driver.calls(b"a")
    driver.poll(0)
    for replica in range(3):
        driver.session.refused(replica, Refusal(SESSION, 1, "queue_full" + "x" * 1_000))
        driver.session.refused(replica, Refusal(SESSION, 99, "unknown"))
    driver.answer(1, 3)
    answers = driver.session.answers(call)
    assert answers.answered == (3,)
    assert "replica 0 refused the request: queue_fullx" in str(answers)
    assert len(str(answers)) < 400
    assert driver.session.under_way == 1


def test_a_duplicate_and_a_wrong_reply_are_counted() -> None:
    driver = Driver()
    driver.calls(b"a")
    driver.poll(0)
    driver.answer(1, 3)
    driver.answer(1, 3)
    assert driver.session.ignored[Ignored.DUPLICATE] == 1


def test_nothing_waiting_means_no_deadline() -> None:
    driver = Driver()
    assert driver.session.next_deadline_us() is None
    driver.calls(b"a")
    driver.poll(0)
    driver.settle(1)
    assert driver.session.next_deadline_us() is None
