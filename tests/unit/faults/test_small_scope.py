"""Messages next to the truth: well formed, signed by who says them, and determined."""

from collections import Counter

from pbft.codec import decode_message, decode_peer_item, encode_peer_item
from pbft.core.effects import Answer, Broadcast, Effect, Send
from pbft.messages import (
    Authenticated,
    Checkpoint,
    Commit,
    Kind,
    PeerItem,
    Prepare,
    PreparedProof,
    Proposal,
    Replies,
    Signed,
    StableCertificate,
    StateRequest,
    Status,
    ViewChange,
)
from tests.unit.faults.test_behaviours import NOW, PROPOSAL, SIGNERS, make

DIGEST = b"d" * 32
PREPARES = tuple(SIGNERS[number].sign(Prepare(0, 3, DIGEST)) for number in (1, 2))
ITEMS: tuple[PeerItem, ...] = (
    PROPOSAL,
    SIGNERS[0].sign(Commit(0, 3, DIGEST)),
    SIGNERS[0].sign(Checkpoint(64, DIGEST)),
    SIGNERS[0].sign(ViewChange(2, 0, 0, 0, (), (PreparedProof(PROPOSAL.pre_prepare, PREPARES),))),
    SIGNERS[0].sign(Status(1, True, 64, 70, 5, False, False, 3, 3, 3, 0, ())),
    StableCertificate(tuple(signer.sign(Checkpoint(64, DIGEST)) for signer in SIGNERS[:3])),
    StateRequest(64, 64, b"\xff", b"cursor", 1),
)


def told(rounds: int, seed: int = 7) -> list[Effect]:
    """What replica 0 says in place of all of them, again and again."""
    behaviour = make("small-scope", seed=seed)
    commit = Commit(0, 3, b"e" * 32)
    behaviour.observe(1, Authenticated(commit, SIGNERS[1].sign(commit)), NOW)
    return [
        effect
        for _ in range(rounds)
        for item in ITEMS
        for effect in behaviour.rewrite([Broadcast(item)], NOW)
    ]


def test_what_it_says_is_well_formed_and_signed_by_who_says_it() -> None:
    for effect in told(60):
        assert isinstance(effect, Broadcast | Send)
        item = decode_peer_item(encode_peer_item(effect.item))
        assert item == effect.item
        statement = item.pre_prepare if isinstance(item, Proposal) else item
        if isinstance(statement, Signed):
            message = decode_message(statement.kind, statement.payload)
            assert isinstance(statement.signer, int)
            assert SIGNERS[statement.signer].sign(message) == statement, "nobody's words are forged"


def test_every_sort_is_told_truly_and_otherwise_at_different_times() -> None:
    true: Counter[type] = Counter()
    other: Counter[type] = Counter()
    kinds: Counter[Kind] = Counter()
    for effect in told(60):
        assert isinstance(effect, Broadcast | Send)
        is_true = effect.item in ITEMS
        (true if is_true else other)[type(effect.item)] += 1
        if isinstance(effect.item, Signed) and not is_true:
            kinds[effect.item.kind] += 1
    sorts = {type(item) for item in ITEMS}
    assert sorts <= true.keys() and sorts <= other.keys()
    assert {Kind.COMMIT, Kind.CHECKPOINT, Kind.VIEW_CHANGE, Kind.STATUS} <= kinds.keys()


def test_the_same_seed_says_the_same() -> None:
    assert told(10) == told(10)
    assert told(10) != told(10, seed=8)


def test_answers_are_changed_and_signed_again() -> None:
    behaviour = make("small-scope")
    truth = SIGNERS[0].sign(Replies(b"c" * 32, 0, ()))
    answers = [
        effect
        for _ in range(200)
        for effect in behaviour.rewrite([Answer(b"c" * 32, truth)], NOW)
        if isinstance(effect, Answer)
    ]
    assert len(answers) == 200
    changed = [answer.replies for answer in answers if answer.replies != truth]
    assert changed and all(
        SIGNERS[0].sign(decode_message(it.kind, it.payload)) == it
        for it in changed
        if it.signer == 0 and it.kind is truth.kind
    )
