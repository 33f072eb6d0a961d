"""The arguments for the thresholds, for every size of cluster that is allowed."""

import pytest

from pbft.quorum import MAX_REPLICAS, MIN_REPLICAS, Thresholds

SIZES = range(MIN_REPLICAS, MAX_REPLICAS + 1)


@pytest.mark.parametrize("n", SIZES)
def test_f_is_the_most_that_n_allows(n: int) -> None:
    f = Thresholds.of(n).faulty
    assert n > 3 * f
    assert n <= 3 * (f + 1)


@pytest.mark.parametrize("n", SIZES)
def test_two_quorums_share_an_honest_replica(n: int) -> None:
    thresholds = Thresholds.of(n)
    assert 2 * thresholds.quorum - n >= thresholds.faulty + 1


@pytest.mark.parametrize("n", SIZES)
def test_a_quorum_meets_the_honest_part_of_any_other(n: int) -> None:
    """The honest part of a quorum has at least q - f members."""
    thresholds = Thresholds.of(n)
    assert thresholds.quorum + (thresholds.quorum - thresholds.faulty) > n


@pytest.mark.parametrize("n", SIZES)
def test_the_honest_alone_form_a_quorum(n: int) -> None:
    thresholds = Thresholds.of(n)
    assert n - thresholds.faulty >= thresholds.quorum


@pytest.mark.parametrize("n", SIZES)
def test_the_quorum_is_no_larger_than_it_must_be(n: int) -> None:
    thresholds = Thresholds.of(n)
    assert 2 * (thresholds.quorum - 1) - n < thresholds.faulty + 1
    if n == 3 * thresholds.faulty + 1:
        assert thresholds.quorum == 2 * thresholds.faulty + 1


@pytest.mark.parametrize("n", SIZES)
def test_the_smaller_certificates(n: int) -> None:
    """f + 1 hold an honest one; q - 1 prepares and the pre-prepare are a quorum; q - 1 answers to
    a recall and the asker are one."""
    thresholds = Thresholds.of(n)
    assert thresholds.weak == thresholds.faulty + 1
    assert thresholds.prepares + 1 == thresholds.recalls + 1 == thresholds.quorum


@pytest.mark.parametrize("n", SIZES)
def test_the_primary_rotates_over_all(n: int) -> None:
    thresholds = Thresholds.of(n)
    assert [thresholds.primary_of(view) for view in range(n, 2 * n)] == list(range(n))


@pytest.mark.parametrize("n", [0, 1, 3, MAX_REPLICAS + 1])
def test_other_sizes_are_refused(n: int) -> None:
    with pytest.raises(ValueError, match="replicas"):
        Thresholds.of(n)
