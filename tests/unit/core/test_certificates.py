"""Certificates cannot exist invalid: every clause broken once."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from pbft.core.certificates import (
    GENESIS_CHECKPOINT,
    checkpoint_certificate,
    commit_certificate,
    verify_checkpoints,
    verify_prepared,
    verify_view_change,
)
from pbft.errors import Reason, Rejected
from pbft.messages import (
    Authenticated,
    Checkpoint,
    Commit,
    Kind,
    PreparedProof,
    Signed,
    ViewChange,
)
from tests.harness.core_forge import INTERVAL, WINDOW, Forge, forge

A, B = b"a" * 32, b"b" * 32
SIZES = [4, 5, 6, 7]


def torn(signed: Signed) -> Signed:
    """The same with a wrong signature."""
    return replace(signed, signature=bytes(64))


def refused(call: Callable[[], object]) -> Reason:
    """The reason of the Rejected that the call raises."""
    with pytest.raises(Rejected) as refusal:
        call()
    return refusal.value.reason


def with_prepares(proof: PreparedProof, *prepares: Signed) -> PreparedProof:
    """The proof with other prepares at its end."""
    kept = len(proof.prepares) - len(prepares)
    return PreparedProof(proof.pre_prepare, (*proof.prepares[:kept], *prepares))


BROKEN_PROOFS: dict[str, Callable[[Forge, PreparedProof], PreparedProof]] = {
    "one prepare too few": lambda f, p: PreparedProof(p.pre_prepare, p.prepares[:-1]),
    "one prepare too many": lambda f, p: PreparedProof(
        p.pre_prepare, (*p.prepares, f.prepare(f.backups(5)[-1], 3, A, 5))
    ),
    "none": lambda f, p: PreparedProof(p.pre_prepare, ()),
    "a signer twice": lambda f, p: with_prepares(p, p.prepares[0]),
    "the primary as preparer": lambda f, p: with_prepares(p, f.prepare(f.primary(5), 3, A, 5)),
    "a prepare of another view": lambda f, p: with_prepares(
        p, f.prepare(f.backups(5)[-1], 3, A, 6)
    ),
    "a prepare of another sequence": lambda f, p: with_prepares(
        p, f.prepare(f.backups(5)[-1], 4, A, 5)
    ),
    "a prepare of another digest": lambda f, p: with_prepares(
        p, f.prepare(f.backups(5)[-1], 3, B, 5)
    ),
    "a prepare with a bad signature": lambda f, p: with_prepares(p, torn(p.prepares[-1])),
    "a commit as prepare": lambda f, p: with_prepares(p, f.commit(f.backups(5)[-1], 3, A, 5)),
    "a pre-prepare with a bad signature": lambda f, p: replace(p, pre_prepare=torn(p.pre_prepare)),
    "a pre-prepare of a backup": lambda f, p: replace(
        p, pre_prepare=f.pre_prepare(3, A, 5, signer=f.backups(5)[-1])
    ),
    "a pre-prepare of another digest": lambda f, p: replace(p, pre_prepare=f.pre_prepare(3, B, 5)),
    "a prepare as pre-prepare": lambda f, p: replace(
        p, pre_prepare=f.prepare(f.primary(5), 3, A, 5)
    ),
    "a member that the genesis lacks": lambda f, p: with_prepares(
        p, replace(p.prepares[-1], signer=30)
    ),
}


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("name", BROKEN_PROOFS)
def test_prepared_certificate(n: int, name: str) -> None:
    maker = forge(n)
    proof = maker.proof(3, A, view=5)
    certificate = verify_prepared(proof, maker.genesis, maker.verifier)
    assert (certificate.view, certificate.sequence, certificate.digest) == (5, 3, A)
    broken = BROKEN_PROOFS[name](maker, proof)
    assert broken != proof
    verify = lambda: verify_prepared(broken, maker.genesis, maker.verifier)  # noqa: E731
    assert refused(verify) is Reason.BAD_CERTIFICATE


def authenticated(maker: Forge, *signed: Signed) -> list[Authenticated]:  # type: ignore[type-arg]
    """Votes whose signatures were checked."""
    return [Authenticated(maker.verifier.decode(one), one) for one in signed]


@pytest.mark.parametrize("n", SIZES)
def test_commit_certificate(n: int) -> None:
    maker = forge(n)
    quorum = maker.thresholds.quorum
    votes = authenticated(maker, *(maker.commit(i, 3, A, 5) for i in maker.quorum()))
    certificate = commit_certificate(votes, maker.genesis)
    assert (certificate.view, certificate.sequence, certificate.digest) == (5, 3, A)
    assert len(certificate.commits) == quorum
    for last in (
        [],
        [maker.commit(0, 3, A, 5)],
        [maker.commit(quorum - 1, 3, B, 5)],
        [maker.commit(quorum - 1, 4, A, 5)],
        [maker.commit(quorum - 1, 3, A, 6)],
    ):
        broken = [*votes[:-1], *authenticated(maker, *last)]
        why = refused(lambda broken=broken: commit_certificate(broken, maker.genesis))
        assert why is Reason.BAD_CERTIFICATE
    assert isinstance(votes[0].message, Commit)


@pytest.mark.parametrize("n", SIZES)
def test_checkpoint_certificate(n: int) -> None:
    maker = forge(n)
    last = maker.thresholds.quorum - 1
    votes = authenticated(maker, *maker.checkpoints(INTERVAL, A))
    certificate = checkpoint_certificate(votes, maker.genesis)
    assert (certificate.sequence, certificate.digest) == (INTERVAL, A)
    for replacement in (
        [],
        [maker.checkpoint(0, INTERVAL, A)],
        [maker.checkpoint(last, INTERVAL, B)],
        [maker.checkpoint(last, 2 * INTERVAL, A)],
    ):
        broken = [*votes[:-1], *authenticated(maker, *replacement)]
        why = refused(lambda broken=broken: checkpoint_certificate(broken, maker.genesis))
        assert why is Reason.BAD_CERTIFICATE
    off = authenticated(maker, *maker.checkpoints(INTERVAL + 1, A))
    assert refused(lambda: checkpoint_certificate(off, maker.genesis)) is Reason.BAD_CERTIFICATE
    assert isinstance(votes[0].message, Checkpoint)


@pytest.mark.parametrize("n", SIZES)
def test_more_votes_than_a_quorum_are_cut_to_one(n: int) -> None:
    """A certificate has exactly q votes, so its size is bounded by construction."""
    maker = forge(n)
    everybody = range(n)
    commits = authenticated(maker, *(maker.commit(i, 3, A) for i in everybody))
    assert len(commit_certificate(commits, maker.genesis).commits) == maker.thresholds.quorum
    votes = authenticated(maker, *maker.checkpoints(INTERVAL, A, everybody))
    certificate = checkpoint_certificate(votes, maker.genesis)
    assert len(certificate.checkpoints) == maker.thresholds.quorum


@pytest.mark.parametrize("n", SIZES)
def test_the_proof_of_a_checkpoint(n: int) -> None:
    maker = forge(n)

    def verify(sequence: int, *votes: Signed) -> object:
        return verify_checkpoints(sequence, votes, maker.genesis, maker.verifier)

    good = maker.checkpoints(INTERVAL, A)
    assert verify(0) == GENESIS_CHECKPOINT
    verify(INTERVAL, *good)
    for sequence, votes in (
        (0, good),
        (INTERVAL, good[:-1]),
        (INTERVAL, (*good[:-1], good[0])),
        (INTERVAL, (*good[:-1], torn(good[-1]))),
        (INTERVAL, (*good[:-1], maker.commit(n - 1, INTERVAL, A))),
        (2 * INTERVAL, good),
        (INTERVAL, ()),
    ):
        assert refused(lambda s=sequence, v=votes: verify(s, *v)) is Reason.BAD_CERTIFICATE


def change_of(maker: Forge, **changes: object) -> ViewChange:
    """A good view-change for view 6, or what `changes` make of it."""
    values: dict[str, object] = {
        "view": 6,
        "replica": 0,
        "incarnation": 0,
        "stable_sequence": INTERVAL,
        "checkpoints": maker.checkpoints(INTERVAL, A),
        "prepared": (maker.proof(5, A, 5), maker.proof(6, B, 2)),
    }
    return ViewChange(**(values | changes))  # type: ignore[arg-type]


BROKEN_CHANGES: dict[str, Callable[[Forge], dict[str, object]]] = {
    "no proof of h": lambda f: {"checkpoints": ()},
    "the proof of another h": lambda f: {"stable_sequence": 2 * INTERVAL, "prepared": ()},
    "a certificate at h": lambda f: {"prepared": (f.proof(INTERVAL, A, 5),)},
    "a certificate above H": lambda f: {"prepared": (f.proof(INTERVAL + WINDOW + 1, A, 5),)},
    "a certificate of the view moved to": lambda f: {"prepared": (f.proof(5, A, 6),)},
    "a certificate of a later view": lambda f: {"prepared": (f.proof(5, A, 9),)},
    "a sequence twice": lambda f: {"prepared": (f.proof(5, A, 5), f.proof(5, A, 4))},
    "not by ascending sequence": lambda f: {"prepared": (f.proof(6, A, 5), f.proof(5, A, 5))},
    "one bad certificate among good ones": lambda f: {
        "prepared": (f.proof(5, A, 5), replace(f.proof(6, A, 5), prepares=()))
    },
    "more than the window": lambda f: {
        "prepared": tuple(f.proof(5 + k, A, 5) for k in range(WINDOW + 1))
    },
}


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("name", BROKEN_CHANGES)
def test_view_change(n: int, name: str) -> None:
    maker = forge(n)

    def verify(message: ViewChange) -> object:
        signed = maker.sign(0, message)
        return verify_view_change(message, signed, maker.genesis, maker.verifier)

    verify(change_of(maker))
    broken = change_of(maker, **BROKEN_CHANGES[name](maker))
    assert refused(lambda: verify(broken)) is Reason.BAD_VIEW_CHANGE


def test_a_certificate_at_the_high_water_mark_is_valid() -> None:
    maker = forge(4)
    message = change_of(maker, prepared=(maker.proof(INTERVAL + WINDOW, A, 5),))
    signed = maker.sign(0, message)
    valid = verify_view_change(message, signed, maker.genesis, maker.verifier)
    assert [certificate.sequence for certificate in valid.prepared] == [INTERVAL + WINDOW]
    assert signed.kind is Kind.VIEW_CHANGE
