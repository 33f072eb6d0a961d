"""Section 4.1, the client. Departures: several requests in flight, one signed envelope for many
replies, digests of results from all but the designated replica."""

import pytest

from pbft.core.effects import Answer, Send
from pbft.crypto.digest import results_digest
from pbft.errors import Reason, Rejected
from pbft.messages import Outcome, PrePrepare, Proposal, Replies, Request
from tests.harness.core_cluster import SECOND, Cluster
from tests.harness.core_solo import Solo


def test_a_request_names_operation_timestamp_and_client_and_goes_to_the_primary(n: int) -> None:
    """A client asks for o with <REQUEST, o, t, c> sent to the primary it believes in."""
    cluster = Cluster(n)
    cluster.submit(cluster.forge.request(1, b"hello"), to=[0])
    assert [node.journal for node in cluster.up] == [[b"hello"]] * n


def test_the_primary_multicasts_the_request_to_all_backups(n: int) -> None:
    """The primary atomically multicasts it: every backup gets the same batch."""
    cluster = Cluster(n)
    cluster.submit(cluster.forge.request())
    assert len(cluster[0].sent(Proposal)) == 1
    assert all(not node.sent(Proposal, PrePrepare) for node in cluster.up[1:])


def test_every_replica_replies_to_the_client_itself(n: int) -> None:
    """<REPLY, v, t, c, i, r> goes from each replica straight to the client."""
    cluster = Cluster(n)
    request = cluster.forge.request(1, b"x")
    cluster.submit(request)
    digest = cluster.forge.admit(request).digest
    for node in cluster.up:
        (answer,) = node.answers
        assert answer.client == cluster.forge.clients[0].client
        assert answer.replies.signer == node.id
        (reply,) = node.replies()
        assert (reply.session, reply.number, reply.request_digest) == (1, 1, digest)
        assert reply.results_digest == results_digest(Outcome.EXECUTED, 0, (b"0:x",))


def test_replies_of_correct_replicas_match_in_everything_but_the_view(n: int) -> None:
    """The client waits for f + 1 replies with the same t and r from different replicas."""
    cluster = Cluster(n)
    cluster.submit(cluster.forge.request())
    headers = {
        (reply.session, reply.number, reply.request_digest, reply.sequence, reply.agreed_time_us,
         reply.outcome, reply.results_digest)
        for node in cluster.up
        for reply in node.replies()
    }  # fmt: skip
    assert len(headers) == 1


def test_one_designated_replica_sends_the_results_and_the_others_their_digest(n: int) -> None:
    """Section 5.1: replica t mod n sends r, the others D(r)."""
    cluster = Cluster(n)
    cluster.run(n)
    for node in cluster.up:
        full = [reply.number for reply in node.replies() if reply.results is not None]
        assert full == [number for number in range(1, n + 1) if number % n == node.id]


def test_replies_tell_the_view_so_that_clients_track_the_primary(n: int) -> None:
    """v in the reply lets the client find the current primary."""
    cluster = Cluster(n)
    cluster.run(1)
    cluster.fail_primary()
    cluster.advance(SECOND)
    cluster.submit(cluster.forge.request(2), to=[1])
    node = cluster[2]
    views = [node.verifier.decode(answer.replies) for answer in node.answers]
    assert [view.view for view in views if isinstance(view, Replies)] == [0, 1]


def test_a_replica_that_processed_the_request_sends_its_last_reply_again(n: int) -> None:
    """The client broadcasts when it hears nothing: who executed the request answers from its
    log, byte for byte the same reply, and executes nothing."""
    cluster = Cluster(n)
    request = cluster.forge.request()
    cluster.submit(request)
    before = [node.replies() for node in cluster.up]
    cluster.submit(request, to=range(n))
    assert [node.replies() for node in cluster.up] == [replies * 2 for replies in before]
    assert cluster.executed() == {1}


def test_another_request_with_a_timestamp_that_was_executed_is_a_conflict(n: int) -> None:
    """A timestamp belongs to one request: its client is told so, by all alike, and nothing is
    ordered for it."""
    cluster = Cluster(n)
    cluster.submit(cluster.forge.request(1, b"x"), to=range(n))
    other = cluster.forge.request(1, b"y")
    cluster.submit(other, to=range(n))
    answers = {node.replies()[-1] for node in cluster.up}
    assert [reply.outcome for reply in answers] == [Outcome.CONFLICT]
    assert answers.pop().request_digest == cluster.forge.admit(other).digest
    assert [node.journal for node in cluster.up] == [[b"x"]] * n


def test_a_repeated_request_is_answered_in_full_when_the_client_asks_so(n: int) -> None:
    """If the designated replica fails, all are asked in full."""
    cluster = Cluster(n)
    request = cluster.forge.request(1, b"x")
    cluster.submit(request)
    cluster.submit(request, to=range(n), full_results=True)
    assert [node.replies()[-1].results for node in cluster.up] == [(b"0:x",)] * n


def test_a_request_asks_for_its_results_in_full_from_the_start(n: int) -> None:
    """The client knows already that the designated replica is no help: whoever it asks for full
    results sends them as soon as they exist."""
    cluster = Cluster(n)
    cluster.submit(cluster.forge.request(1, b"x"), full_results=True)
    cluster.submit(cluster.forge.request(2, b"y"))
    cluster.submit(cluster.forge.request(n, b"z"), full_results=True)
    told = [reply.results for reply in cluster[0].replies()]
    assert told == [(b"0:x",), None, (b"2:z",)]
    assert [reply.results for reply in cluster[2].replies()] == [None, (b"1:y",), None]


def test_a_backup_relays_the_request_to_the_primary(n: int) -> None:
    """Otherwise, if it is not the primary, it relays the request to the primary."""
    cluster = Cluster(n)
    request = cluster.forge.request()
    effects = cluster[n - 1].submit(request)
    assert Send(0, request) in effects
    cluster.settle()
    assert cluster.executed() == {1}


def test_a_primary_that_does_not_multicast_is_suspected_by_all(n: int) -> None:
    """If the primary does not multicast the request, enough replicas suspect it to cause a view
    change."""
    cluster = Cluster(n)
    cluster.drop(lambda m: m.sender == 0 and m.says(Proposal))
    cluster.submit(cluster.forge.request(), to=range(n))
    cluster.advance(3 * SECOND)
    assert cluster.views() == {1}
    assert all(node.journal == [b"0.1.1"] for node in cluster.up if node.id != 0)


def test_timestamps_give_exactly_once_whatever_is_sent_again(n: int) -> None:
    """The timestamp is used to execute a request exactly once: here twice in one batch, and in
    another one."""
    solo = Solo(n)
    request = solo.forge.request(1, b"once")
    solo.decide(1, solo.forge.batch(request, request))
    solo.decide(2, solo.forge.batch(request, time_us=0))
    assert solo.node.core.executed == 2
    assert solo.node.journal == [b"once"]
    assert len(solo.node.replies()) == 3
    assert len({reply.results_digest for reply in solo.node.replies()}) == 1


def test_timestamps_are_totally_ordered_later_ones_do_not_censor_earlier(n: int) -> None:
    """Departure: several requests of a client may be outstanding, and a later number that was
    ordered first takes nothing from an earlier one."""
    cluster = Cluster(n)
    cluster.submit(cluster.forge.request(2, acknowledged=0))
    cluster.submit(cluster.forge.request(1, acknowledged=0))
    assert cluster[0].journal == [b"0.1.2", b"0.1.1"]


def test_a_request_not_signed_by_its_client_is_refused(n: int) -> None:
    """Requests carry the client's signature: nobody speaks for another."""
    cluster = Cluster(n)
    good = cluster.forge.request(1, client=0)
    assert isinstance(cluster.forge.verifier.decode(good), Request)
    other = cluster.forge.clients[1].client
    forged = type(good)(good.kind, other, good.payload, good.signature)
    with pytest.raises(Rejected) as refusal:
        cluster[0].submit(forged)
    assert refusal.value.reason is Reason.SENDER_MISMATCH
    torn = type(good)(good.kind, good.signer, good.payload, bytes(64))
    with pytest.raises(Rejected) as refusal:
        cluster[0].submit(torn)
    assert refusal.value.reason is Reason.BAD_SIGNATURE
    assert not any(isinstance(effect, Answer) for effect in cluster[0].effects)
