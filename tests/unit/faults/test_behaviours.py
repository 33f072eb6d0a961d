"""Each behaviour alone: what it changes, that it signs only as itself, that it is determined."""

from collections.abc import Sequence
from random import Random

import pytest

from pbft.codec import (
    decode_batch,
    decode_message,
    decode_signed,
    encode_batch,
    encode_peer_item,
    encode_signed,
)
from pbft.core.effects import Answer, Broadcast, Effect, Event, EventName, Send
from pbft.crypto.digest import NULL_DIGEST, batch_digest, results_digest
from pbft.crypto.signing import FAKE, ClientSigner, ReplicaSigner, sign_bytes
from pbft.errors import ConfigurationError
from pbft.faults.api import Behaviour, Corruption
from pbft.faults.primary import Equivocate
from pbft.faults.registry import BEHAVIOURS, Several, make_behaviour
from pbft.faults.votes import Collude
from pbft.genesis import Genesis
from pbft.messages import (
    Authenticated,
    Batch,
    BatchBytes,
    Checkpoint,
    Commit,
    Kind,
    Leaf,
    NewView,
    Outcome,
    PeerItem,
    Prepare,
    PreparedProof,
    PrePrepare,
    Proposal,
    Replies,
    Reply,
    Request,
    Signed,
    StableCertificate,
    StateChunk,
    StateLeaves,
    StateRecord,
    Status,
    ViewChange,
    Vote,
)
from pbft.types import Instant

KEYS = [FAKE.key_pair(bytes([number]) * 32) for number in range(4)]
CLIENTS = [FAKE.key_pair(bytes([100 + number]) * 32) for number in range(2)]
GENESIS = Genesis.create(
    nonce=bytes(32),
    replicas=tuple(pair.public for pair in KEYS),
    clients=frozenset(pair.public for pair in CLIENTS),
)
NOW = Instant(1_000_000, 1_700_000_000_000_000)
SIGNERS = [
    ReplicaSigner(replica, pair, GENESIS.cluster_id, FAKE) for replica, pair in enumerate(KEYS)
]


def make(name: str, replica: int = 0, share: int = 100, seed: int = 7, **options: str) -> Behaviour:
    corruption = Corruption(replica, GENESIS, SIGNERS[replica], Random(seed), share)
    return make_behaviour(name, corruption, options)


def request_item(client: int, number: int) -> bytes:
    signer = ClientSigner(CLIENTS[client], GENESIS.cluster_id, FAKE)
    return encode_signed(signer.sign(Request(signer.client, 1, number, 0, 0, (b"x",))))


BODY = encode_batch(Batch(5, (request_item(0, 1), request_item(1, 1), request_item(0, 2))))
PROPOSAL = Proposal(SIGNERS[0].sign(PrePrepare(0, 3, batch_digest(BODY))), BODY)


def status(replica: int) -> Signed:
    told = Status(0, True, 0, 3, NOW.wall_us, False, False, 1, 2, 3, 0, ())
    return SIGNERS[replica].sign(told)


def proof() -> PreparedProof:
    prepares = tuple(SIGNERS[backup].sign(Prepare(0, 3, b"d" * 32)) for backup in (1, 2))
    return PreparedProof(SIGNERS[0].sign(PrePrepare(0, 3, b"d" * 32)), prepares)


def view_change(replica: int) -> Signed:
    return SIGNERS[replica].sign(ViewChange(1, replica, 0, 0, (), (proof(),)))


def new_view() -> Signed:
    changes = tuple(view_change(replica) for replica in (0, 1, 2))
    order = tuple(
        SIGNERS[1].sign(PrePrepare(1, sequence, digest))
        for sequence, digest in ((1, NULL_DIGEST), (2, NULL_DIGEST), (3, b"d" * 32))
    )
    return SIGNERS[1].sign(NewView(1, changes, order))


def answer() -> Answer:
    results = (b"true result",)
    digest = results_digest(Outcome.EXECUTED, 0, results)
    reply = Reply(1, 1, b"q" * 32, 3, 5, Outcome.EXECUTED, digest, results)
    client = CLIENTS[0].public
    return Answer(client, SIGNERS[0].sign(Replies(client, 0, (reply,))))


def said(effects: Sequence[Effect]) -> list[tuple[int, PeerItem]]:
    """Who is sent what."""
    told: list[tuple[int, PeerItem]] = []
    for effect in effects:
        if isinstance(effect, Send):
            told.append((effect.to, effect.item))
        elif isinstance(effect, Broadcast):
            told += [(to, effect.item) for to in range(1, 4)]
    return told


def envelopes(effects: Sequence[Effect]) -> list[Signed]:
    found: list[Signed] = []
    for effect in effects:
        if isinstance(effect, Answer):
            found.append(effect.replies)
    for _, item in said(effects):
        if isinstance(item, Signed):
            found.append(item)
        elif isinstance(item, Proposal):
            found.append(item.pre_prepare)
    return found


def votes(effects: Sequence[Effect]) -> list[tuple[int, Vote]]:
    found = []
    for to, item in said(effects):
        signed = item.pre_prepare if isinstance(item, Proposal) else item
        if isinstance(signed, Signed):
            message = decode_message(signed.kind, signed.payload)
            if isinstance(message, Vote):
                found.append((to, message))
    return found


OCCASIONS: dict[str, tuple[int, Effect]] = {
    "bad-signature": (0, Broadcast(PROPOSAL)),
    "censor": (0, Broadcast(PROPOSAL)),
    "conflicting-votes": (1, Broadcast(SIGNERS[1].sign(Prepare(0, 3, b"d" * 32)))),
    "delay": (0, Broadcast(PROPOSAL)),
    "drop": (0, Broadcast(PROPOSAL)),
    "equivocate": (0, Broadcast(PROPOSAL)),
    "forge-view-change": (2, Broadcast(view_change(2))),
    "lying-checkpoint": (0, Broadcast(SIGNERS[0].sign(Checkpoint(64, b"c" * 32)))),
    "lying-status": (0, Broadcast(status(0))),
    "omit-view-change": (2, Broadcast(view_change(2))),
    "poison-transfer": (0, Send(1, StateChunk(64, (StateRecord(2, b"k", 1, b"v"),), b""))),
    "replay": (0, Broadcast(PROPOSAL)),
    "silent": (0, Broadcast(PROPOSAL)),
    "skewed-proposal": (0, Broadcast(PROPOSAL)),
    "slow-primary": (0, Broadcast(PROPOSAL)),
    "stray-votes": (0, Broadcast(SIGNERS[0].sign(Commit(0, 3, b"d" * 32)))),
    "withhold-body": (0, Broadcast(PROPOSAL)),
    "wrong-digest": (0, Broadcast(PROPOSAL)),
    "wrong-new-view": (1, Broadcast(new_view())),
    "wrong-reply": (0, answer()),
}


def test_every_behaviour_of_the_registry_has_an_occasion_here() -> None:
    assert OCCASIONS.keys() == BEHAVIOURS.keys()


def commit_crime(name: str, seed: int = 7) -> tuple[Behaviour, list[Effect]]:
    replica, effect = OCCASIONS[name]
    behaviour = make(name, replica, seed=seed)
    effects = behaviour.rewrite([effect], NOW)
    if name == "replay":
        # It needs a past first.
        effects = behaviour.rewrite([effect], NOW)
    return behaviour, effects


@pytest.mark.parametrize("name", OCCASIONS)
def test_it_acts_on_its_occasion_and_counts_it(name: str) -> None:
    behaviour, effects = commit_crime(name)
    assert behaviour.acted > 0
    assert effects != [OCCASIONS[name][1]]
    assert behaviour.name == name


@pytest.mark.parametrize("name", OCCASIONS)
def test_it_leaves_alone_what_stays_within_the_replica(name: str) -> None:
    inner = Event(EventName.EXECUTED, 0, 1)
    assert make(name).rewrite([inner], NOW) == [inner]


@pytest.mark.parametrize("name", OCCASIONS)
@pytest.mark.parametrize("seed", range(8))
def test_what_it_signs_is_signed_as_itself_and_encodes(name: str, seed: int) -> None:
    replica, effect = OCCASIONS[name]
    _, effects = commit_crime(name, seed)
    relayed = envelopes([effect])
    for signed in envelopes(effects):
        if signed in relayed:
            continue
        assert signed.signer == replica
        data = sign_bytes(signed.kind, GENESIS.cluster_id, signed.payload)
        assert FAKE.verify(KEYS[replica].public, data, signed.signature)
    for _, item in said(effects):
        encode_peer_item(item)


@pytest.mark.parametrize("name", OCCASIONS)
def test_the_same_seed_commits_the_same_crime(name: str) -> None:
    assert commit_crime(name)[1] == commit_crime(name)[1]


@pytest.mark.parametrize("split", ["half", "weak", "one"])
def test_an_equivocator_tells_each_side_one_story_and_commits_to_it(split: str) -> None:
    effects = make("equivocate", split=split).rewrite([Broadcast(PROPOSAL)], NOW)
    stories: dict[int, set[bytes]] = {}
    for to, vote in votes(effects):
        stories.setdefault(to, set()).add(vote.digest)
    assert all(len(digests) == 1 for digests in stories.values())
    listeners = [to for to, digests in stories.items() if digests != {batch_digest(BODY)}]
    assert len(listeners) == 1
    bodies = {batch_digest(item.batch) for _, item in said(effects) if isinstance(item, Proposal)}
    assert len(bodies) == 2


def test_an_equivocator_repeats_the_same_story_when_it_heals() -> None:
    behaviour = make("equivocate", split="one")
    first = votes(behaviour.rewrite([Broadcast(PROPOSAL)], NOW))
    for to in range(1, 4):
        again = votes(behaviour.rewrite([Send(to, PROPOSAL)], NOW))
        assert again == [vote for vote in first if vote[0] == to]


def test_an_accomplice_votes_on_each_side_for_that_sides_batch() -> None:
    primary = Equivocate(Corruption(0, GENESIS, SIGNERS[0], Random(1)))
    proposals = votes(primary.rewrite([Broadcast(PROPOSAL)], NOW))
    accomplice = Collude(Corruption(1, GENESIS, SIGNERS[1], Random(1)), primary)
    cast = votes(accomplice.rewrite([], NOW))
    told = {to: vote.digest for to, vote in proposals if isinstance(vote, PrePrepare)}
    for to in (2, 3):
        mine = [vote for receiver, vote in cast if receiver == to]
        assert {type(vote) for vote in mine} == {Prepare, Commit}
        assert {vote.digest for vote in mine} == {told[to]}


def test_the_bad_signature_is_inside_a_batch_whose_digest_is_right() -> None:
    _, effects = commit_crime("bad-signature")
    (_, item), *_ = said(effects)
    assert isinstance(item, Proposal)
    vote = decode_message(Kind.PRE_PREPARE, item.pre_prepare.payload)
    assert isinstance(vote, PrePrepare) and vote.digest == batch_digest(item.batch)
    bad = 0
    for encoded in decode_batch(item.batch).items:
        signed = decode_signed(encoded)
        assert isinstance(signed.signer, bytes)
        data = sign_bytes(signed.kind, GENESIS.cluster_id, signed.payload)
        bad += not FAKE.verify(signed.signer, data, signed.signature)
    assert bad == 1


def test_the_censor_leaves_out_its_victim_only() -> None:
    victim = CLIENTS[1].public
    effects = make("censor", client=victim.hex()).rewrite([Broadcast(PROPOSAL)], NOW)
    for _, item in said(effects):
        assert isinstance(item, Proposal)
        signers = [decode_signed(encoded).signer for encoded in decode_batch(item.batch).items]
        assert victim not in signers and len(signers) == 2
    own = make("censor", client="00" * 32).rewrite([Broadcast(PROPOSAL)], NOW)
    assert own == [Broadcast(PROPOSAL)]


def test_withheld_bodies_do_not_reach_everybody() -> None:
    behaviour, effects = commit_crime("withhold-body")
    lacking = [to for to, item in said(effects) if isinstance(item, Signed)]
    assert lacking
    assert behaviour.rewrite([Send(1, BatchBytes(BODY))], NOW) == []


def test_a_delayed_word_leaves_when_it_is_due() -> None:
    behaviour = make("delay", ms="10")
    assert behaviour.rewrite([Broadcast(PROPOSAL)], NOW) == []
    due_us = behaviour.next_deadline_us()
    assert due_us is not None and NOW.monotonic_us < due_us <= NOW.monotonic_us + 10_000
    assert behaviour.rewrite([], NOW) == []
    assert behaviour.rewrite([], Instant(due_us, 0)) == [Broadcast(PROPOSAL)]
    assert behaviour.next_deadline_us() is None


def test_a_slow_primary_is_slow_with_proposals_only() -> None:
    behaviour = make("slow-primary")
    vote = Broadcast(SIGNERS[0].sign(Commit(0, 3, b"d" * 32)))
    assert behaviour.rewrite([vote, Broadcast(PROPOSAL)], NOW) == [vote]


def test_a_replayer_relays_what_others_signed() -> None:
    behaviour = make("replay")
    other = SIGNERS[2].sign(Prepare(0, 3, b"d" * 32))
    behaviour.observe(2, Authenticated(Prepare(0, 3, b"d" * 32), other), NOW)
    effects = behaviour.rewrite([Broadcast(PROPOSAL)], NOW)
    assert other in envelopes(effects)


def test_omitting_view_changes_stay_well_formed() -> None:
    for seed in range(10):
        _, effects = commit_crime("omit-view-change", seed)
        for signed in envelopes(effects):
            message = decode_message(signed.kind, signed.payload)
            assert isinstance(message, ViewChange)
            assert message.prepared == () and message.view == 1


def test_spoilt_leaves_differ_in_one_leaf() -> None:
    leaves = StateLeaves(StableCertificate(()), (Leaf(0, 0, b""),) * 8)
    behaviour = make("poison-transfer", seed=2)
    effects = behaviour.rewrite([Send(1, leaves)], NOW)
    ((_, item),) = said(effects)
    assert isinstance(item, StateLeaves)
    assert sum(one != other for one, other in zip(item.leaves, leaves.leaves, strict=True)) == 1


def test_a_share_of_the_opportunities_is_taken() -> None:
    behaviour = make("wrong-digest", share=30)
    for _ in range(200):
        behaviour.rewrite([Broadcast(PROPOSAL)], NOW)
    assert 30 < behaviour.acted < 90


def test_several_behaviours_rewrite_one_after_the_other() -> None:
    both = Several((make("wrong-digest"), make("silent")))
    assert both.rewrite([Broadcast(PROPOSAL)], NOW) == []
    assert both.acted == 2 and both.name == "wrong-digest+silent"
    assert both.next_deadline_us() is None


@pytest.mark.parametrize(
    ("name", "options", "hint"),
    [
        ("nonsense", {}, "known are"),
        ("silent", {"split": "half"}, "it takes none"),
        ("equivocate", {"split": "third"}, "half, weak, one"),
        ("delay", {"ms": "-1"}, "whole number"),
        ("delay", {"seconds": "1"}, "known: ms"),
        ("censor", {"client": "xyz"}, "hexadecimal"),
        ("censor", {"client": "00"}, "32 bytes"),
    ],
)
def test_what_is_unknown_is_refused_with_a_hint(
    name: str, options: dict[str, str], hint: str
) -> None:
    with pytest.raises(ConfigurationError, match=hint):
        make(name, **options)
