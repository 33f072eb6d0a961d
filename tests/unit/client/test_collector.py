"""Which answers a client believes (adversary.md Y1 to Y5; protocol.md sections 4 and 11)."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pbft.crypto.digest import results_digest
from pbft.messages import Outcome, Reply
from pbft_client.collector import (
    Decision,
    Ignored,
    ReadCollector,
    ReadDecision,
    ReplyCollector,
    ViewHints,
)
from tests.unit.client.world import (
    World,
    digest_only,
    forgotten,
    read_reply,
    real_world,
    reply,
)

DIGEST = b"d" * 32
GOOD = reply(DIGEST)
WRONG = reply(DIGEST, (b"a lie",))


def collector_of(world: World, operations: int = 1) -> ReplyCollector:
    return ReplyCollector(world.genesis.thresholds, 7, 1, DIGEST, operations)


@pytest.mark.parametrize("make", [World, real_world])
def test_f_plus_1_matching_replies_of_distinct_replicas_decide(make: type[World]) -> None:
    world = make()
    collector = collector_of(world)
    assert collector.add(digest_only(GOOD), world.replies(2, [digest_only(GOOD)])) is None
    decision = collector.add(GOOD, world.replies(1, [GOOD]))
    assert decision == Decision(Outcome.EXECUTED, 5, 99, (b"result",), 0, (2, 1))


@pytest.mark.parametrize("replicas", [4, 5, 6, 7, 10])
def test_y1_f_agreeing_wrong_results_that_come_first_are_not_believed(replicas: int) -> None:
    world = World(replicas)
    faulty = world.genesis.thresholds.faulty
    collector = collector_of(world)
    for liar in range(faulty):
        assert collector.add(WRONG, world.replies(liar, [WRONG])) is None
    verdicts = [
        collector.add(GOOD, world.replies(honest, [GOOD]))
        for honest in range(faulty, 2 * faulty + 1)
    ]
    assert all(verdict is None for verdict in verdicts[:-1])
    assert isinstance(verdicts[-1], Decision)
    assert verdicts[-1].results == (b"result",)
    assert verdicts[-1].voters == tuple(range(faulty, 2 * faulty + 1))


def test_y2_one_replica_counts_once_however_often_it_answers() -> None:
    world = World()
    collector = collector_of(world)
    assert collector.add(GOOD, world.replies(3, [GOOD])) is None
    for _ in range(5):
        assert collector.add(GOOD, world.replies(3, [GOOD])) is Ignored.DUPLICATE
    assert collector.answered == (3,)
    assert collector.matching == 1


def test_y2_an_answer_signed_with_another_key_does_not_count() -> None:
    world = World()
    collector = collector_of(world)
    assert collector.add(WRONG, world.replies(0, [WRONG])) is None
    assert collector.add(WRONG, world.forged(1, [WRONG])) is Ignored.BAD_SIGNATURE
    assert world.opener.forgers == {1}
    assert collector.answered == (0,)
    assert isinstance(collector.add(WRONG, world.replies(1, [WRONG])), Decision)


def test_y2_a_forgery_that_came_first_is_found_out_when_it_would_count() -> None:
    world = World()
    collector = collector_of(world)
    assert collector.add(WRONG, world.forged(1, [WRONG])) is None
    assert world.opener.signature_checks == 0
    assert collector.add(WRONG, world.replies(0, [WRONG])) is None
    assert world.opener.forgers == {1}
    assert collector.answered == (0,)


def test_y2_a_twin_that_gives_two_answers_counts_once_for_each() -> None:
    world = World()
    collector = collector_of(world)
    assert collector.add(WRONG, world.replies(0, [WRONG])) is None
    assert collector.add(GOOD, world.replies(0, [GOOD])) is None
    assert collector.matching == 1
    decision = collector.add(GOOD, world.replies(2, [GOOD]))
    assert isinstance(decision, Decision)
    assert decision.results == (b"result",)


def test_answers_kept_of_one_replica_are_bounded() -> None:
    world = World()
    collector = collector_of(world)
    for lie in range(50):
        wrong = reply(DIGEST, (b"lie %d" % lie,))
        assert collector.add(wrong, world.replies(0, [wrong])) is None
    assert len(collector._claims) == 2
    assert len(collector._meanings) == 2
    oldest = reply(DIGEST, (b"lie 0",))
    assert collector.add(oldest, world.replies(1, [oldest])) is None


def test_forgotten_claims_leave_nothing_behind() -> None:
    world = World()
    collector = collector_of(world)
    for lie in range(5):
        wrong = forgotten(reply(DIGEST, (b"lie %d" % lie,)))
        assert collector.add(wrong, world.replies(0, [wrong])) is None
    assert len(collector._forgotten) == 2


@pytest.mark.parametrize(
    "other",
    [
        replace(GOOD, request_digest=b"e" * 32),
        replace(GOOD, number=2),
        replace(GOOD, session=8),
    ],
)
def test_y3_a_reply_to_another_request_is_ignored(other: Reply) -> None:
    world = World()
    collector = collector_of(world)
    assert collector.add(GOOD, world.replies(0, [GOOD])) is None
    assert collector.add(other, world.replies(1, [other])) is Ignored.OTHER_REQUEST
    assert collector.answered == (0,)


@pytest.mark.parametrize(
    "other",
    [
        reply(DIGEST, sequence=6),
        reply(DIGEST, time_us=100),
        reply(DIGEST, (b"other",)),
        reply(DIGEST, (), outcome=Outcome.EXPIRED),
        reply(DIGEST, (), outcome=Outcome.SESSION_EXPIRED, highest_session=9),
    ],
)
def test_everything_but_the_view_must_match(other: Reply) -> None:
    world = World()
    collector = collector_of(world)
    assert collector.add(GOOD, world.replies(0, [GOOD], view=1)) is None
    assert collector.add(other, world.replies(1, [other], view=1)) is None
    assert isinstance(collector.add(GOOD, world.replies(2, [GOOD], view=8)), Decision)


@pytest.mark.parametrize(
    "wrong",
    [
        replace(GOOD, results=(b"another body",)),
        replace(GOOD, results=(b"result", b"one more")),
        replace(GOOD, results=()),
        replace(GOOD, outcome=Outcome.EXPIRED),
        replace(GOOD, outcome=Outcome.EXPIRED, results=None),
        replace(GOOD, highest_session=4),
        replace(GOOD, outcome=Outcome.RESULT_FORGOTTEN),
        reply(DIGEST, (b"result", b"one more")),
        reply(DIGEST, ()),
        reply(DIGEST, (b"result",), outcome=Outcome.EXPIRED),
    ],
)
def test_y4_results_that_do_not_hash_to_the_digest_or_are_not_as_many_do_not_count(
    wrong: Reply,
) -> None:
    world = World()
    collector = collector_of(world)
    assert collector.add(wrong, world.replies(0, [wrong])) is Ignored.WRONG_RESULTS
    assert collector.answered == ()


def test_y4_a_wrong_body_never_replaces_the_right_one() -> None:
    world = World()
    collector = collector_of(world)
    wrong_body = replace(GOOD, results=(b"another body",))
    assert collector.add(GOOD, world.replies(0, [GOOD])) is None
    decision = collector.add(wrong_body, world.replies(1, [wrong_body]))
    assert isinstance(decision, Decision)
    assert decision.results == (b"result",)


def test_digests_alone_do_not_decide_and_ask_for_the_results() -> None:
    world = World()
    collector = collector_of(world)
    bare = digest_only(GOOD)
    assert collector.add(bare, world.replies(0, [bare])) is None
    assert not collector.lacks_results
    assert collector.add(bare, world.replies(1, [bare])) is None
    assert collector.lacks_results
    assert isinstance(collector.add(GOOD, world.replies(1, [GOOD])), Decision)


def test_the_results_of_a_liar_count_if_they_hash_to_the_digest_of_others() -> None:
    world = World()
    collector = collector_of(world)
    elsewhere = replace(GOOD, sequence=77)
    assert collector.add(elsewhere, world.replies(3, [elsewhere])) is None
    bare = digest_only(GOOD)
    assert collector.add(bare, world.replies(0, [bare])) is None
    decision = collector.add(bare, world.replies(1, [bare]))
    assert isinstance(decision, Decision)
    assert (decision.sequence, decision.results) == (5, (b"result",))


def test_a_liar_cannot_take_away_the_results_that_another_sent() -> None:
    world = World()
    collector = collector_of(world)
    assert collector.add(GOOD, world.replies(0, [GOOD])) is None
    for sequence in range(77, 82):
        elsewhere = replace(GOOD, sequence=sequence)
        assert collector.add(elsewhere, world.replies(3, [elsewhere])) is None
    bare = digest_only(GOOD)
    assert isinstance(collector.add(bare, world.replies(1, [bare])), Decision)


def test_a_forgotten_result_counts_for_the_result_it_was() -> None:
    world = World()
    collector = collector_of(world)
    assert collector.add(forgotten(GOOD), world.replies(0, [forgotten(GOOD)])) is None
    decision = collector.add(GOOD, world.replies(1, [GOOD]))
    assert isinstance(decision, Decision)
    assert (decision.outcome, decision.results) == (Outcome.EXECUTED, (b"result",))


def test_f_plus_1_that_have_forgotten_decide_that_it_is_forgotten() -> None:
    world = World()
    collector = collector_of(world)
    bare, gone = digest_only(GOOD), forgotten(GOOD)
    assert collector.add(bare, world.replies(3, [bare])) is None
    assert collector.add(gone, world.replies(0, [gone])) is None
    assert collector.lacks_results
    decision = collector.add(gone, world.replies(1, [gone]))
    assert isinstance(decision, Decision)
    assert decision.outcome is Outcome.RESULT_FORGOTTEN
    assert decision.voters == (0, 1)


def test_f_liars_cannot_make_a_result_forgotten() -> None:
    world = World()
    collector = collector_of(world)
    bare, gone = digest_only(GOOD), forgotten(GOOD)
    assert collector.add(gone, world.replies(0, [gone])) is None
    assert collector.add(gone, world.forged(1, [gone])) is Ignored.BAD_SIGNATURE
    assert collector.add(bare, world.replies(2, [bare])) is None
    assert collector.add(bare, world.replies(3, [bare])) is None
    assert isinstance(collector.add(GOOD, world.replies(3, [GOOD])), Decision)


def test_a_forged_oblivion_is_found_out_beside_honest_digests() -> None:
    world = World()
    collector = collector_of(world)
    bare, gone = digest_only(GOOD), forgotten(GOOD)
    assert collector.add(bare, world.replies(2, [bare])) is None
    assert collector.add(bare, world.replies(3, [bare])) is None
    assert collector.add(gone, world.replies(0, [gone])) is None
    # The first f + 1 voters are authentic, so only asking those who forgot unmasks this one.
    assert collector.add(gone, world.forged(1, [gone])) is Ignored.BAD_SIGNATURE


@pytest.mark.parametrize(
    "outcome", [Outcome.SESSION_EXPIRED, Outcome.EXPIRED, Outcome.CONFLICT, Outcome.CLIENT_REFUSED]
)
@pytest.mark.parametrize("full", [True, False])
def test_a_request_that_was_not_executed_needs_no_results(outcome: Outcome, full: bool) -> None:
    world = World()
    collector = collector_of(world)
    refused = reply(DIGEST, (), outcome=outcome, highest_session=12)
    if not full:
        refused = digest_only(refused)
    assert collector.add(refused, world.replies(0, [refused])) is None
    decision = collector.add(refused, world.replies(1, [refused]))
    assert isinstance(decision, Decision)
    assert (decision.outcome, decision.highest_session) == (outcome, 12)
    assert decision.results == ()


def test_signatures_are_checked_only_when_they_count_and_once_per_envelope() -> None:
    world = World()
    requests = [bytes((number,)) * 32 for number in range(1, 51)]
    replies = [reply(digest, number=number) for number, digest in enumerate(requests, 1)]
    collectors = [
        ReplyCollector(world.genesis.thresholds, 7, number, digest, 1)
        for number, digest in enumerate(requests, 1)
    ]
    decided = 0
    for replica in range(4):
        envelope = world.replies(replica, replies)
        for collector, answer in zip(collectors, replies, strict=True):
            if collector.matching < 2:
                decided += isinstance(collector.add(answer, envelope), Decision)
    assert decided == 50
    assert world.opener.signature_checks == 2


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_f_liars_never_decide_anything(data: st.DataObject) -> None:
    """Whatever f replicas send, in whatever order: only what an honest replica said is believed."""
    replicas = data.draw(st.sampled_from([4, 5, 7]))
    world = World(replicas)
    faulty = world.genesis.thresholds.faulty
    liars = data.draw(st.permutations(range(replicas)))[:faulty]
    lies = [WRONG, reply(DIGEST, sequence=6), forgotten(GOOD), digest_only(WRONG), GOOD]
    collector = collector_of(world)
    for _ in range(data.draw(st.integers(1, 12))):
        replica = data.draw(st.sampled_from(range(replicas)))
        honest = [GOOD, digest_only(GOOD)]
        answer = data.draw(st.sampled_from(lies if replica in liars else honest))
        sign = world.replies
        if replica in liars and data.draw(st.booleans()):
            sign = world.forged
        verdict = collector.add(answer, sign(replica, [answer]))
        if isinstance(verdict, Decision):
            assert (verdict.sequence, verdict.results) == (5, (b"result",))
            assert set(verdict.voters) - set(liars)
            assert len(set(verdict.voters)) >= faulty + 1
            return


# Reads.

QUERIES = (b"query",)
NONCE = 41
STATE = read_reply(NONCE, QUERIES, (b"state",))
OLD = read_reply(NONCE, QUERIES, (b"old",))


def read_collector(world: World, needed: int | None = None) -> ReadCollector:
    thresholds = world.genesis.thresholds
    return ReadCollector(
        needed or thresholds.quorum, range(thresholds.replicas), NONCE, STATE.query_digest, 1
    )


@pytest.mark.parametrize("replicas", [4, 5, 6, 7])
def test_a_linearizable_read_needs_q_matching_answers(replicas: int) -> None:
    world = World(replicas)
    quorum = world.genesis.thresholds.quorum
    collector = read_collector(world)
    for replica in range(quorum - 1):
        assert collector.add(STATE, world.reads(replica, [STATE])) is None
    decision = collector.add(STATE, world.reads(quorum - 1, [STATE]))
    assert decision == ReadDecision((b"state",), tuple(range(quorum)))
    assert world.opener.signature_checks == quorum


def test_a_stale_read_needs_f_plus_1() -> None:
    world = World()
    collector = read_collector(world, world.genesis.thresholds.weak)
    assert collector.add(OLD, world.reads(0, [OLD])) is None
    assert collector.add(STATE, world.reads(1, [STATE])) is None
    assert isinstance(collector.add(OLD, world.reads(2, [OLD])), ReadDecision)


def test_a_replica_answers_a_read_once() -> None:
    world = World()
    collector = read_collector(world)
    assert collector.add(STATE, world.reads(0, [STATE])) is None
    assert collector.add(STATE, world.reads(0, [STATE])) is Ignored.DUPLICATE
    assert collector.matching == 1


def test_an_answer_to_another_read_is_ignored() -> None:
    world = World()
    collector = read_collector(world)
    for other in (
        replace(STATE, nonce=NONCE - 1),
        replace(STATE, query_digest=b"q" * 32),
    ):
        assert collector.add(other, world.reads(0, [other])) is Ignored.OTHER_REQUEST
    assert collector.answered == []


def test_a_forged_read_answer_does_not_count() -> None:
    world = World()
    collector = read_collector(world, 2)
    forged = world.reads(1, [STATE])
    forged.signed = replace(forged.signed, signature=bytes(64))
    assert collector.add(STATE, forged) is None
    assert collector.add(STATE, world.reads(0, [STATE])) is None
    assert world.opener.forgers == {1}
    late = world.reads(2, [STATE])
    late.signed = replace(late.signed, signature=bytes(64))
    assert collector.add(STATE, late) is Ignored.BAD_SIGNATURE
    assert isinstance(collector.add(STATE, world.reads(3, [STATE])), ReadDecision)


@pytest.mark.parametrize("results", [(b"another body",), (), (b"state", b"one more")])
def test_read_results_must_hash_to_their_digest_and_be_one_per_query(
    results: tuple[bytes, ...],
) -> None:
    world = World()
    collector = read_collector(world)
    wrong = replace(STATE, results=results)
    assert collector.add(wrong, world.reads(0, [wrong])) is Ignored.WRONG_RESULTS
    assert collector.matching == 0
    as_many = replace(wrong, results_digest=results_digest(Outcome.EXECUTED, 0, results))
    is_one = len(results) == 1
    verdict = collector.add(as_many, world.reads(1, [as_many]))
    assert verdict is (None if is_one else Ignored.WRONG_RESULTS)


def test_a_read_is_hopeless_when_too_few_can_still_match() -> None:
    world = World()
    collector = read_collector(world)
    assert collector.add(STATE, world.reads(0, [STATE])) is None
    assert collector.add(OLD, world.reads(1, [OLD])) is None
    assert not collector.is_hopeless
    collector.excuse(3)
    assert collector.is_hopeless


def test_a_read_is_hopeless_when_nobody_sent_the_results() -> None:
    world = World()
    collector = read_collector(world)
    bare = replace(STATE, results=None)
    for replica in range(4):
        assert not collector.is_hopeless
        assert collector.add(bare, world.reads(replica, [bare])) is None
    assert collector.is_hopeless


def test_a_refused_read_is_no_vote() -> None:
    world = World()
    collector = read_collector(world)
    refused = replace(STATE, results=None, results_digest=b"", refused=True)
    for replica in range(2):
        assert collector.add(refused, world.reads(replica, [refused])) is Ignored.REFUSED
    assert collector.is_hopeless


# Views.


def test_y5_a_view_is_believed_only_when_f_plus_1_tell_it() -> None:
    world = World()
    hints = ViewHints(world.genesis.thresholds)
    assert hints.primary is None
    assert not hints.add(world.replies(0, [], view=2**63))
    assert not hints.add(world.replies(0, [], view=2**63))
    assert not hints.add(world.replies(1, [], view=6))
    assert hints.view is None
    assert world.opener.signature_checks == 0
    assert hints.add(world.replies(2, [], view=6))
    assert hints.primary == 2


def test_a_view_hint_needs_a_right_signature() -> None:
    world = World()
    hints = ViewHints(world.genesis.thresholds)
    assert not hints.add(world.forged(0, [], view=3))
    assert not hints.add(world.replies(1, [], view=3))
    assert hints.view is None
    assert hints.add(world.replies(2, [], view=3))


def test_a_view_never_goes_back_and_a_known_one_costs_no_check() -> None:
    world = World()
    hints = ViewHints(world.genesis.thresholds)
    for replica in (0, 1):
        hints.add(world.replies(replica, [], view=5))
    checks = world.opener.signature_checks
    for replica in range(4):
        assert not hints.add(world.replies(replica, [], view=4))
        assert not hints.add(world.replies(replica, [], view=5))
    assert hints.view == 5
    assert world.opener.signature_checks == checks
    assert not hints.add(world.replies(3, [], view=9))
    assert hints.add(world.replies(0, [], view=9))
    assert hints.view == 9
