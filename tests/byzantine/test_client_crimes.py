"""C1 to C12: crimes of clients (adversary.md 2.1) as far as the core and its verifier see them."""

from dataclasses import replace

import pytest

from pbft.core.effects import EventName, Send
from pbft.errors import Reason, Rejected
from pbft.limits import LocalLimits
from pbft.messages import Outcome, Request, Signed, ViewChange
from tests.harness.core_cluster import SECOND, Cluster
from tests.harness.core_forge import Forge
from tests.harness.core_solo import Solo

T_US = 2 * SECOND


def refused(solo: Solo, request: Signed) -> Reason:
    """Why the verifier does not let it in."""
    with pytest.raises(Rejected) as refusal:
        solo.node.submit(request)
    return refusal.value.reason


def forged(solo: Solo) -> Signed:
    """A request with a signature that is none."""
    return replace(solo.forge.request(1), signature=bytes(64))


def test_c1_a_bad_signature_starts_no_timer() -> None:
    """Neither sent by the client nor forwarded by a peer."""
    solo = Solo()
    assert refused(solo, forged(solo)) is Reason.BAD_SIGNATURE
    solo.cluster.tell(1, forged(solo), sender=2)
    assert solo.rejected(Reason.BAD_SIGNATURE) == 1
    solo.cluster.advance(3 * T_US)
    assert solo.node.core.pool.count == 0
    assert not solo.node.events(EventName.SUSPECTED)


def test_c1_bad_signatures_to_the_backups_only_change_no_view() -> None:
    cluster = Cluster(4)
    bad = replace(cluster.forge.request(1), signature=bytes(64))
    for node in cluster.up[1:]:
        with pytest.raises(Rejected):
            node.submit(bad)
    cluster.submit(cluster.forge.request(1))
    cluster.advance(3 * T_US)
    assert cluster.views() == {0}
    assert cluster.executed() == {1}


def test_c2_an_unknown_client_is_refused_by_all_alike() -> None:
    outside = Forge(4)
    stranger = replace(outside.clients[0], key_pair=outside.signers[0].scheme.key_pair(b"?" * 32))
    message = Request(stranger.client, 1, 1, 0, 0, (b"x",))
    for me in range(4):
        solo = Solo(me=me)
        assert refused(solo, stranger.sign(message)) is Reason.CLIENT_UNAUTHORIZED
        taken = replace(message, client=solo.forge.clients[1].client)
        assert refused(solo, solo.forge.clients[0].sign(taken)) is Reason.SENDER_MISMATCH


def test_c3_a_client_that_equivocates_harms_nobody() -> None:
    """One operation to the primary, another to the backups: one of them executes everywhere, its
    execution cancels the timers of both, and no view changes."""
    cluster = Cluster(4)
    to_backups = cluster.forge.request(1, b"B")
    for node in cluster.up[1:]:
        node.submit(to_backups)
    cluster.network.queue.clear()
    cluster.submit(cluster.forge.request(1, b"A"), to=[0])
    for number in range(2, 6):
        cluster.submit(cluster.forge.request(number, client=1, acknowledged=0))
        cluster.advance(T_US)
    assert cluster.views() == {0}
    assert cluster[1].journal[0] == b"A"
    assert b"B" not in cluster[2].journal
    assert cluster.agree()
    assert not any(node.sent(ViewChange) for node in cluster.up)


def test_c3_the_other_operation_is_answered_as_a_conflict() -> None:
    solo = Solo()
    solo.decide(1, solo.forge.batch(solo.forge.request(1, b"A"), solo.forge.request(1, b"B")))
    assert solo.node.journal == [b"A"]
    outcomes = [reply.outcome for reply in solo.node.replies()]
    assert outcomes == [Outcome.EXECUTED, Outcome.CONFLICT]


@pytest.mark.parametrize("where", ["one batch", "two batches", "after execution"])
def test_c4_the_same_request_again_and_again(where: str) -> None:
    solo = Solo()
    request = solo.forge.request(1, b"once")
    if where == "one batch":
        solo.decide(1, solo.forge.batch(request, request, request))
    else:
        solo.decide(1, solo.forge.batch(request))
        if where == "after execution":
            solo.node.submit(request)
        solo.decide(2, solo.forge.batch(request, time_us=1))
    assert solo.node.journal == [b"once"]
    assert len({reply.results_digest for reply in solo.node.replies()}) == 1
    assert {reply.sequence for reply in solo.node.replies()} == {1}


@pytest.mark.parametrize(
    ("number", "acknowledged"), [(0, 0), (5, 5), (5, 9), (2000, 0), (2**64 - 1, 0)]
)
def test_c5_numbers_outside_the_window_are_malformed(number: int, acknowledged: int) -> None:
    solo = Solo()
    request = solo.forge.request(number, acknowledged=acknowledged)
    assert refused(solo, request) is Reason.MALFORMED


def test_c5_the_largest_numbers_overflow_nothing() -> None:
    solo = Solo()
    top = 2**64 - 1
    for sequence, session in enumerate((2**63, top, top - 1), 1):
        request = solo.forge.request(top, b"top", session=session)
        solo.decide(sequence, solo.forge.batch(request))
    solo.decide(4, solo.forge.batch(solo.forge.request(1, b"low", session=1)))
    assert solo.node.journal == [b"top", b"top", b"top", b"low"]
    solo.restart()
    assert solo.node.journal == [b"top", b"top", b"top", b"low"]


def test_c6_a_request_to_the_backups_only_is_served_without_amplification() -> None:
    cluster = Cluster(4)
    request = cluster.forge.request(1)
    for _ in range(10):
        cluster.submit(request, to=range(1, 4))
    assert cluster.executed() == {1}
    for node in cluster.up[1:]:
        forwarded = [e for e in node.effects if isinstance(e, Send) and e.item == request]
        assert len(forwarded) == 1


def test_c6_what_is_pending_or_settled_is_not_verified_again_for_a_peer() -> None:
    """A peer can replay all that clients ever signed, more than any memory of it holds."""
    solo = Solo()
    for number in range(1, 4):
        solo.decide(number, solo.batch(number))
    solo.node.receive(3, solo.forge.request(4))
    assert solo.node.core.pool.count == 1
    for number in range(1, 5):
        solo.node.receive(3, replace(solo.forge.request(number), signature=bytes(64)))
    assert solo.node.rejections["verifier", Reason.SETTLED] == 3
    assert solo.node.rejections["verifier", Reason.DUPLICATE] == 1
    assert solo.node.core.pool.count == 1


def test_c8_oversized_requests_are_refused_before_their_signature() -> None:
    solo = Solo()
    limits = solo.forge.genesis.limits
    big = solo.forge.request(1, b"x" * (limits.operation_bytes + 1))
    assert refused(solo, replace(big, signature=bytes(64))) is Reason.OVERSIZE
    client = solo.forge.clients[0]
    many = Request(client.client, 1, 1, 0, 0, (b"",) * (limits.operations_per_request + 1))
    assert refused(solo, client.sign(many)) is Reason.OVERSIZE


def test_c8_one_client_cannot_fill_the_queue_of_another() -> None:
    solo = Solo(me=0, limits=LocalLimits(pending_requests_per_client=3), pipeline_depth=1)
    for number in range(1, 50):
        solo.node.submit(solo.forge.request(number, acknowledged=0))
    solo.node.submit(solo.forge.request(1, client=1))
    assert solo.node.core.pool.count == 4
    assert solo.node.rejections["request", Reason.QUEUE_FULL] == 46


def test_c12_the_verdict_does_not_depend_on_who_verifies() -> None:
    """A signature is good for all or for none: one bad request condemns the batch everywhere."""
    maker = Solo(me=0)
    mixed = maker.forge.batch(maker.forge.request(1), forged(maker))
    for me in (1, 2, 3):
        solo = Solo(me=me)
        solo.cluster.tell(me, solo.forge.proposal(1, mixed))
        assert not solo.prepared_for()
        assert solo.rejected(Reason.BAD_BODY) == 1
