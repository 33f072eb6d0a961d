"""The largest statements of honest replicas are within the bounds, and what is beyond is unread."""

from dataclasses import replace

import pytest

from pbft.codec import encode_message
from pbft.crypto.signing import FAKE
from pbft.crypto.sizes import payload_bytes_max
from pbft.crypto.verifier import Verifier
from pbft.errors import Reason, Rejected
from pbft.genesis import Genesis
from pbft.messages import (
    Checkpoint,
    Commit,
    Kind,
    NewView,
    Prepare,
    PreparedProof,
    PrePrepare,
    Recalled,
    Signed,
    ViewChange,
)
from pbft.quorum import Thresholds
from pbft.types import UINT64_MAX

DIGEST = bytes([255]) * 32
HIGH = UINT64_MAX


def genesis_of(replicas: int) -> Genesis:
    keys = tuple(bytes((number + 1,)) * 32 for number in range(replicas))
    return Genesis(replicas=keys, clients=frozenset({bytes(32)}), nonce=bytes(32))


def signed(message: object, signer: int) -> Signed:
    kinds = {PrePrepare: Kind.PRE_PREPARE, Prepare: Kind.PREPARE, Commit: Kind.COMMIT}
    kind = kinds.get(type(message), Kind.CHECKPOINT)  # type: ignore[arg-type]
    return Signed(kind, signer, encode_message(message), bytes(64))  # type: ignore[arg-type]


@pytest.mark.parametrize("replicas", [4, 7, 31])
def test_the_largest_certificates_fit(replicas: int) -> None:
    genesis, last = genesis_of(replicas), replicas - 1
    quorum = Thresholds.of(replicas).quorum
    sizes, slots = payload_bytes_max(genesis), genesis.constants.window
    pre_prepare = signed(PrePrepare(HIGH, HIGH, DIGEST), last)
    prepares = (signed(Prepare(HIGH, HIGH, DIGEST), last),) * (quorum - 1)
    checkpoints = (signed(Checkpoint(HIGH, DIGEST), last),) * replicas
    proofs = (PreparedProof(pre_prepare, prepares),) * slots
    change = encode_message(ViewChange(HIGH, last, HIGH, HIGH, checkpoints, proofs))
    assert len(change) <= sizes[Kind.VIEW_CHANGE]
    changes = (Signed(Kind.VIEW_CHANGE, last, change, bytes(64)),) * quorum
    new_view = encode_message(NewView(HIGH, changes, (pre_prepare,) * slots))
    assert len(new_view) <= sizes[Kind.NEW_VIEW]
    votes = (pre_prepare,) * 12 * slots
    recalled = Recalled(last, bytes(32), HIGH, HIGH, checkpoints, changes[0], votes)
    assert len(encode_message(recalled)) <= sizes[Kind.RECALLED]


def test_what_is_larger_is_refused_unread() -> None:
    genesis = genesis_of(4)
    verifier = Verifier(genesis, FAKE)
    for kind, size in payload_bytes_max(genesis).items():
        huge = Signed(kind, 1, b"\xff" * (size + 1), bytes(64))
        with pytest.raises(Rejected) as caught:
            verifier.decode(huge)
        assert caught.value.reason is Reason.OVERSIZE
        with pytest.raises(Rejected) as caught:
            verifier.decode(replace(huge, payload=b"\xff" * size))
        assert caught.value.reason is Reason.MALFORMED
