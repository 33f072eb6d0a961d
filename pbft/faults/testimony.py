"""Lies about what a replica has, knows and computed: checkpoints, status, state, replies."""

from collections.abc import Sequence
from dataclasses import replace

from pbft.codec import decode_message
from pbft.core.effects import Answer, Effect, Send
from pbft.core.settings import SECOND
from pbft.crypto.digest import results_digest
from pbft.faults.api import Rewriter, send_each
from pbft.faults.surgery import own_signed, random_digest
from pbft.messages import (
    Checkpoint,
    Kind,
    PeerItem,
    ReadReplies,
    ReadReply,
    Replies,
    Reply,
    SignedMessage,
    StateChunk,
    StateLeaves,
    StateRecord,
    Status,
)
from pbft.types import Instant, ReplicaId

HOUR_US = 3600 * SECOND


class LyingCheckpoint(Rewriter):
    """K1 to K3: vouches for states that are wrong, far ahead, or no checkpoint at all."""

    name = "lying-checkpoint"

    def on_item(
        self, item: PeerItem, recipients: tuple[ReplicaId, ...], now: Instant
    ) -> Sequence[Effect] | None:
        """The same lie to all, or another one to each."""
        signed = own_signed(item, self.corruption.replica, Kind.CHECKPOINT)
        if signed is None or not self.takes_opportunity():
            return None
        told = decode_message(signed.kind, signed.payload)
        assert isinstance(told, Checkpoint)
        if self.random.random() < 0.5:
            return send_each(self.corruption.signer.sign(self._lie(told)), recipients)
        return [Send(to, self.corruption.signer.sign(self._lie(told))) for to in recipients]

    def _lie(self, told: Checkpoint) -> Checkpoint:
        interval = self.corruption.genesis.constants.checkpoint_interval
        ahead = interval * self.random.randrange(1, 1000)
        sequence = self.random.choice(
            (told.sequence, told.sequence, told.sequence + ahead, told.sequence + 1, 2**63)
        )
        return Checkpoint(sequence, random_digest(self.random))


class LyingStatus(Rewriter):
    """Claims in its status to have everything, nothing, or what cannot be; always suspects."""

    name = "lying-status"

    def on_item(
        self, item: PeerItem, recipients: tuple[ReplicaId, ...], now: Instant
    ) -> Sequence[Effect] | None:
        """A different status for everybody."""
        signed = own_signed(item, self.corruption.replica, Kind.STATUS)
        if signed is None or not self.takes_opportunity():
            return None
        told = decode_message(signed.kind, signed.payload)
        assert isinstance(told, Status)
        return [Send(to, self.corruption.signer.sign(self._lie(told))) for to in recipients]

    def _lie(self, told: Status) -> Status:
        random = self.random
        window = self.corruption.genesis.constants.window
        lie = replace(
            told,
            suspects=random.random() < 0.7,
            primary_unreachable=random.random() < 0.7,
            clock_us=max(0, told.clock_us + random.choice((-HOUR_US, 0, HOUR_US))),
            prepared=random.getrandbits(window),
            committed=random.getrandbits(window),
            accepted=random.getrandbits(window),
        )
        choice = random.randrange(5)
        if choice == 0:
            return replace(lie, view=random.choice((0, told.view + 1, 2**63 - 1)))
        if choice == 1:
            return replace(lie, stable_sequence=0, executed=0)
        if choice == 2:
            ahead = random.choice((1, window, 2**60))
            return replace(
                lie, stable_sequence=told.stable_sequence + ahead, executed=told.executed + ahead
            )
        if choice == 3:
            return replace(lie, missing=tuple(random_digest(random) for _ in range(4)))
        return lie


class PoisonTransfer(Rewriter):
    """T1, T3: serves state with a flipped bit, leaves of nothing, or records nobody asked for."""

    name = "poison-transfer"

    def on_item(
        self, item: PeerItem, recipients: tuple[ReplicaId, ...], now: Instant
    ) -> Sequence[Effect] | None:
        """Spoils what it serves, or does not serve it."""
        if not isinstance(item, StateChunk | StateLeaves) or not self.takes_opportunity():
            return None
        if self.random.random() < 0.2:
            return ()
        spoilt = self._chunk(item) if isinstance(item, StateChunk) else self._leaves(item)
        return send_each(spoilt, recipients)

    def _chunk(self, chunk: StateChunk) -> StateChunk:
        choice = self.random.randrange(3)
        if choice == 0 or not chunk.records:
            extra = StateRecord(2, self.random.randbytes(8), 1, self.random.randbytes(16))
            return replace(chunk, records=(*chunk.records, extra))
        if choice == 1:
            return replace(chunk, records=chunk.records[1:])
        position = self.random.randrange(len(chunk.records))
        record = chunk.records[position]
        flipped = replace(record, value=bytes(byte ^ 1 for byte in record.value) or b"\x01")
        records = (*chunk.records[:position], flipped, *chunk.records[position + 1 :])
        return replace(chunk, records=records)

    def _leaves(self, leaves: StateLeaves) -> StateLeaves:
        # A leaf of an empty bucket could only become one that is no leaf at all.
        filled = [index for index, leaf in enumerate(leaves.leaves) if leaf.count > 0]
        position = self.random.choice(filled or range(len(leaves.leaves)))
        leaf = leaves.leaves[position]
        wrong = replace(leaf, count=leaf.count + 1, size=leaf.size + 10)
        spoilt = (*leaves.leaves[:position], wrong, *leaves.leaves[position + 1 :])
        return replace(leaves, leaves=spoilt)


class WrongReply(Rewriter):
    """Y1: answers clients wrongly, under its own true signature."""

    name = "wrong-reply"

    def on_answer(self, answer: Answer, now: Instant) -> Sequence[Effect] | None:
        """Every reply in the message gets wrong results, a wrong sequence or a wrong time."""
        signed = answer.replies
        if signed.signer != self.corruption.replica or not self.takes_opportunity():
            return None
        told = decode_message(signed.kind, signed.payload)
        wrong: SignedMessage
        if isinstance(told, Replies):
            wrong = replace(told, replies=tuple(map(self._wrong_reply, told.replies)))
        else:
            assert isinstance(told, ReadReplies)
            wrong = replace(told, replies=tuple(map(self._wrong_read, told.replies)))
        return [Answer(answer.client, self.corruption.signer.sign(wrong))]

    def _wrong_reply(self, reply: Reply) -> Reply:
        choice = self.random.randrange(4)
        if choice == 0:
            return replace(reply, sequence=reply.sequence + 1)
        if choice == 1:
            return replace(reply, agreed_time_us=reply.agreed_time_us + 1)
        results = self._wrong_results(reply.results)
        digest = results_digest(reply.outcome, reply.highest_session, results)
        if choice == 2:
            digest = random_digest(self.random)
        return replace(reply, results=results, results_digest=digest)

    def _wrong_read(self, reply: ReadReply) -> ReadReply:
        digest = random_digest(self.random)
        return replace(reply, results=self._wrong_results(reply.results), results_digest=digest)

    def _wrong_results(self, results: tuple[bytes, ...] | None) -> tuple[bytes, ...]:
        """As many results as there should be, empty ones: they decode, and say something else."""
        return (b"",) * len(results or (b"",))
