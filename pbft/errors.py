"""Named reasons for every rejection, and the exceptions of the vocabulary floor.

A reason is also the metric label of `pbft_rejected_total{message,reason,peer}`: the set is fixed.
"""

from enum import Enum


class Reason(Enum):
    """Why a message was not accepted (design: adversary.md section 2)."""

    MALFORMED = "malformed"
    OVERSIZE = "oversize"
    BAD_SIGNATURE = "bad_signature"
    WRONG_DOMAIN = "wrong_domain"
    UNKNOWN_SENDER = "unknown_sender"
    SENDER_MISMATCH = "sender_mismatch"
    NOT_PRIMARY = "not_primary"
    VIEW_STALE = "view_stale"
    VIEW_FUTURE = "view_future"
    SEQUENCE_LOW = "sequence_low"
    SEQUENCE_HIGH = "sequence_high"
    DIGEST_CONFLICT = "digest_conflict"
    BAD_BODY = "bad_body"
    DUPLICATE = "duplicate"
    BAD_CERTIFICATE = "bad_certificate"
    BAD_VIEW_CHANGE = "bad_view_change"
    BAD_NEW_VIEW = "bad_new_view"
    BAD_CHECKPOINT = "bad_checkpoint"
    BAD_SNAPSHOT = "bad_snapshot"
    CLIENT_UNAUTHORIZED = "client_unauthorized"
    RATE_LIMIT = "rate_limit"
    TOO_MANY_STREAMS = "too_many_streams"
    QUEUE_FULL = "queue_full"
    NOT_NORMAL = "not_normal"
    SETTLED = "settled"
    UNWANTED = "unwanted"


class PbftError(Exception):
    """Base of every error that this package raises on purpose."""


class Rejected(PbftError):
    """Input from outside was not accepted. Carries the reason; never escapes the node's receive
    path."""

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(f"{reason.value}: {detail}" if detail else reason.value)
        self.reason = reason
        self.detail = detail


class ConfigurationError(PbftError):
    """A file, flag or directory is not usable; the text says which and what to do."""


def printable(text: str) -> str:
    """The text without what a terminal would obey (control characters, ends of lines): for words
    of somebody else that go into an error or onto a screen."""
    return "".join(character for character in text if character.isprintable())
