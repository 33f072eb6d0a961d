"""A signed message as a replica sent it to this client: decoded once, verified only when it counts.

A signature check costs as much as everything else about a reply together, and one envelope carries
the replies to many requests; f + 1 of the n envelopes decide, so the rest need no check at all.
"""

from collections.abc import Callable

from pbft.codec import decode_message
from pbft.errors import Reason, Rejected
from pbft.messages import ReadReplies, Replies, Signed
from pbft.types import ClientKey, ReplicaId, View


class Envelope:
    """What `replica` sent. Nothing in it is verified until `is_authentic`."""

    __slots__ = ("_authentic", "_opener", "replica", "signed", "view")

    def __init__(
        self, opener: "EnvelopeOpener", replica: ReplicaId, signed: Signed, view: View
    ) -> None:
        self._opener = opener
        self._authentic: bool | None = None
        self.replica = replica
        self.signed = signed
        self.view = view
        """The view the replica says it is in."""

    def is_authentic(self) -> bool:
        """Whether `replica` really signed it. Checked at most once, however many replies it
        holds."""
        if self._authentic is None:
            self._authentic = self._opener.check(self)
        return self._authentic


class ReplyEnvelope(Envelope):
    """Replies to requests."""

    __slots__ = ("message",)

    def __init__(
        self, opener: "EnvelopeOpener", replica: ReplicaId, signed: Signed, message: Replies
    ) -> None:
        super().__init__(opener, replica, signed, message.view)
        self.message = message


class ReadEnvelope(Envelope):
    """Answers to reads."""

    __slots__ = ("message",)

    def __init__(
        self, opener: "EnvelopeOpener", replica: ReplicaId, signed: Signed, message: ReadReplies
    ) -> None:
        super().__init__(opener, replica, signed, message.view)
        self.message = message


class EnvelopeOpener:
    """Opens what replicas send to one client, and counts the signature checks."""

    def __init__(self, client: ClientKey, is_authentic: Callable[[Signed], bool]) -> None:
        """`is_authentic` checks that the signer is a replica of the cluster and signed the bytes
        (ReplicaVerifier.is_authentic)."""
        self._client = client
        self._is_authentic = is_authentic
        self.signature_checks = 0
        self.forgers: set[ReplicaId] = set()
        """Replicas whose stream carried a wrong signature; the owner drops the stream and clears
        this."""

    def open(self, replica: ReplicaId, signed: Signed) -> ReplyEnvelope | ReadEnvelope:
        """Decodes what came over the stream to `replica`.

        Raises Rejected: SENDER_MISMATCH if another replica signed it (a stream carries only its
        replica's own words) or if it is for another client; WRONG_DOMAIN if it is no answer;
        MALFORMED or OVERSIZE.
        """
        if signed.signer != replica:
            raise Rejected(Reason.SENDER_MISMATCH, f"replica {replica} sent another's message")
        message = decode_message(signed.kind, signed.payload)
        if not isinstance(message, Replies | ReadReplies):
            raise Rejected(Reason.WRONG_DOMAIN, f"{signed.kind.name} to a client")
        if message.client != self._client:
            raise Rejected(Reason.SENDER_MISMATCH, "answers for another client")
        if isinstance(message, Replies):
            return ReplyEnvelope(self, replica, signed, message)
        return ReadEnvelope(self, replica, signed, message)

    def check(self, envelope: Envelope) -> bool:
        """One signature check, counted."""
        self.signature_checks += 1
        if self._is_authentic(envelope.signed):
            return True
        self.forgers.add(envelope.replica)
        return False
