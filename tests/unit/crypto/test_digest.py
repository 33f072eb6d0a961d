"""Digests: one domain each, lists unambiguous, fixed values."""

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from pbft.crypto.digest import (
    NULL_DIGEST,
    batch_digest,
    behind_lengths,
    query_digest,
    request_digest,
    results_digest,
)
from pbft.messages import Outcome

lists = st.lists(st.binary(max_size=9), max_size=4)


def test_the_construction_is_a_tagged_length_prefixed_sha_256() -> None:
    def expected(name: bytes, rest: bytes) -> bytes:
        return hashlib.sha256(bytes((len(name),)) + name + rest).digest()

    three = (3).to_bytes(8, "big") + b"abc"
    assert batch_digest(b"abc") == expected(b"pbft/1/batch", three)
    assert request_digest(b"abc") == expected(b"pbft/1/request", three)
    assert query_digest([b"abc"]) == expected(b"pbft/1/queries", three)
    head = b"\x00\x01" + (9).to_bytes(8, "big")
    results = results_digest(Outcome.EXECUTED, 9, [b"abc"])
    assert results == expected(b"pbft/1/results", head + three)
    assert expected(b"pbft/1/null", b"") == NULL_DIGEST


@given(st.binary(max_size=80))
def test_the_same_bytes_in_another_domain_are_another_digest(data: bytes) -> None:
    digests = {
        NULL_DIGEST,
        batch_digest(data),
        request_digest(data),
        query_digest([data]),
        results_digest(Outcome.EXECUTED, 0, [data]),
    }
    assert len(digests) == 5


@given(lists, lists)
def test_two_lists_share_a_digest_only_if_they_are_equal(
    first: list[bytes], second: list[bytes]
) -> None:
    assert (query_digest(first) == query_digest(second)) is (first == second)
    ours, theirs = (results_digest(Outcome.EXECUTED, 0, it) for it in (first, second))
    assert (ours == theirs) is (first == second)


def test_results_cover_outcome_and_highest_session() -> None:
    digests = {
        results_digest(outcome, session, [])
        for outcome in (Outcome.EXECUTED, Outcome.EXPIRED)
        for session in (0, 1)
    }
    assert len(digests) == 4


def test_moving_a_boundary_changes_the_digest() -> None:
    assert query_digest([b"ab", b"c"]) != query_digest([b"a", b"bc"])
    assert query_digest([b"", b"ab"]) != query_digest([b"ab"])


@given(st.lists(st.one_of(st.binary(max_size=3), st.binary(min_size=2, max_size=2)), max_size=5))
def test_lists_behind_their_lengths_are_what_they_say(parts: list[bytes]) -> None:
    expected = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
    assert behind_lengths(parts, 4) == expected
