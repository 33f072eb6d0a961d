"""compute_new_view against a second implementation, written naively from the paper, and against
what it is for: a batch that committed anywhere is in every O."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from hypothesis import given, settings
from hypothesis import strategies as st

from pbft.core.certificates import CheckpointCertificate, PreparedCertificate, ValidViewChange
from pbft.core.new_view import compute_new_view
from pbft.crypto.digest import NULL_DIGEST
from pbft.messages import Kind, PreparedProof, Signed
from pbft.quorum import Thresholds
from pbft.types import Digest, ReplicaId, SequenceNumber, View

SOMETHING = Signed(Kind.PRE_PREPARE, 0, b"", bytes(64))
PROOF = PreparedProof(SOMETHING, ())
WINDOW = 6
VIEWS = 4


def digest_of(view: View, sequence: SequenceNumber, salt: int) -> Digest:
    """The one digest that could be prepared for (v, n) in a history: the salt draws it."""
    letter = salt >> (2 * (view * WINDOW + sequence) % 60) & 3
    return NULL_DIGEST if letter == 3 else bytes([letter]) * 32


@dataclass(frozen=True)
class Told:
    """A view-change as the paper writes it: n, and for each member of P (n, v, d)."""

    stable: SequenceNumber
    prepared: tuple[tuple[SequenceNumber, View, Digest], ...]


def reference(messages: Sequence[Told]) -> tuple[int, int, list[Digest]]:
    """Section 4.4, word by word."""
    # "The primary determines the sequence number min-s of the latest stable checkpoint in V"
    min_s = 0
    for message in messages:
        min_s = max(min_s, message.stable)
    # "and the highest sequence number max-s in a prepare message in V".
    max_s = min_s
    for message in messages:
        for n, _, _ in message.prepared:
            max_s = max(max_s, n)
    # "The primary creates a new pre-prepare message for view v + 1 for each sequence number n
    # between min-s and max-s."
    o = []
    for n in range(min_s + 1, max_s + 1):
        matching = [(v, d) for message in messages for m, v, d in message.prepared if m == n]
        if matching:
            # "d is the request digest in the pre-prepare message for sequence number n with the
            # highest view number in V".
            o.append(sorted(matching)[-1][1])
        else:
            # "d-null is the digest of a special null request".
            o.append(NULL_DIGEST)
    return min_s, max_s, o


def valid(told: Told, replica: ReplicaId = 0) -> ValidViewChange:
    """The same for the core."""
    return ValidViewChange(
        VIEWS,
        replica,
        CheckpointCertificate(told.stable, bytes(32), ()),
        tuple(PreparedCertificate(v, n, d, PROOF) for n, v, d in told.prepared),
        SOMETHING,
    )


@st.composite
def tellings(draw: st.DrawFn) -> list[Told]:
    """View-changes of replicas with unequal h and certificates of different views, such that no
    two certificates of one (v, n) differ."""
    salt = draw(st.integers(0, 2**60))
    told = []
    for _ in range(draw(st.integers(3, 6))):
        stable = draw(st.sampled_from([0, 2, 4]))
        prepared = draw(
            st.dictionaries(
                st.integers(stable + 1, stable + WINDOW), st.integers(0, VIEWS - 1), max_size=WINDOW
            )
        )
        told.append(
            Told(
                stable,
                tuple((n, v, digest_of(v, n, salt)) for n, v in sorted(prepared.items())),
            )
        )
    return told


@given(tellings())
@settings(max_examples=300, deadline=None)
def test_it_is_what_the_paper_says(told: list[Told]) -> None:
    plan = compute_new_view([valid(one) for one in told])
    assert (plan.min_sequence, plan.max_sequence, list(plan.digests)) == reference(told)


@given(tellings(), st.randoms())
@settings(max_examples=100, deadline=None)
def test_it_is_the_same_for_every_order(told: list[Told], random: object) -> None:
    shuffled = list(told)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    first, second = (compute_new_view([valid(one) for one in order]) for order in (told, shuffled))
    assert (first.min_sequence, first.digests) == (second.min_sequence, second.digests)


@dataclass(frozen=True)
class History:
    """n is committed with `digest` in `view`; what each replica says in its view-change."""

    thresholds: Thresholds
    sequence: SequenceNumber
    digest: Digest
    told: list[Told]


@st.composite
def histories(draw: st.DrawFn) -> History:
    """A commit at an honest replica means that q - f honest ones were prepared; from that view on
    nobody can be prepared for anything else. The f faulty ones tell whatever a valid certificate
    could say, or leave it out."""
    thresholds = Thresholds.of(draw(st.integers(4, 7)))
    replicas, faulty = thresholds.replicas, thresholds.faulty
    committed_in = draw(st.integers(0, VIEWS - 1))
    sequence = draw(st.integers(1, WINDOW))
    digest = draw(st.sampled_from([b"\0" * 32, b"\1" * 32, NULL_DIGEST]))
    other = draw(st.sampled_from([b"\7" * 32, NULL_DIGEST]))
    prepared_at = set(draw(st.permutations(range(faulty, replicas)))[: thresholds.quorum - faulty])
    told = []
    for replica in range(replicas):
        lowest = committed_in if replica in prepared_at else 0
        view = draw(st.integers(lowest, VIEWS - 1))
        tells = replica in prepared_at or draw(st.booleans())
        certificate = (sequence, view, digest if view >= committed_in else other)
        if replica in prepared_at and draw(st.booleans()):
            # It executed further and its checkpoint is stable.
            told.append(Told(draw(st.sampled_from([sequence, sequence + 2])), ()))
        else:
            told.append(Told(0, (certificate,) if tells else ()))
    return History(thresholds, sequence, digest, told)


@given(histories())
@settings(max_examples=300, deadline=None)
def test_every_quorum_keeps_what_committed(history: History) -> None:
    """I4, over all q-subsets of the view-changes."""
    changes = [valid(told, replica) for replica, told in enumerate(history.told)]
    for subset in combinations(changes, history.thresholds.quorum):
        plan = compute_new_view(subset)
        if plan.min_sequence >= history.sequence:
            continue
        kept = plan.digests[history.sequence - plan.min_sequence - 1 :][:1]
        assert kept == (history.digest,)


def test_a_smaller_quorum_would_lose_it() -> None:
    """The same check sees a lost batch when V is one too small."""
    told = [Told(0, ()), Told(0, ()), Told(0, ((1, 0, bytes(32)),)), Told(0, ((1, 0, bytes(32)),))]
    plans = [compute_new_view([valid(one) for one in pair]) for pair in combinations(told, 2)]
    assert any(plan.digests == () for plan in plans)
