"""The watch: each invariant is broken once by hand, and must be seen."""

from collections.abc import Callable

import pytest

from pbft.codec import encode_batch, encode_signed
from pbft.core.effects import (
    Answer,
    Broadcast,
    DecidedRecord,
    Effect,
    Event,
    EventName,
    NewViewRecord,
    Persist,
    PreparedRecord,
)
from pbft.crypto.digest import NULL_DIGEST, batch_digest
from pbft.crypto.signing import FAKE, ClientSigner, ReplicaSigner
from pbft.crypto.verifier import Verifier
from pbft.genesis import Genesis
from pbft.messages import (
    Batch,
    Checkpoint,
    Commit,
    NewView,
    Outcome,
    Prepare,
    PreparedProof,
    PrePrepare,
    Replies,
    Reply,
    Request,
    Signed,
    ViewChange,
)
from pbft.sim.invariants import Counters, Violation, Watch

KEYS = [FAKE.key_pair(bytes([number]) * 32) for number in range(4)]
CLIENT = FAKE.key_pair(bytes([100]) * 32)
GENESIS = Genesis.create(
    nonce=bytes(32),
    replicas=tuple(pair.public for pair in KEYS),
    clients=frozenset([CLIENT.public]),
)
SIGNERS = [
    ReplicaSigner(replica, pair, GENESIS.cluster_id, FAKE) for replica, pair in enumerate(KEYS)
]
A, B = b"a" * 32, b"b" * 32


class Scene:
    """A watch over four honest replicas that have just started."""

    def __init__(self) -> None:
        self.issued: set[bytes] = set()
        self.counters = Counters()
        verifier = Verifier(GENESIS, FAKE, lambda sender, message: None)
        self.watch = Watch(GENESIS, verifier, self.issued, self.counters)
        for replica in range(4):
            self.watch.began(replica, 0, first=True)

    def batch(self, number: int, *, issued: bool = True) -> bytes:
        signer = ClientSigner(CLIENT, GENESIS.cluster_id, FAKE)
        signed = signer.sign(Request(signer.client, 1, number, 0, 0, (b"x",)))
        if issued:
            self.issued.add(signed.payload)
        return encode_batch(Batch(number, (encode_signed(signed),)))

    def prepare(self, view: int, sequence: int, digest: bytes) -> None:
        proof = PreparedProof(SIGNERS[0].sign(PrePrepare(view, sequence, digest)), ())
        record = PreparedRecord(view, sequence, digest, proof)
        for replica in range(4):
            self.watch.stepped(replica, [Persist(record)])

    def decide(
        self, replica: int, sequence: int, batch: bytes, view: int = 0, prepared: bool = True
    ) -> tuple[Signed, ...]:
        """The replica decides with its own commit and those of others, and all of them leave."""
        commits = self.decide_silently(replica, sequence, batch, view, prepared)
        for signer, commit in enumerate(commits):
            self.say(signer, commit)
        return commits

    def decide_silently(
        self, replica: int, sequence: int, batch: bytes, view: int = 0, prepared: bool = True
    ) -> tuple[Signed, ...]:
        digest = batch_digest(batch) if batch else NULL_DIGEST
        if prepared:
            self.prepare(view, sequence, digest)
        commits = tuple(SIGNERS[i].sign(Commit(view, sequence, digest)) for i in range(3))
        record = DecidedRecord(sequence, digest, commits, batch)
        self.watch.stepped(replica, [Persist(record)])
        return commits

    def execute(self, replica: int, sequence: int) -> None:
        self.watch.stepped(replica, [Event(EventName.EXECUTED, 0, sequence)])

    def say(self, replica: int, signed: Signed) -> None:
        self.watch.left(replica, Broadcast(signed))

    def reply(
        self,
        replica: int,
        digest: bytes,
        sequence: int,
        outcome: Outcome = Outcome.EXECUTED,
        results_digest: bytes = A,
    ) -> None:
        reply = Reply(1, 1, digest, sequence, 5, outcome, results_digest, None)
        signed = SIGNERS[replica].sign(Replies(CLIENT.public, replica, (reply,)))
        self.watch.left(replica, Answer(CLIENT.public, signed))


def two_digests_decided(scene: Scene) -> None:
    scene.decide(0, 1, scene.batch(1))
    scene.decide(1, 1, scene.batch(2))


def committed_unprepared(scene: Scene) -> None:
    scene.decide(0, 1, scene.batch(1), prepared=False)


def committed_unprepared_in_another_view(scene: Scene) -> None:
    scene.decide(0, 1, scene.batch(1))
    scene.decide(1, 1, scene.batch(1), view=1, prepared=False)


def gap_executed(scene: Scene) -> None:
    scene.decide(0, 2, scene.batch(1))
    scene.execute(0, 2)


def undecided_executed(scene: Scene) -> None:
    scene.execute(0, 1)


def forged_request_decided(scene: Scene) -> None:
    scene.decide(0, 1, scene.batch(1, issued=False))


def null_batch_in_view_zero(scene: Scene) -> None:
    scene.decide(0, 1, b"")


def two_prepares(scene: Scene) -> None:
    scene.say(1, SIGNERS[1].sign(Prepare(0, 1, A)))
    scene.watch.began(1, 0, first=False)
    scene.say(1, SIGNERS[1].sign(Prepare(0, 1, B)))


def two_commits(scene: Scene) -> None:
    scene.say(1, SIGNERS[1].sign(Commit(0, 1, A)))
    scene.say(1, SIGNERS[1].sign(Commit(0, 1, B)))


def two_view_changes(scene: Scene) -> None:
    scene.say(1, SIGNERS[1].sign(ViewChange(1, 1, 0, 0, (), ())))
    scene.say(1, SIGNERS[1].sign(ViewChange(1, 1, 1, 0, (), ())))


def two_new_views(scene: Scene) -> None:
    scene.say(1, SIGNERS[1].sign(NewView(1, (), ())))
    scene.say(1, SIGNERS[1].sign(NewView(1, (), (SIGNERS[1].sign(PrePrepare(1, 1, A)),))))


def new_view_against_pre_prepare(scene: Scene) -> None:
    scene.say(1, SIGNERS[1].sign(PrePrepare(1, 1, A)))
    scene.say(1, SIGNERS[1].sign(NewView(1, (), (SIGNERS[1].sign(PrePrepare(1, 1, B)),))))


def two_states(scene: Scene) -> None:
    scene.say(1, SIGNERS[1].sign(Checkpoint(64, A)))
    scene.say(2, SIGNERS[2].sign(Checkpoint(64, B)))


def diverged(scene: Scene) -> None:
    scene.watch.stepped(0, [Event(EventName.STATE_DIVERGED, 0, 64)])


def vote_forgotten(scene: Scene) -> None:
    scene.watch.stepped(1, [Event(EventName.AMNESIA, 0, 0, 1)])


def honest_accused(scene: Scene) -> None:
    scene.watch.stepped(0, [Event(EventName.EVIDENCE, 0, 1, 2, "prepare")])


def executed_under_one_number(scene: Scene) -> None:
    scene.reply(0, A, 1)
    scene.reply(1, B, 1)


def executed_at_two_places(scene: Scene) -> None:
    scene.reply(0, A, 1)
    scene.reply(1, A, 2)


def two_results(scene: Scene) -> None:
    scene.reply(0, A, 1)
    scene.reply(1, A, 1, Outcome.RESULT_FORGOTTEN, B)


def committed_batch_left_out(scene: Scene) -> None:
    scene.decide(0, 1, scene.batch(1))
    for replica in range(3):
        scene.say(replica, SIGNERS[replica].sign(ViewChange(1, replica, 0, 0, (), ())))


def committed_after_it_was_left_out(scene: Scene) -> None:
    for replica in range(3):
        scene.say(replica, SIGNERS[replica].sign(ViewChange(1, replica, 0, 0, (), ())))
    scene.decide(3, 1, scene.batch(1))


BREACHES: list[tuple[Callable[[Scene], None], str]] = [
    (two_digests_decided, "I1"),
    (gap_executed, "I2"),
    (undecided_executed, "I2"),
    (forged_request_decided, "I3"),
    (null_batch_in_view_zero, "I3"),
    (committed_unprepared, "I4"),
    (committed_unprepared_in_another_view, "I4"),
    (committed_batch_left_out, "I4"),
    (committed_after_it_was_left_out, "I4"),
    (executed_under_one_number, "I5"),
    (executed_at_two_places, "I5"),
    (two_results, "I5"),
    (two_prepares, "I6"),
    (two_commits, "I6"),
    (two_view_changes, "I6"),
    (two_new_views, "I6"),
    (new_view_against_pre_prepare, "I6"),
    (vote_forgotten, "I9"),
    (two_states, "I11"),
    (diverged, "I11"),
    (honest_accused, "I16"),
]


@pytest.mark.parametrize(("breach", "invariant"), BREACHES)
def test_each_breach_is_seen(breach: Callable[[Scene], None], invariant: str) -> None:
    with pytest.raises(Violation) as seen:
        breach(Scene())
    assert seen.value.invariant == invariant


def test_right_conduct_is_not_accused() -> None:
    scene = Scene()
    batch = scene.batch(1)
    for replica in range(4):
        scene.decide(replica, 1, batch)
        scene.execute(replica, 1)
        scene.say(replica, SIGNERS[replica].sign(Checkpoint(64, A)))
        scene.reply(replica, A, 1)
    scene.say(1, SIGNERS[1].sign(Prepare(0, 1, A)))
    scene.say(1, SIGNERS[1].sign(Prepare(0, 1, A)))
    scene.say(1, SIGNERS[1].sign(Prepare(1, 1, B)))
    # Another digest of the same number was refused, not executed.
    scene.reply(0, B, 1, Outcome.CONFLICT)
    assert scene.watch.decided == {1: (batch_digest(batch), 0)}


def test_view_changes_that_carry_the_committed_batch_are_right() -> None:
    scene = Scene()
    batch = scene.batch(1)
    digest = batch_digest(batch)
    scene.decide(0, 1, batch)
    proof = PreparedProof(
        SIGNERS[0].sign(PrePrepare(0, 1, digest)),
        tuple(SIGNERS[backup].sign(Prepare(0, 1, digest)) for backup in (1, 2)),
    )
    # Any q of the four hold one of the two that have the certificate.
    for replica in range(4):
        prepared = (proof,) if replica < 2 else ()
        change = ViewChange(1, replica, 0, 0, (), prepared)
        scene.say(replica, SIGNERS[replica].sign(change))


def test_a_byzantine_view_change_with_a_forged_certificate_does_not_count() -> None:
    scene = Scene()
    batch = scene.batch(1)
    scene.decide(0, 1, batch)
    proof = PreparedProof(SIGNERS[0].sign(PrePrepare(0, 1, A)), ())
    for replica in range(3):
        change = ViewChange(1, replica, 0, 0, (), (proof,))
        scene.watch.left_corrupt(Broadcast(SIGNERS[replica].sign(change)))


def test_a_byzantine_view_change_that_omits_counts() -> None:
    scene = Scene()
    scene.decide(0, 1, scene.batch(1))
    effects: list[Effect] = [
        Broadcast(SIGNERS[replica].sign(ViewChange(1, replica, 0, 0, (), ())))
        for replica in range(3)
    ]
    with pytest.raises(Violation, match="I4"):
        for effect in effects:
            scene.watch.left_corrupt(effect)


def test_what_was_decided_by_a_commit_that_never_left_may_be_left_out() -> None:
    scene = Scene()
    first, second, last = scene.decide_silently(2, 1, scene.batch(1))
    scene.say(0, first)
    scene.say(1, second)
    for replica in range(3):
        scene.say(replica, SIGNERS[replica].sign(ViewChange(1, replica, 0, 0, (), ())))
    with pytest.raises(Violation, match="I4"):
        scene.say(2, last)


def test_amnesia_on_a_blank_disk_is_no_fault() -> None:
    scene = Scene()
    scene.watch.began(1, 0, first=True, blank=True)
    vote_forgotten(scene)
    scene.watch.began(1, 0, first=False)
    with pytest.raises(Violation, match="I9"):
        vote_forgotten(scene)


def test_a_restart_and_a_new_view_are_counted_once() -> None:
    scene = Scene()
    scene.watch.began(2, 0, first=False)
    changes = tuple(SIGNERS[i].sign(ViewChange(1, i, 0, 64 * i, (), ())) for i in range(3))
    order = (
        SIGNERS[1].sign(PrePrepare(1, 129, NULL_DIGEST)),
        SIGNERS[1].sign(PrePrepare(1, 130, A)),
    )
    record = NewViewRecord(1, SIGNERS[1].sign(NewView(1, changes, order)))
    for replica in range(4):
        scene.watch.stepped(replica, [Persist(record)])
    counters = scene.counters
    assert (counters.restarts, counters.new_views, counters.new_views_nonempty_o) == (1, 1, 1)
    assert (counters.unequal_h, counters.null_slots) == (1, 1)
