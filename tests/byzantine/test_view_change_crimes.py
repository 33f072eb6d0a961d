"""V1 to V15: crimes with view-changes and new-views (adversary.md 2.5)."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from pbft.core.effects import EventName
from pbft.core.state import Mode
from pbft.crypto.digest import NULL_DIGEST, batch_digest
from pbft.errors import Reason
from pbft.limits import LocalLimits
from pbft.messages import NewView, PreparedProof, Proposal, Signed, ViewChange
from tests.harness.core_cluster import SECOND, Cluster
from tests.harness.core_forge import INTERVAL, WINDOW, Forge
from tests.harness.core_solo import Solo

T_US = 2 * SECOND
SIZES = pytest.mark.parametrize("n", [4, 5, 6, 7])
A, B = b"a" * 32, b"b" * 32


@SIZES
@pytest.mark.parametrize("view", [1, 2**63, 2**64 - 1])
def test_v1_views_without_end_from_f_replicas_move_nobody(n: int, view: int) -> None:
    cluster = Cluster(n)
    liars = range(n - cluster.thresholds.faulty, n)
    for node in cluster.up[: n - cluster.thresholds.faulty]:
        for liar in liars:
            cluster.tell(node.id, cluster.forge.view_change(liar, view))
        assert len(node.core.view_change.received) <= n
    cluster.run(3)
    assert {node.core.view for node in cluster.up if node.id not in liars} == {0}
    assert cluster[0].core.executed == 3


@SIZES
def test_v1_the_join_is_not_dragged_beyond_an_honest_view(n: int) -> None:
    """f liars at the end of all views and one honest mover: the honest view is joined."""
    solo = Solo(n)
    liars = solo.others[: solo.thresholds.faulty]
    for liar in liars:
        solo.cluster.tell(1, solo.forge.view_change(liar, 2**64 - 1))
    solo.cluster.tell(1, solo.forge.view_change(solo.others[-1], 3))
    assert solo.node.core.view == 3


def test_v1_only_the_highest_of_each_is_kept_at_a_bounded_rate() -> None:
    solo = Solo()
    for view in range(1, 300):
        solo.cluster.tell(1, solo.forge.view_change(3, view))
        solo.cluster.advance(1000)
    (kept,) = solo.node.core.view_change.received.values()
    assert kept.message.view <= 299
    assert solo.rejected(Reason.RATE_LIMIT) > 200


def test_v2_stale_and_replayed_view_changes() -> None:
    solo = Solo()
    solo.enter(6)
    for view in (1, 5, 6):
        solo.cluster.tell(1, solo.forge.view_change(3, view))
    assert solo.rejected(Reason.VIEW_STALE) == 3
    solo.cluster.tell(1, solo.forge.view_change(3, 9), solo.forge.view_change(3, 8))
    assert solo.rejected(Reason.VIEW_STALE) == 4
    foreign = Forge(4, interval=8, window=16)
    solo.cluster.tell(1, foreign.view_change(2, 9))
    assert solo.rejected(Reason.BAD_SIGNATURE) == 1


@SIZES
def test_v3_an_omitted_certificate_loses_nothing(n: int) -> None:
    """f members of V leave out what they prepared: it is in the P of an honest one."""
    cluster = Cluster(n)
    liars = range(1, 1 + cluster.thresholds.faulty)
    cluster.submit(cluster.forge.request(1, b"kept"))
    for liar in liars:
        cluster[liar].crash()
        del cluster.nodes[liar]
    cluster.drop(lambda m: m.sender in liars)
    for node in cluster.up:
        for liar in liars:
            cluster.tell(node.id, cluster.forge.view_change(liar, cluster.thresholds.weak))
    cluster.drop(None)
    movers = [cluster.forge.view_change(liar, n) for liar in liars]
    for node in cluster.up:
        cluster.tell(node.id, *movers)
    cluster.fail_primary()
    cluster.advance(20 * T_US)
    assert all(node.journal == [b"kept"] for node in cluster.up)


FORGERIES: dict[str, Callable[[Forge], PreparedProof]] = {
    "prepares of another view": lambda f: PreparedProof(
        f.pre_prepare(1, A), tuple(f.prepare(i, 1, A, view=4) for i in (1, 2))
    ),
    "prepares of another digest": lambda f: PreparedProof(
        f.pre_prepare(1, A), tuple(f.prepare(i, 1, B) for i in (1, 2))
    ),
    "one signer twice": lambda f: f.proof(1, A, backups=(2, 2)),
    "too few": lambda f: f.proof(1, A, backups=(2,)),
    "the primary among them": lambda f: f.proof(1, A, backups=(0, 2)),
    "of the view itself": lambda f: f.proof(1, A, view=1),
    "of a later view": lambda f: f.proof(1, A, view=9),
    "above the window": lambda f: f.proof(WINDOW + 1, A),
    "signed by itself only": lambda f: PreparedProof(
        f.sign(2, f.verifier.decode(f.pre_prepare(1, A))), f.proof(1, A).prepares
    ),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_v4_a_forged_certificate_voids_its_message_only(name: str) -> None:
    """The new primary leaves it out and uses the others."""
    solo = Solo()
    forge = solo.forge
    solo.cluster.tell(1, forge.view_change(2, 1, [FORGERIES[name](forge)]))
    solo.cluster.tell(1, forge.view_change(0, 1, [forge.proof(2, B)]))
    assert not solo.node.sent(NewView)
    assert solo.node.rejections["view_change", Reason.BAD_VIEW_CHANGE] == 1
    solo.cluster.tell(1, forge.view_change(3, 1))
    (new_view,) = solo.node.sent(NewView)
    assert {change.signer for change in new_view.view_changes} == {0, 1, 3}
    digests = [forge.vote(o).digest for o in new_view.pre_prepares]
    assert digests == [NULL_DIGEST, B]


@pytest.mark.parametrize("name", FORGERIES)
def test_v4_a_new_view_with_a_forged_certificate_is_refused(name: str) -> None:
    solo = Solo(me=2)
    forge = solo.forge
    bad = forge.view_change(3, 1, [FORGERIES[name](forge)])
    changes = [*forge.view_changes(1, (0, 1)), bad]
    solo.cluster.tell(2, forge.sign(1, NewView(1, tuple(changes), ())))
    assert solo.rejected(Reason.BAD_NEW_VIEW) == 1
    assert solo.node.core.entered_view == 0


def test_v5_one_good_and_one_bad_certificate() -> None:
    """R1: that view-change is refused, the certificates of the others are still used."""
    solo = Solo()
    forge = solo.forge
    mixed = [forge.proof(1, A), FORGERIES["above the window"](forge)]
    solo.cluster.tell(1, forge.view_change(2, 1, mixed))
    solo.cluster.tell(1, forge.view_change(0, 1, [forge.proof(1, A)]), forge.view_change(3, 1))
    (new_view,) = solo.node.sent(NewView)
    assert {change.signer for change in new_view.view_changes} == {0, 1, 3}
    assert len(new_view.pre_prepares) == 1


@SIZES
def test_v6_a_certificate_of_a_lower_view_does_not_win(n: int) -> None:
    solo = Solo(n)
    low, high = solo.forge.proof(1, A, view=0), solo.forge.proof(1, B, view=2)
    target = n + 1
    movers = solo.others[: solo.thresholds.quorum - 1]
    for position, replica in enumerate(movers):
        proofs = [high] if position == 1 else [low]
        solo.cluster.tell(1, solo.forge.view_change(replica, target, proofs))
    (new_view,) = solo.node.sent(NewView)
    assert [solo.forge.vote(o).digest for o in new_view.pre_prepares] == [B]


@SIZES
@pytest.mark.parametrize("lie", ["dropped", "null", "another digest", "more"])
def test_v7_an_o_that_v_does_not_demand_is_refused(n: int, lie: str) -> None:
    """Each backup recomputes O, and waits for the next view."""
    solo = Solo(n, me=2)
    signers = [i for i in range(n) if i != 2][: solo.thresholds.quorum]
    changes = [solo.forge.view_change(i, 1, [solo.forge.proof(1, A)]) for i in signers]
    digests = {
        "dropped": (),
        "null": (NULL_DIGEST,),
        "another digest": (B,),
        "more": (A, B),
    }[lie]
    solo.cluster.tell(2, solo.forge.new_view(1, changes, digests))
    assert solo.node.core.entered_view == 0
    assert solo.rejected(Reason.BAD_NEW_VIEW) == 1
    solo.cluster.tell(2, solo.forge.new_view(1, changes))
    assert solo.node.core.entered_view == 1


def test_v7_a_primary_with_a_wrong_o_is_replaced_in_turn() -> None:
    cluster = Cluster(4, live=(0, 2, 3))
    forge = cluster.forge
    cluster.drop(lambda m: m.sender == 0 and m.says(Proposal))
    cluster.submit(forge.request(1), to=(0, 2, 3))
    cluster.advance(T_US)
    assert {node.core.view for node in cluster.up} == {1}
    for node in cluster.up:
        cluster.tell(node.id, forge.new_view(1, forge.view_changes(1, (0, 2, 3)), (A,)))
    cluster.drop(None)
    cluster.advance(5 * T_US)
    assert {node.core.view for node in cluster.up} == {2}
    assert [node.journal for node in cluster.up] == [[b"0.1.1"]] * 3
    assert all(node.rejections["new_view", Reason.BAD_NEW_VIEW] == 1 for node in cluster.up)


def test_v8_different_new_views_to_different_replicas() -> None:
    """Both are valid: at most one O gathers a quorum, agreement holds, and who sees both has
    evidence."""
    cluster = Cluster(4, live=(0, 2, 3))
    forge = cluster.forge
    batch = forge.batch(forge.request(1))
    proof = forge.proof(1, batch_digest(batch))
    changes = {i: forge.view_change(i, 1, [proof] if i == 3 else []) for i in range(4)}
    with_it = forge.new_view(1, [changes[i] for i in (0, 1, 3)])
    without = forge.new_view(1, [changes[i] for i in (0, 1, 2)])
    cluster.oracles.forged.update(range(4))
    for node in cluster.up:
        node.receive(1, without if node.id == 0 else with_it)
    cluster.settle()
    assert {node.core.entered_view for node in cluster.up} == {1}
    cluster.tell(2, without)
    assert [e.kind for e in cluster[2].core.evidence.values()] == ["new_view"]
    other = forge.batch(forge.request(1, b"other", client=1))
    cluster.tell(0, forge.proposal(1, other, view=1))
    for node in cluster.up[1:]:
        cluster.tell(node.id, Proposal(forge.pre_prepare(1, batch_digest(batch), 1), batch))
    cluster.submit(forge.request(1, b"last", client=2), to=(0, 2, 3))
    cluster.advance(10 * T_US)
    assert cluster.agree()
    assert b"last" in cluster[0].journal


def broken_new_view(forge: Forge, crime: str) -> Signed:
    """A new-view for view 1 with one thing wrong."""
    changes = forge.view_changes(1, (0, 2, 3))
    if crime == "too few":
        return forge.sign(1, NewView(1, tuple(changes[:-1]), ()))
    if crime == "one twice":
        return forge.sign(1, NewView(1, (*changes[:-1], changes[0]), ()))
    if crime == "another view":
        return forge.sign(1, NewView(1, (*changes[:-1], forge.view_change(3, 2)), ()))
    if crime == "bad signature inside":
        bad = replace(changes[-1], signature=bytes(64))
        return forge.sign(1, NewView(1, (*changes[:-1], bad), ()))
    if crime == "bad signature":
        return replace(forge.sign(1, NewView(1, tuple(changes), ())), signature=bytes(64))
    if crime == "of another primary":
        return forge.sign(3, NewView(1, tuple(changes), ()))
    if crime == "far ahead without proof":
        return forge.sign(1, NewView(1001, tuple(changes), ()))
    assert crime == "replica and signer differ"
    lie = ViewChange(1, 2, 0, 0, (), ())
    return forge.sign(1, NewView(1, (*changes[:1], forge.sign(3, lie), *changes[1:2]), ()))


@pytest.mark.parametrize(
    "crime",
    [
        "too few", "one twice", "another view", "bad signature inside", "bad signature",
        "of another primary", "far ahead without proof", "replica and signer differ",
    ],
)  # fmt: skip
def test_v9_a_new_view_must_prove_itself(crime: str) -> None:
    solo = Solo(me=2)
    for replica in (0, 3):
        solo.cluster.tell(2, solo.forge.view_change(replica, 1))
    solo.cluster.tell(2, broken_new_view(solo.forge, crime))
    assert solo.node.core.entered_view == 0
    assert solo.node.core.mode is Mode.VIEW_CHANGING
    assert sum(solo.node.rejections.values()) == 1
    solo.cluster.advance(4 * T_US)
    assert solo.node.core.view == 2, "the timer for the new-view goes on"


def test_v10_a_new_view_whose_bodies_nobody_has_fails_and_the_next_one_serves() -> None:
    """A certificate whose body was withheld from all but liars: never executed without it."""
    cluster = Cluster(4, live=(0, 2, 3))
    forge = cluster.forge
    hidden = forge.proof(1, A)
    changes = [forge.view_change(1, 1, [hidden]), *forge.view_changes(1, (0, 2))]
    cluster.oracles.forged.update(range(4))
    for node in cluster.up:
        node.receive(1, forge.new_view(1, changes))
    cluster.submit(forge.request(1), to=(0, 2, 3))
    cluster.advance(T_US - SECOND // 10)
    assert {node.core.view for node in cluster.up} == {1}
    assert {node.core.executed for node in cluster.up} == {0}
    cluster.advance(20 * T_US)
    assert min(node.core.view for node in cluster.up) >= 2
    assert [node.journal for node in cluster.up] == [[b"0.1.1"]] * 3


def test_v11_min_s_beyond_my_state() -> None:
    solo = Solo(me=2)
    proof = solo.forge.checkpoints(2 * INTERVAL, A)
    changes = [
        solo.forge.view_change(0, 1, [], 2 * INTERVAL, proof),
        *solo.forge.view_changes(1, (1, 3)),
    ]
    solo.cluster.tell(2, solo.forge.new_view(1, changes))
    assert solo.node.core.entered_view == 1
    assert solo.node.core.executed == 0
    solo.cluster.advance(SECOND)
    assert solo.node.events(EventName.STATE_TRANSFER_STARTED)


def test_v12_two_faulty_primaries_in_a_row() -> None:
    """n = 7, f = 2: served within the sum of the doubled timeouts."""
    cluster = Cluster(7)
    cluster[0].crash()
    cluster[1].crash()
    cluster.submit(cluster.forge.request(1), to=range(2, 7))
    cluster.advance(T_US + 2 * T_US + 4 * T_US + SECOND)
    assert all(node.journal == [b"0.1.1"] for node in cluster.up)
    assert cluster.views() == {2}


@SIZES
def test_v13_f_replicas_that_suspect_all_the_time_change_no_view(n: int) -> None:
    cluster = Cluster(n)
    liars = range(n - cluster.thresholds.faulty, n)
    for number in range(1, 6):
        cluster.submit(cluster.forge.request(number))
        for node in cluster.up:
            for liar in liars:
                if node.id not in liars:
                    cluster.tell(node.id, cluster.forge.status(liar, suspects=True))
                    cluster.tell(node.id, cluster.forge.view_change(liar, number))
        cluster.advance(T_US)
    assert {node.core.view for node in cluster.up if node.id not in liars} == {0}
    assert cluster[0].core.executed == 5


def test_v15_a_trickle_of_progress_saves_no_primary() -> None:
    """One request shortly before each deadline, another one of the same client never."""
    solo = Solo()
    victim = solo.forge.request(50, b"victim", acknowledged=49, client=1)
    solo.node.submit(victim)
    for number in range(1, 6):
        solo.node.submit(solo.forge.request(number, acknowledged=0))
    for number in range(1, 6):
        solo.cluster.advance(T_US // 5)
        solo.decide(number, solo.forge.batch(solo.forge.request(number, acknowledged=0)))
    solo.cluster.advance(5 * LocalLimits().record_us)
    assert solo.node.core.suspicion.mine


def test_v16_the_largest_view_change_of_the_window_is_valid() -> None:
    """Every slot of the window prepared in different views."""
    solo = Solo()
    proofs = [solo.forge.proof(1 + k, A, view=k % 3) for k in range(WINDOW)]
    for replica in (0, 2):
        solo.cluster.tell(1, solo.forge.view_change(replica, 5, proofs))
    (new_view,) = solo.node.sent(NewView)
    assert len(new_view.pre_prepares) == WINDOW
