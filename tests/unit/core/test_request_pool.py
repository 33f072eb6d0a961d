"""The request pool: fairness, bounds, and deadlines that nothing but a view change moves."""

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pbft.core import requests
from pbft.core.requests import DISPLACE_US, STALE_TIMERS, RequestPool
from pbft.crypto.signing import FAKE, ClientSigner
from pbft.errors import Reason
from pbft.limits import LocalLimits
from pbft.messages import Authenticated, Request
from tests.harness.core_forge import forge

T_US = 1000
BIG = 1 << 30


def request(number: int, client: int = 0, size: int = 1) -> Authenticated[Request]:
    """A verified request."""
    maker = forge(4)
    signed = maker.request(number, b"x" * size, client=client, acknowledged=0)
    return maker.admit(signed)


def request_of_many(client: int) -> Callable[[int], Authenticated[Request]]:
    """Makes requests of one of more clients than the forge has."""
    maker = forge(4)
    keys = FAKE.key_pair(client.to_bytes(2, "big") * 16)
    signer = ClientSigner(keys, maker.genesis.cluster_id, FAKE)

    def make(number: int) -> Authenticated[Request]:
        message = Request(signer.client, 1, number, 0, 0, (b"x",))
        return Authenticated(message, signer.sign(message), bytes(32))

    return make


def pool_of(*requests: Authenticated[Request], limits: LocalLimits | None = None) -> RequestPool:
    """A pool that took these at time 0."""
    pool = RequestPool(limits or LocalLimits())
    for item in requests:
        assert pool.add(item, 0, T_US, None) is None
    return pool


def taken(pool: RequestPool, count: int = 100, size: int = BIG) -> list[tuple[int, int]]:
    """(client, number) of one batch."""
    keys = [signer.client for signer in forge(4).clients]
    batch = pool.take(count, size, BIG)
    return [(keys.index(p.request.message.client), p.request.message.number) for p in batch]


def test_a_request_is_pending_once() -> None:
    pool = pool_of(request(1))
    assert pool.add(request(1), 5, T_US, None) is Reason.DUPLICATE
    assert pool.count == 1
    assert request(1).message in pool
    assert request(2).message not in pool


def test_batches_go_round_robin_over_clients() -> None:
    """One client with many requests does not delay another's only one."""
    pool = pool_of(*(request(number) for number in range(1, 6)), request(1, 1), request(1, 2))
    assert taken(pool, 4) == [(0, 1), (1, 1), (2, 1), (0, 2)]
    assert taken(pool) == [(0, 3), (0, 4), (0, 5)]
    assert not pool.has_unproposed()
    assert pool.count == 7


def test_the_turn_goes_on_in_the_next_batch() -> None:
    pool = pool_of(*(request(n, client) for client in range(3) for n in (1, 2)))
    assert [taken(pool, 2) for _ in range(3)] == [
        [(0, 1), (1, 1)],
        [(2, 1), (0, 2)],
        [(1, 2), (2, 2)],
    ]


@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(1, 200)), min_size=1, max_size=20),
    st.integers(1, 10),
    st.integers(200, 2000),
)
@settings(max_examples=50, deadline=None)
def test_batches_keep_both_bounds_and_lose_nothing(
    items: list[tuple[int, int]], count: int, size: int
) -> None:
    pool = pool_of(*(request(n, client, size) for n, (client, size) in enumerate(items, 1)))
    seen = []
    while pool.has_unproposed():
        batch = pool.take(count, size, BIG)
        assert 1 <= len(batch) <= count
        assert len(batch) == 1 or sum(len(item.encoded) for item in batch) <= size
        seen += [item.request.message.number for item in batch]
    assert sorted(seen) == list(range(1, len(items) + 1))


def test_what_is_settled_is_forgotten() -> None:
    pool = pool_of(request(1), request(2))
    pool.settle(request(1).message, T_US)
    pool.settle(request(1).message, T_US)
    assert taken(pool) == [(0, 2)]
    pool.settle(request(2).message, T_US)
    assert (pool.count, pool.size_bytes, pool.pending()) == (0, 0, [])
    assert pool.next_deadline_us() is None


def test_another_request_with_the_same_identity_settles_it() -> None:
    """A client that signs two requests for one number starts no timer that nothing cancels."""
    pool = pool_of(request(1, size=1))
    pool.settle(request(1, size=9).message, T_US)
    assert pool.count == 0


def test_what_stands_in_a_batch_is_not_proposed_again_until_the_next_view() -> None:
    pool = pool_of(request(1), request(2))
    pool.mark_proposed(request(1).message)
    pool.mark_proposed(request(7, 2).message)
    assert taken(pool) == [(0, 2)]
    pool.enter_view(50, T_US)
    assert taken(pool) == [(0, 1), (0, 2)]


# Timers.


def test_the_deadline_is_that_of_the_arrival() -> None:
    pool = pool_of(request(1))
    pool.add(request(2), 400, T_US, None)
    assert pool.next_deadline_us() == T_US
    pool.settle(request(1).message, T_US)
    assert pool.next_deadline_us() == 400 + T_US
    assert pool.overdue(400 + T_US - 1) == []
    assert [p.request.message.number for p in pool.overdue(400 + T_US)] == [2]


def test_one_request_per_client_is_timed() -> None:
    """A client with a thousand requests in flight is one timer."""
    pool = pool_of(*(request(number) for number in range(1, 10)), request(1, 1))
    assert len(pool.overdue(T_US)) == 2


def test_overdue_ones_come_earliest_first() -> None:
    pool = RequestPool(LocalLimits())
    for client, at_us in ((0, 30), (1, 10), (2, 20)):
        pool.add(request(1, client), at_us, T_US, None)
    clients = [p.request.message.client for p in pool.overdue(BIG)]
    assert clients == [forge(4).clients[index].client for index in (1, 2, 0)]


@pytest.mark.parametrize("event", ["enter_view", "rearm"])
def test_entering_a_view_starts_deadlines_afresh(event: str) -> None:
    pool = pool_of(request(1), request(2))
    getattr(pool, event)(700, 2 * T_US)
    assert pool.next_deadline_us() == 700 + 2 * T_US
    pool.settle(request(1).message, 2 * T_US)
    assert pool.next_deadline_us() == 700 + 2 * T_US


def test_a_timed_request_is_relayed_once_at_half_its_time() -> None:
    pool = pool_of(request(1), request(2))
    assert pool.next_relay_us() == T_US // 2
    assert pool.take_relays(T_US // 2 - 1) == []
    assert [p.request.message.number for p in pool.take_relays(T_US // 2)] == [1]
    assert pool.take_relays(BIG) == []
    assert pool.next_relay_us() is None


def test_what_a_client_has_is_repeated_once_per_view_and_as_far_as_bytes_allow() -> None:
    pool = pool_of(request(1), request(2), request(3))
    client = request(1).message.client

    def repeated(bytes_max: int) -> list[int]:
        return [item.request.message.number for item in pool.take_repeats(client, bytes_max)]

    one = len(next(iter(pool.pending())).encoded)
    assert repeated(one - 1) == []
    assert repeated(2 * one) == [1, 2]
    assert repeated(BIG) == [3]
    assert repeated(BIG) == []
    pool.enter_view(700, T_US)
    assert repeated(BIG) == [1, 2, 3]


def test_dead_timers_do_not_pile_up() -> None:
    pool = RequestPool(LocalLimits())
    for number in range(1, 3 * STALE_TIMERS):
        pool.add(request(1, size=number % 2), number, T_US, None)
        pool.settle(request(1).message, T_US)
    pool.add(request(1), 5, T_US, None)
    assert len(pool._deadlines) <= STALE_TIMERS + 4
    assert len(pool._relays) <= STALE_TIMERS + 4
    assert pool.next_deadline_us() == 5 + T_US


# Bounds.


def test_bounds_per_client_leave_room_for_others() -> None:
    pool = pool_of(request(1), request(2), limits=LocalLimits(pending_requests_per_client=2))
    assert pool.add(request(3), 0, T_US, None) is Reason.QUEUE_FULL
    assert pool.add(request(1, 1), 0, T_US, None) is None


@pytest.mark.parametrize(
    "limits", [LocalLimits(pending_requests=128), LocalLimits(pending_bytes=128 * 250)]
)
def test_clients_that_send_without_end_leave_room_for_those_who_come_later(
    limits: LocalLimits,
) -> None:
    """Each may have its equal share of the whole, and all of them not the last eighth; a few would
    fill it otherwise, and so would the shares of many who come one after the other."""
    pool = RequestPool(limits)
    taken = []
    for client in range(12):
        make, before = request_of_many(client), pool.count
        for number in range(1, 129):
            pool.add(make(number), 0, T_US, None)
        taken.append(pool.count - before)
    assert taken[0] >= 32 and taken[1] >= 24 and taken[-1] == 1
    for client in range(12, 17):
        make = request_of_many(client)
        assert pool.add(make(1), 0, T_US, None) is None
        assert pool.add(make(2), 0, T_US, None) is Reason.QUEUE_FULL


def test_one_request_finds_room_though_it_is_more_than_an_equal_share() -> None:
    pool = pool_of(request(1, 0), request(1, 1), limits=LocalLimits(pending_bytes=1200))
    assert pool.add(request(1, 2, size=500), 0, T_US, None) is None
    assert pool.add(request(2, 2, size=1), 0, T_US, None) is Reason.QUEUE_FULL


def test_bytes_per_client_are_bounded() -> None:
    pool = pool_of(request(1, size=500), limits=LocalLimits(pending_bytes_per_client=1000))
    assert pool.add(request(2, size=500), 0, T_US, None) is Reason.QUEUE_FULL
    assert pool.add(request(2, size=1), 0, T_US, None) is None


def test_what_is_settled_makes_room_for_a_client_that_always_has_something_pending() -> None:
    pool = pool_of(request(1, size=500), limits=LocalLimits(pending_bytes_per_client=1500))
    for number in range(2, 10):
        assert pool.add(request(number, size=500), 0, T_US, None) is None
        pool.settle(request(number - 1, size=500).message, T_US)
    assert pool.count == 1


@pytest.mark.parametrize(
    "limits", [LocalLimits(pending_requests=2), LocalLimits(pending_bytes=400)]
)
def test_the_totals_are_bounded_for_everybody(limits: LocalLimits) -> None:
    pool = RequestPool(limits)
    reasons = [pool.add(request(1, client, size=30), 0, T_US, None) for client in (0, 1, 2)]
    assert reasons == [None, None, Reason.QUEUE_FULL]
    assert pool.count == 2


def full_pool(**limits: int) -> RequestPool:
    """The first client holds most of the bytes, the second one most of the requests."""
    pool = RequestPool(LocalLimits())
    for client, count, size in ((0, 15, 900), (1, 25, 1)):
        for number in range(1, count + 1):
            assert pool.add(request(number, client, size), 0, T_US, None) is None
    pool._limits = LocalLimits(**limits)
    return pool


def test_who_has_nothing_pending_displaces_the_newest_request_of_who_holds_most() -> None:
    """Clients that fill a pool and keep it full would lock everybody else out of it."""
    pool = full_pool(pending_requests=40)
    assert pool.add(request(1, 2), 0, T_US, None) is None
    assert pool.count == 40
    assert request(25, 1).message not in pool and request(24, 1).message in pool
    assert pool.add(request(2, 2), DISPLACE_US, T_US, None) is Reason.QUEUE_FULL, "it has something"
    pool = full_pool()
    pool._limits = LocalLimits(pending_bytes=pool.size_bytes)
    assert pool.add(request(1, 2, 1500), 0, T_US, None) is None
    numbers = [n for n in range(1, 16) if request(n, 0, 900).message in pool]
    assert numbers == list(range(1, 14)), "as many as it takes"


def test_work_that_is_too_much_is_displaced_too() -> None:
    pool = full_pool()
    pool._drain.work = 40
    assert pool.add(request(1, 2), 0, T_US, None) is None
    assert request(25, 1).message not in pool


def test_nothing_is_displaced_if_that_does_not_suffice() -> None:
    pool = full_pool()
    pool._limits = LocalLimits(pending_bytes=pool.size_bytes)
    assert pool.add(request(1, 2, 20_000), 0, T_US, None) is Reason.QUEUE_FULL
    assert pool.count == 40


def test_displacing_takes_time_so_it_happens_now_and_then() -> None:
    pool = full_pool(pending_requests=40)
    assert pool.add(request(1, 2), 0, T_US, None) is None
    newcomer = request_of_many(3)(1)
    assert pool.add(newcomer, DISPLACE_US - 1, T_US, None) is Reason.QUEUE_FULL
    assert pool.add(newcomer, DISPLACE_US, T_US, None) is None


def test_what_is_proposed_or_timed_is_not_displaced() -> None:
    limits = LocalLimits(pending_requests=2)
    pool = pool_of(request(1), request(1, 1), limits=limits)
    assert pool.add(request(1, 2), 0, T_US, None) is Reason.QUEUE_FULL
    pool = full_pool(pending_requests=40)
    pool.take(40, BIG, BIG)
    assert pool.add(request(1, 2), 0, T_US, None) is Reason.QUEUE_FULL
    assert pool.count == 40


def test_a_client_does_not_lose_the_request_that_is_timed() -> None:
    pool = pool_of(request(1, 0, 500), request(2, 0, 500))
    pool._limits = LocalLimits(pending_bytes=pool.size_bytes)
    assert pool.add(request(1, 1, 700), 0, T_US, None) is Reason.QUEUE_FULL
    assert pool.add(request(1, 1, 400), DISPLACE_US, T_US, None) is None
    assert request(1, 0, 500).message in pool


def test_a_client_with_one_large_request_shields_nobody() -> None:
    pool = pool_of(request(1, 0, 5_000), request(1, 1), request(2, 1), request(3, 1))
    pool._limits = LocalLimits(pending_bytes=pool.size_bytes)
    assert pool.add(request(1, 2), 0, T_US, None) is None
    assert request(3, 1).message not in pool


def test_a_forwarded_request_has_a_reserved_place_and_is_served_first() -> None:
    """One per peer and client: a client that fills the primary's queue does not lock out the
    request that a backup has a timer for."""
    pool = pool_of(request(1), request(2), limits=LocalLimits(pending_requests_per_client=2))
    assert pool.add(request(3), 0, T_US, 1, only_reserved=True) is None
    assert pool.add(request(4), 0, T_US, 1, only_reserved=True) is Reason.QUEUE_FULL
    assert pool.add(request(4), 0, T_US, 2) is None
    assert taken(pool) == [(0, 4), (0, 3), (0, 1), (0, 2)]
    pool.settle(request(3).message, T_US)
    assert pool.add(request(5), 0, T_US, 1, only_reserved=True) is None


def test_more_that_a_peer_passes_on_has_a_place_behind_the_clients_own() -> None:
    """A backup times all that it holds: the primary, whose place for the client is full, takes half
    as much as it holds beside, from each peer."""
    pool = pool_of(request(1), request(2), limits=LocalLimits(pending_requests_per_client=2))
    pool._drain.work = 12
    numbers = range(3, 8)
    reasons = [pool.add(request(number), 0, T_US, 1) for number in numbers]
    assert reasons == [None] * 3 + [Reason.QUEUE_FULL] * 2, "half of twelve, for two sharers"
    assert taken(pool) == [(0, 3), (0, 1), (0, 2), (0, 4), (0, 5)]
    pool.settle(request(4).message, T_US)
    assert pool.add(request(6), 0, T_US, 1) is None


def test_what_peers_pass_on_has_a_place_though_all_else_is_full() -> None:
    pool = full_pool(pending_requests=40)
    for number in (26, 27):
        assert pool.add(request(number), 0, T_US, 1) is None
    assert pool.count == 42


def test_the_bytes_reserved_for_a_peer_are_bounded() -> None:
    size = len(pool_of(request(1, size=100)).pending()[0].encoded)
    limits = LocalLimits(pending_requests_per_client=1, reserved_bytes_per_peer=2 * size)
    pool = pool_of(*(request(1, client) for client in range(3)), limits=limits)
    reasons = [pool.add(request(2, client, 100), 0, T_US, 1) for client in range(3)]
    assert reasons == [None, None, Reason.QUEUE_FULL]
    assert pool.add(request(2, 2, 100), 0, T_US, 2) is None, "another peer"
    pool.settle(request(2, 0, 100).message, T_US)
    assert pool.add(request(3, 2, 100), 0, T_US, 1) is None


def test_the_work_reserved_for_a_peer_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever clients it has on its side."""
    monkeypatch.setattr(requests, "WORK_AT_FIRST", 2)
    pool = full_pool(pending_requests=40)
    reasons = [pool.add(request_of_many(c)(1), 0, T_US, 1) for c in (3, 4, 5, 6)]
    assert reasons == [None, None, None, Reason.QUEUE_FULL], "the first displaced another"


def test_no_more_waits_than_is_drained_in_time() -> None:
    """Operations, not requests: one may have a thousand."""
    pool = pool_of(request(1))
    pool._drain.work = 16
    assert pool.add(request(2), 0, T_US, None) is None
    for number in range(3, 12):
        pool.add(request(number), 0, T_US, None)
    assert pool.count == 8, "half of it for the only client"
    for number in range(1, 12):
        pool.add(request(number, 1), 0, T_US, None)
        pool.add(request(number, 2), 0, T_US, None)
    assert pool.count == 14, "seven eighths for those that have something"
    assert pool.add(request_of_many(3)(1), 0, T_US, None) is None


def test_everything_pending_is_listed_for_a_new_primary() -> None:
    pool = pool_of(request(1), request(1, 1), request(2))
    pool.take(1, BIG, BIG)
    numbers = [pending.request.message.number for pending in pool.pending()]
    assert numbers == [1, 2, 1]
