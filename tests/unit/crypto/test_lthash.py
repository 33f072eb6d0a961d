"""The homomorphic hash and the Merkle tree, against computations from scratch."""

import hashlib
import struct
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pbft.crypto import lthash
from pbft.messages import Leaf

MODULUS = 2**4096
records = st.tuples(
    st.integers(0, 255), st.binary(max_size=8), st.integers(0, 2**64 - 1), st.binary(max_size=8)
)


@given(records, records)
def test_records_share_a_hash_only_if_they_are_equal(
    first: tuple[int, bytes, int, bytes], second: tuple[int, bytes, int, bytes]
) -> None:
    assert (lthash.record_hash(*first) == lthash.record_hash(*second)) is (first == second)


def test_the_hash_of_a_record_by_its_definition() -> None:
    encoding = b"pbft/1/record" + bytes((2,)) + (7).to_bytes(8, "big")
    encoding += (3).to_bytes(4, "big") + (1).to_bytes(4, "big") + b"key" + b"v"
    expected = int.from_bytes(hashlib.shake_128(encoding).digest(512), "little")
    assert lthash.record_hash(2, b"key", 7, b"v") == expected


def test_moving_a_boundary_changes_the_hash() -> None:
    assert lthash.record_hash(1, b"ab", 1, b"c") != lthash.record_hash(1, b"a", 1, b"bc")


@pytest.mark.parametrize(("domain", "version"), [(256, 1), (-1, 1), (1, -1), (1, 2**64)])
def test_what_does_not_fit_the_encoding(domain: int, version: int) -> None:
    with pytest.raises(struct.error):
        lthash.record_hash(domain, b"k", version, b"v")


@given(st.lists(records, max_size=6), st.randoms(use_true_random=False))
def test_the_sum_forgets_the_order_and_what_was_removed(batch: list, random: object) -> None:
    hashes = [lthash.record_hash(*record) for record in batch]
    total = 0
    for record in hashes:
        total = lthash.add(total, record)
    assert total == sum(hashes) % MODULUS
    random.shuffle(hashes)  # type: ignore[attr-defined]
    for record in hashes:
        total = lthash.subtract(total, record)
    assert total == 0


def test_sums_wrap_in_both_directions() -> None:
    assert lthash.subtract(0, 1) == MODULUS - 1
    assert lthash.add(MODULUS - 1, 1) == 0
    assert lthash.sum_to_bytes(MODULUS - 1, 1) == b"\xff" * 512


@given(st.integers(0, MODULUS - 1))
def test_a_sum_survives_its_bytes(total: int) -> None:
    assert lthash.sum_from_bytes(lthash.sum_to_bytes(total, 1)) == total
    assert lthash.sum_to_bytes(0, 0) == b""
    assert lthash.reduced(total - MODULUS) == lthash.reduced(total + MODULUS) == total
    assert lthash.sum_from_bytes(b"") == 0


def test_buckets_use_the_salt_the_domain_and_the_key() -> None:
    keys = [b"key %d" % index for index in range(20_000)]
    counts = Counter(lthash.bucket_of(2, key, 99, 64) for key in keys)
    assert set(counts) == set(range(64))
    assert max(counts.values()) < 3 * len(keys) // 64

    def moved(domain: int, salt: int) -> int:
        return sum(
            lthash.bucket_of(2, key, 99, 64) != lthash.bucket_of(domain, key, salt, 64)
            for key in keys
        )

    assert moved(2, 99) == 0
    assert moved(3, 99) > len(keys) // 2
    assert moved(2, 98) > len(keys) // 2
    assert lthash.bucket_of(2, b"key", 99, 1) == 0


def test_a_leaf_covers_all_of_its_parts() -> None:
    three, four = bytes(511) + b"\x03", bytes(511) + b"\x04"
    leaves = [
        (0, Leaf(1, 2, three)),
        (1, Leaf(1, 2, three)),
        (0, Leaf(2, 2, three)),
        (0, Leaf(1, 3, three)),
        (0, Leaf(1, 2, four)),
        (0, Leaf(0, 0, b"")),
    ]
    assert len({lthash.leaf_hash(*leaf) for leaf in leaves}) == len(leaves)


def root_from_scratch(leaves: list[bytes]) -> bytes:
    level = list(leaves)
    while len(level) > 1:
        level = [
            hashlib.sha256(b"pbft/1/node" + level[i] + level[i + 1]).digest()
            for i in range(0, len(level), 2)
        ]
    return level[0]


@given(
    st.integers(0, 5).flatmap(
        lambda depth: st.tuples(
            st.lists(st.binary(min_size=32, max_size=32), min_size=2**depth, max_size=2**depth),
            st.lists(
                st.tuples(
                    st.integers(0, 2**depth - 1),
                    st.binary(min_size=32, max_size=32),
                    st.booleans(),
                ),
                max_size=9,
            ),
        )
    )
)
def test_the_tree_equals_one_from_scratch(case: tuple[list[bytes], list]) -> None:
    leaves, updates = case
    tree = lthash.MerkleTree(leaves)
    assert tree.root() == root_from_scratch(leaves)
    for index, leaf, look in updates:
        leaves[index] = leaf
        tree.update(index, leaf)
        if look:
            assert tree.root() == root_from_scratch(leaves)
    assert tree.root() == root_from_scratch(leaves)
    assert tree.root() == tree.root()


def test_an_update_hashes_one_path_only(monkeypatch: pytest.MonkeyPatch) -> None:
    tree = lthash.MerkleTree([bytes(32)] * 1024)
    tree.root()
    hashed = []

    def counting(data: bytes) -> object:
        hashed.append(data)
        return hashlib.sha256(data)

    monkeypatch.setattr(lthash, "_sha256", counting)
    tree.update(7, b"x" * 32)
    tree.root()
    assert len(hashed) == 10
    tree.root()
    assert len(hashed) == 10


@pytest.mark.parametrize("count", [0, 3, 6])
def test_a_tree_has_a_power_of_two_of_leaves(count: int) -> None:
    with pytest.raises(ValueError, match="power of two"):
        lthash.MerkleTree([bytes(32)] * count)


@pytest.mark.parametrize("index", [-1, 4])
def test_an_update_outside_the_tree(index: int) -> None:
    with pytest.raises(IndexError):
        lthash.MerkleTree([bytes(32)] * 4).update(index, bytes(32))
