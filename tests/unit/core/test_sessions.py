"""The session table: every rule of protocol.md section 4, decided at execution."""

import gc
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pbft.core.sessions import (
    CLIENTS_CACHED,
    SESSIONS_SWEPT,
    SessionTable,
    decode_reply,
    encode_reply,
)
from pbft.crypto.digest import results_digest
from pbft.limits import ProtocolLimits
from pbft.messages import Authenticated, Kind, Outcome, Reply, Request, Signed
from tests.harness.records import DictRecords

ME, OTHER, REPLICA = b"m" * 32, b"o" * 32, b"r" * 32
LIMITS = ProtocolLimits(sessions_per_client=3, session_numbers_kept=4, cached_result_bytes=10)


@dataclass
class World:
    """A table and what was executed with it."""

    limits: ProtocolLimits = LIMITS
    open_admission: bool = False
    records: DictRecords = field(default_factory=DictRecords)
    executed: list[tuple[int, int]] = field(default_factory=list)
    sequence: int = 0

    def __post_init__(self) -> None:
        self.table = SessionTable(self.records, self.limits, self.open_admission, [REPLICA])

    def ask(
        self,
        session: int,
        number: int,
        *,
        client: bytes = ME,
        acknowledged: int = 0,
        operation: bytes = b"x",
        result: bytes = b"r",
        expires_at_us: int = 0,
        time_us: int = 100,
        close: bool = False,
    ) -> Reply | None:
        """Executes a request as the core does and returns the reply that is due."""
        message = Request(client, session, number, acknowledged, expires_at_us, (operation,), close)
        signed = Signed(Kind.REQUEST, client, b"", bytes(64))
        digest = (operation + b"%d" % number).ljust(32, b"d")
        request = Authenticated(message, signed, digest)
        self.sequence += 1
        execute, reply = self.table.admit(request, self.sequence, time_us)
        if not execute:
            return reply
        if close:
            self.table.close(message)
            outcome, results = Outcome.SESSION_CLOSED, ()
        else:
            self.executed.append((session, number))
            outcome, results = Outcome.EXECUTED, (result,)  # type: ignore[assignment]
        hashed = results_digest(outcome, 0, results)
        made = Reply(session, number, digest, self.sequence, time_us, outcome, hashed, results)
        return made if close else self.table.record(message, made)

    def outcome(self, session: int, number: int, **changes: object) -> Outcome | None:
        """Only how it ended."""
        reply = self.ask(session, number, **changes)  # type: ignore[arg-type]
        return None if reply is None else reply.outcome


def request(session: int, number: int, client: bytes = ME) -> Request:
    """For asking about it."""
    return Request(client, session, number, number - 1, 0, (b"x",))


def test_a_new_request_is_executed_and_a_repeated_one_answered_from_the_cache() -> None:
    world = World()
    first = world.ask(5, 1)
    assert first is not None and first.outcome is Outcome.EXECUTED
    assert world.ask(5, 1) == first
    assert world.executed == [(5, 1)]
    assert world.table.cached_reply(request(5, 1)) == first
    assert world.table.is_settled(request(5, 1))


def test_a_cached_reply_keeps_its_sequence_and_time() -> None:
    world = World()
    first = world.ask(5, 1, time_us=100)
    world.ask(5, 2, time_us=200)
    again = world.ask(5, 1, time_us=300)
    assert again == first
    assert again is not None and (again.sequence, again.agreed_time_us) == (1, 100)


def test_numbers_may_come_in_any_order() -> None:
    world = World()
    for number in (3, 1, 2, 3, 1):
        assert world.outcome(5, number) is Outcome.EXECUTED
    assert world.executed == [(5, 3), (5, 1), (5, 2)]


def test_another_request_with_a_number_that_was_executed_is_a_conflict() -> None:
    """A client that signs two requests for one number gets one executed; the other's outcome is
    not cached, so the first stays."""
    world = World()
    first = world.ask(5, 1, operation=b"a")
    assert world.outcome(5, 1, operation=b"b") is Outcome.CONFLICT
    assert world.ask(5, 1, operation=b"a") == first


def test_acknowledged_settles_everything_at_or_below_it() -> None:
    world = World()
    world.ask(5, 1)
    world.ask(5, 2)
    world.ask(5, 4, acknowledged=2)
    assert world.table.cached_reply(request(5, 1)) is None
    assert world.table.is_settled(request(5, 2))
    assert not world.table.is_settled(request(5, 3))
    assert world.ask(5, 2) is None
    assert world.executed == [(5, 1), (5, 2), (5, 4)]
    assert len(world.records.items()) == 2, "the client and one executed number"


def test_acknowledged_never_goes_back() -> None:
    world = World()
    world.ask(5, 4, acknowledged=3)
    assert world.ask(5, 2, acknowledged=0) is None
    assert world.executed == [(5, 4)]


def test_a_request_acknowledged_past_before_it_came_is_never_executed() -> None:
    """The client gave it up and reported its outcome as unknown."""
    world = World()
    world.ask(5, 2, acknowledged=1)
    assert world.ask(5, 1) is None
    assert world.executed == [(5, 2)]


def test_an_expired_request_is_not_executed_now_or_ever() -> None:
    world = World()
    first = world.ask(5, 1, expires_at_us=99, time_us=100)
    assert first is not None and first.outcome is Outcome.EXPIRED
    assert world.ask(5, 1, expires_at_us=99, time_us=50) == first
    assert world.executed == []
    assert world.outcome(5, 2, expires_at_us=100, time_us=100) is Outcome.EXECUTED


def test_sessions_beyond_the_limit_close_the_lowest() -> None:
    world = World()
    for session in (10, 20, 30, 40):
        assert world.outcome(session, 1) is Outcome.EXECUTED
    reply = world.ask(10, 2)
    assert reply is not None
    assert (reply.outcome, reply.highest_session) == (Outcome.SESSION_EXPIRED, 40)
    assert world.outcome(20, 2) is Outcome.EXECUTED
    assert world.table.is_expired(request(10, 3))
    assert not world.table.is_expired(request(20, 3))


def test_a_session_that_would_be_the_lowest_beyond_the_limit_is_expired_at_once() -> None:
    world = World()
    for session in (20, 30, 40):
        world.ask(session, 1)
    reply = world.ask(10, 1)
    assert reply is not None
    assert (reply.outcome, reply.highest_session) == (Outcome.SESSION_EXPIRED, 40)
    assert [session for session, _ in world.executed] == [20, 30, 40]
    assert world.outcome(20, 2) is Outcome.EXECUTED


def test_one_client_does_not_push_out_anothers_session() -> None:
    world = World()
    world.ask(10, 1, client=OTHER)
    for session in range(20, 40):
        world.ask(session, 1)
    assert world.outcome(10, 2, client=OTHER) is Outcome.EXECUTED


def test_a_closed_session_stays_closed_and_counts_no_more() -> None:
    """Short-lived commands do not close a long-lived application's session."""
    world = World()
    world.ask(1, 1)
    for session in (10, 11, 12, 13):
        world.ask(session, 1)
        assert world.outcome(session, 2, close=True) is Outcome.SESSION_CLOSED
    assert world.outcome(1, 2) is Outcome.EXECUTED
    for session in (10, 13):
        assert world.outcome(session, 3) is Outcome.SESSION_EXPIRED
        assert world.outcome(session, 2, close=True) is Outcome.SESSION_EXPIRED
    assert world.table.is_expired(request(12, 3))


def test_closing_drops_what_the_session_had_cached() -> None:
    world = World()
    world.ask(1, 1)
    world.ask(1, 2)
    before = len(world.records.items())
    world.ask(1, 3, close=True)
    assert len(world.records.items()) == before - 2 + 1


def test_closed_sessions_beyond_the_limit_raise_the_floor() -> None:
    """At most so many closed numbers are remembered above the floor."""
    world = World()
    for session in range(10, 15):
        world.ask(session, 1, close=True)
    assert world.outcome(9, 1) is Outcome.SESSION_EXPIRED
    for session in range(10, 15):
        assert world.outcome(session, 2) is Outcome.SESSION_EXPIRED
    closed = [key for key, _, _ in world.records.items() if len(key) == len(ME) + 8]
    assert len(closed) == LIMITS.session_numbers_kept
    assert world.outcome(15, 1) is Outcome.EXECUTED


def test_raising_the_floor_forgets_the_closed_sessions_below_it() -> None:
    world = World()
    world.ask(10, 1, close=True)
    for session in (20, 30, 40, 50):
        world.ask(session, 1)
    closed = [key for key, _, _ in world.records.items() if len(key) == len(ME) + 8]
    assert closed == []
    assert world.outcome(10, 1) is Outcome.SESSION_EXPIRED


def test_raising_the_floor_over_many_closed_sessions_is_bounded_work_per_request() -> None:
    """What the floor passed is swept by and by, and stays closed meanwhile."""
    kept = 6 * SESSIONS_SWEPT
    world = World(replace(LIMITS, session_numbers_kept=kept))
    for session in range(1, kept + 1):
        world.ask(session, 1, close=True)

    def closed() -> int:
        return sum(len(key) == len(ME) + 8 for key, _, _ in world.records.items())

    before = closed()
    assert before == kept
    for session in range(kept + 1, kept + 20):
        world.ask(session, 1)
        now = closed()
        assert before - now <= SESSIONS_SWEPT
        assert world.outcome(session - LIMITS.sessions_per_client, 2) is Outcome.SESSION_EXPIRED
        before = now
    assert closed() == 0
    for session in range(1, kept + 1, 50):
        assert world.outcome(session, 1) is Outcome.SESSION_EXPIRED


def test_the_floor_never_falls_to_a_closed_session_that_is_not_swept_yet() -> None:
    kept = 6 * SESSIONS_SWEPT
    world = World(replace(LIMITS, session_numbers_kept=kept))
    for session in range(1, kept + 1):
        world.ask(session, 1, close=True)
    for session in range(1000, 1004):
        world.ask(session, 1)
    floor = world.table._client(ME).floor
    assert floor == 1000
    for session in range(2000, 2000 + 2 * kept):
        world.ask(session, 1, close=True)
        assert world.table._client(ME).floor >= floor
        assert world.table._client(ME).closed <= kept
    assert world.outcome(1000, 2) is Outcome.SESSION_EXPIRED


def test_results_beyond_the_bound_are_forgotten_but_not_the_request() -> None:
    """Beyond the bytes per client the digest is kept, and counts as a match for it."""
    world = World()
    first = world.ask(5, 1, result=b"12345678")
    second = world.ask(5, 2, result=b"12345678")
    assert second is not None and second.results == (b"12345678",)
    assert world.ask(5, 1) == first
    again = world.ask(5, 2)
    assert again is not None
    assert (again.outcome, again.results) == (Outcome.RESULT_FORGOTTEN, None)
    assert again.results_digest == second.results_digest
    assert world.executed == [(5, 1), (5, 2)]


def test_acknowledging_makes_room_for_results() -> None:
    world = World()
    world.ask(5, 1, result=b"12345678")
    world.ask(5, 2, result=b"12345678", acknowledged=1)
    again = world.ask(5, 2, acknowledged=1)
    assert again is not None and again.results == (b"12345678",)


def test_a_result_that_is_forgotten_takes_no_room() -> None:
    """Or the client would never have one kept again."""
    world = World()
    world.ask(5, 1, result=b"x" * 11)
    world.ask(5, 2, result=b"12345678", acknowledged=1)
    again = world.ask(5, 2, acknowledged=1)
    assert again is not None and again.results == (b"12345678",)


def test_an_open_cluster_refuses_clients_beyond_its_maximum_and_never_evicts() -> None:
    world = World(replace(LIMITS, clients=1), open_admission=True)
    assert world.outcome(1, 1) is Outcome.EXECUTED
    assert world.outcome(1, 1, client=OTHER) is Outcome.CLIENT_REFUSED
    assert world.outcome(9, 7, client=OTHER) is Outcome.CLIENT_REFUSED
    assert world.outcome(2, 1) is Outcome.EXECUTED
    assert world.table.cached_reply(request(1, 1, OTHER)) is None
    assert all(not key.startswith(OTHER) for key, _, _ in world.records.items())


def test_a_full_table_bars_no_replica_from_rejoining() -> None:
    """Nor does a replica take a client's place."""
    world = World(replace(LIMITS, clients=1), open_admission=True)
    assert world.outcome(1, 1, client=REPLICA) is Outcome.EXECUTED
    assert world.outcome(1, 1) is Outcome.EXECUTED
    assert world.outcome(1, 1, client=OTHER) is Outcome.CLIENT_REFUSED
    full = World(replace(LIMITS, clients=1), open_admission=True)
    full.ask(1, 1)
    assert full.outcome(7, 1, client=REPLICA) is Outcome.EXECUTED


def test_asking_about_an_unknown_client_leaves_no_trace() -> None:
    world = World()
    assert world.table.cached_reply(request(1, 1)) is None
    assert not world.table.is_settled(request(1, 1))
    assert not world.table.is_expired(request(1, 1))
    assert world.records.items() == []


@pytest.mark.parametrize("outcome", list(Outcome))
@pytest.mark.parametrize("results", [None, (), (b"",), (b"a", b"b" * 300)])
def test_replies_survive_the_record(outcome: Outcome, results: tuple[bytes, ...] | None) -> None:
    reply = Reply(3, 2**64 - 1, b"d" * 32, 7, 2**63, outcome, b"r" * 32, results, 2**64 - 1)
    assert decode_reply(3, 2**64 - 1, encode_reply(reply)) == reply


def test_the_cache_of_clients_is_bounded_and_the_records_are_the_truth() -> None:
    world = World()
    first = world.ask(1, 1)
    for index in range(CLIENTS_CACHED):
        world.ask(1, 1, client=index.to_bytes(32, "big"))
    assert len(world.table._clients) <= CLIENTS_CACHED
    assert ME not in world.table._clients
    assert world.ask(1, 1) == first


STEPS = st.lists(
    st.tuples(
        st.integers(1, 6),
        st.integers(1, 5),
        st.integers(0, 4),
        st.sampled_from([b"a", b"b"]),
        st.sampled_from([b"", b"123456"]),
        st.booleans(),
        st.booleans(),
    ),
    max_size=30,
)


@given(STEPS)
@settings(max_examples=150, deadline=None)
def test_a_table_loaded_from_the_records_decides_the_same(
    steps: list[tuple[int, int, int, bytes, bytes, bool, bool]],
) -> None:
    """One table lives on, one is reloaded before every request: same replies, same records. And
    nothing is executed twice."""
    living, reloaded = World(), World()
    for session, number, acknowledged, operation, result, close, expired in steps:
        replies = []
        for world in (living, reloaded):
            reloaded.table.reload()
            replies.append(
                world.ask(
                    session,
                    number,
                    acknowledged=min(acknowledged, number - 1),
                    operation=operation,
                    result=result,
                    close=close,
                    expires_at_us=1 if expired else 0,
                )
            )
        assert replies[0] == replies[1]
        assert living.records.items() == reloaded.records.items()
    assert len(set(living.executed)) == len(living.executed)


def test_who_acknowledges_nothing_takes_hardly_any_memory_beside_the_records() -> None:
    """All that a client may leave open, in as many sessions as it may have: the records are on
    disk, and what is kept of them as objects is a bit each."""
    world = World()
    numbers = world.limits.requests_in_flight
    kept = gc_count(Reply)
    for session in range(1, world.limits.sessions_per_client + 1):
        for number in range(1, numbers + 1):
            world.ask(session, number)
    assert gc_count(Reply) == kept
    assert world.outcome(1, numbers) is Outcome.RESULT_FORGOTTEN
    assert len(world.executed) == numbers * world.limits.sessions_per_client


def gc_count(kind: type) -> int:
    return sum(isinstance(it, kind) for it in gc.get_objects())
