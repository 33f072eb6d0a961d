"""What a call can end with. Each error says whether the operation may still take effect.

Two kinds must never be confused (service.md section 5): a *definite* failure, after which the
operation has not taken effect and never will, and an *unknown* outcome, after which it may have, or
may later.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

from pbft.errors import PbftError, printable
from pbft.types import ReplicaId


@dataclass(frozen=True, slots=True)
class Answers:
    """Who answered a call that did not end well, and what was missing."""

    replicas: int
    """n"""
    needed: int
    """Matching answers of distinct replicas that the call needed."""
    answered: tuple[ReplicaId, ...] = ()
    """Replicas that answered at all, ascending."""
    matching: int = 0
    """The most answers that agreed with each other."""
    troubles: Mapping[ReplicaId, str] = field(default_factory=dict)
    """What is known about each replica that did not answer; may hold words of its own, which the
    text of the error shows without what a terminal would obey."""

    def __str__(self) -> str:
        parts = [
            f"{len(self.answered)} of {self.replicas} answered",
            f"{self.needed} matching needed",
        ]
        if len(self.answered) >= self.needed:
            parts.append(f"{self.matching} matched")
        for replica in range(self.replicas):
            if replica not in self.answered:
                trouble = self.troubles.get(replica, "did not answer")
                parts.append(f"replica {replica} {printable(trouble)}")
        return ", ".join(parts)


class ClientError(PbftError):
    """Base of every error a call ends with."""

    may_take_effect = False
    """Whether the operation may have taken effect, or may still."""


class DefiniteFailure(ClientError):
    """The operation has not taken effect and never will."""


class OutcomeUnknown(ClientError):
    """The operation may have taken effect, or may still: read before trying again."""

    may_take_effect = True

    def __init__(self, text: str, answers: Answers | None = None) -> None:
        super().__init__(f"{text} ({answers})" if answers else text)
        self.answers = answers


class TooFewAnswers(DefiniteFailure):
    """Not enough replicas gave matching answers in time, and nothing was changed by the call."""

    def __init__(self, text: str, answers: Answers) -> None:
        super().__init__(f"{text} ({answers})")
        self.answers = answers


class InvalidCall(DefiniteFailure):
    """The arguments can never be a valid operation; nothing was sent."""


class ClientClosed(DefiniteFailure):
    """The client was closed before the operation was sent."""


class ServiceError(DefiniteFailure):
    """The service decided against the operation; f + 1 replicas vouch for that answer."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        """gRPC status code, as etcd uses it."""
        self.message = message


class RequestRejected(DefiniteFailure):
    """The request was ordered, and f + 1 replicas say that it was not executed: expired, refused,
    or its number was used by another process with the same key."""


class ResultForgotten(ClientError):
    """The operation took effect, but its result is no longer kept by the replicas."""

    may_take_effect = True


class UnexpectedResult(ClientError):
    """f + 1 replicas vouch for a result that the key-value store never gives: the cluster runs
    another service. What it made of an operation that was to change something is unknown."""

    def __init__(self, text: str, *, changes: bool) -> None:
        super().__init__(text)
        self.may_take_effect = changes


@dataclass(frozen=True, slots=True)
class Cancellation:
    """First argument of the CancelledError out of a cancelled call."""

    may_take_effect: bool

    def __str__(self) -> str:
        if self.may_take_effect:
            return "the operation was sent already and may still take effect"
        return "the operation was not sent and will not take effect"


def may_take_effect(error: BaseException) -> bool:
    """Whether the operation of the call that ended with `error` may have taken effect, or may
    still.

    Works for every ClientError and for the CancelledError out of a cancelled call. For any other
    exception the answer is True, because nothing is known.
    """
    if isinstance(error, ClientError):
        return error.may_take_effect
    if isinstance(error, asyncio.CancelledError):
        for argument in error.args:
            if isinstance(argument, Cancellation):
                return argument.may_take_effect
    return True
