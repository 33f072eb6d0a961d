"""Handlers check again what the verifier asked about before it verified: they must not rely on
their caller. And the question itself is pure."""

from dataclasses import replace

import pytest

from pbft.core.shares import STRIPE
from pbft.crypto.verifier import everything_is_relevant
from pbft.errors import Reason
from pbft.messages import (
    BatchBytes,
    CommittedBatch,
    PeerItem,
    Proposal,
    StableCertificate,
    StateRequest,
)
from tests.harness.core_cluster import SECOND
from tests.harness.core_forge import INTERVAL, WINDOW
from tests.harness.core_solo import Solo

A = b"a" * 32
FAR = 3 * WINDOW


def unwanted(solo: Solo) -> dict[str, tuple[int, PeerItem, Reason]]:
    """Well-signed items that a replica at h = K has no use for: (sender, item, why)."""
    forge = solo.forge
    return {
        "stale proposal": (0, forge.proposal(1, solo.batch()), Reason.SEQUENCE_LOW),
        "bare pre-prepare far ahead": (0, forge.pre_prepare(FAR, A), Reason.SEQUENCE_HIGH),
        "stale prepare": (2, forge.prepare(2, 1, A), Reason.SEQUENCE_LOW),
        "commit far ahead": (2, forge.commit(2, FAR, A), Reason.SEQUENCE_HIGH),
        "certificate of what is executed": (
            2,
            forge.committed(1, solo.batch()),
            Reason.SEQUENCE_LOW,
        ),
        "certificate far ahead": (2, forge.committed(FAR, solo.batch()), Reason.SEQUENCE_HIGH),
        "old checkpoint": (2, forge.checkpoint(2, INTERVAL, A), Reason.SEQUENCE_LOW),
        "a body that nobody asked for": (2, BatchBytes(solo.batch(9)), Reason.UNWANTED),
        "stale view-change": (2, forge.view_change(2, 1), Reason.VIEW_STALE),
        "stale new-view": (1, forge.new_view(1, forge.view_changes(1)), Reason.VIEW_STALE),
        "a snapshot that I have not": (2, StateRequest(FAR, 0), Reason.SEQUENCE_HIGH),
    }


def settled() -> Solo:
    """A replica in view 2 with h = K."""
    solo = Solo()
    solo.decide_to(INTERVAL)
    solo.stabilise(INTERVAL)
    solo.enter(4)
    return solo


@pytest.mark.parametrize("asked", [True, False])
@pytest.mark.parametrize("name", list(unwanted(Solo())))
def test_what_is_of_no_use_is_refused_by_name(name: str, asked: bool) -> None:
    solo = settled()
    sender, item, reason = unwanted(solo)[name]
    if "view" not in name and not isinstance(item, StateRequest | BatchBytes | CommittedBatch):
        item = in_view_four(solo, name)
    if not asked:
        solo.node.verifier.relevance = everything_is_relevant
    known = len(solo.node.core.log), solo.node.core.executed, solo.node.core.view
    solo.node.receive(sender, item)
    assert solo.rejected(reason) == 1
    assert (len(solo.node.core.log), solo.node.core.executed, solo.node.core.view) == known


def in_view_four(solo: Solo, name: str) -> PeerItem:
    """The votes and proposals of the list, of the view that the replica is in."""
    forge = solo.forge
    items: dict[str, PeerItem] = {
        "stale proposal": forge.proposal(1, solo.batch(), view=4),
        "bare pre-prepare far ahead": forge.pre_prepare(FAR, A, view=4),
        "stale prepare": forge.prepare(2, 1, A, view=4),
        "commit far ahead": forge.commit(2, FAR, A, view=4),
        "old checkpoint": forge.checkpoint(2, INTERVAL, A),
    }
    return items[name]


@pytest.mark.parametrize("kind", ["prepare", "commit"])
@pytest.mark.parametrize("vote", ["duplicate", "conflict", "primary", "older of later"])
def test_votes_without_the_question(kind: str, vote: str) -> None:
    solo = Solo()
    solo.node.verifier.relevance = everything_is_relevant
    cast = getattr(solo.forge, kind)
    solo.node.receive(2, cast(2, 1, A, view=0 if vote != "older of later" else 9))
    again, reason = {
        "duplicate": (cast(2, 1, A), Reason.DUPLICATE),
        "conflict": (cast(2, 1, bytes(32)), Reason.DIGEST_CONFLICT),
        "primary": (solo.forge.prepare(0, 1, A), Reason.NOT_PRIMARY),
        "older of later": (cast(2, 1, A, view=8), Reason.VIEW_FUTURE),
    }[vote]
    solo.node.receive(2, again)
    assert solo.rejected(reason) == 1


def test_statuses_and_view_changes_without_the_question_keep_their_pace() -> None:
    solo = Solo()
    solo.node.verifier.relevance = everything_is_relevant
    for view in range(1, 50):
        solo.node.receive(2, solo.forge.status(2, executed=view))
        solo.node.receive(3, solo.forge.view_change(3, view))
    assert solo.node.rejections["status", Reason.RATE_LIMIT] > 30
    assert solo.node.rejections["view_change", Reason.RATE_LIMIT] > 30


def test_malformed_certificates_are_of_no_use() -> None:
    """Before any signature: empty ones, and ones of other statements."""
    solo = Solo()
    prepare = solo.forge.prepare(2, 1, A)
    for item in (
        CommittedBatch((), b""),
        CommittedBatch((prepare,), b""),
        StableCertificate(()),
        StableCertificate((prepare,)),
        Proposal(prepare, solo.batch()),
    ):
        assert solo.node.replica.relevance(2, item) in (Reason.BAD_CERTIFICATE, Reason.MALFORMED)


def test_the_question_changes_nothing() -> None:
    solo = settled()
    before = repr(solo.node.core)
    for sender, item, _ in unwanted(solo).values():
        body = solo.forge.verifier.decode(item) if hasattr(item, "kind") else item
        for _ in range(20):
            solo.node.replica.relevance(sender, body)
    assert repr(solo.node.core) == before


def test_what_the_verifier_cannot_have_admitted_is_a_bug() -> None:
    solo = Solo()
    with pytest.raises(AssertionError, match="the verifier admitted a str"):
        solo.node.replica.receive(2, "nonsense", solo.node.now())  # type: ignore[arg-type]


def test_batches_above_a_pinned_snapshot_stay_for_who_fetches_it() -> None:
    """The source keeps the decided batches after the snapshot, so that a transfer under load
    ends."""
    solo = Solo()
    solo.decide_to(INTERVAL)
    solo.stabilise(INTERVAL)
    solo.node.receive(2, StateRequest(INTERVAL, 0))
    last = 5 * INTERVAL
    for sequence in range(INTERVAL + 1, last + 1):
        solo.decide(sequence)
        if sequence % INTERVAL == 0:
            solo.stabilise(sequence)
    assert solo.node.core.log.get(INTERVAL + 1) is None
    solo.cluster.advance(SECOND)
    for _ in range(2):
        # The other sources push nothing, so the stripes of the next of them are pushed, too.
        solo.node.receive(2, solo.forge.status(2, executed=INTERVAL, stable_sequence=INTERVAL))
        solo.cluster.advance(SECOND)
    pushed = [item for item in solo.node.sent(CommittedBatch)]
    sequences = {solo.forge.vote(item.commits[0]).sequence for item in pushed}
    assert set(range(INTERVAL + 1, INTERVAL + STRIPE)) <= sequences
    assert solo.node.core.log.get(INTERVAL + STRIPE - 1) is None
    other = Solo(me=2)
    for item in pushed:
        other.node.receive(1, replace(item))
    assert other.node.core.executed == 0, "its own state is still to come"
    # The snapshot is unpinned after a while, and who has it may take as long to execute the rest.
    solo.cluster.advance(45 * SECOND)
    assert not solo.node.core.snapshots and 2 in solo.node.core.holds
    solo.cluster.advance(45 * SECOND)
    assert not solo.node.core.holds
    solo.decide(last + 1)
    for sequence in range(last + 2, last + INTERVAL + 1):
        solo.decide(sequence)
    solo.stabilise(last + INTERVAL)
    assert not len(solo.node.core.tail)
    assert solo.node.core.tail.memory_bytes == 0
