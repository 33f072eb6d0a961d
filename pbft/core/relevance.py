"""Cheap checks before signatures: whether a decoded, unauthenticated message could matter now.

Pure: it reads the state and changes nothing. The handlers check again, because what is cheap to
check is cheap to check twice, and because they must not rely on their caller.
"""

from typing import TypeAlias

from pbft.codec import decode_message
from pbft.core import (
    checkpoint,
    normal_case,
    request,
    state_source,
    state_transfer,
    status,
    view_change,
)
from pbft.core.state import Core
from pbft.crypto.digest import batch_digest
from pbft.errors import Reason
from pbft.messages import (
    BatchBytes,
    Checkpoint,
    Commit,
    CommittedBatch,
    NewView,
    Prepare,
    PrePrepare,
    Proposal,
    Request,
    StableCertificate,
    StateChunk,
    StateLeaves,
    StateRequest,
    Status,
    ViewChange,
)
from pbft.types import ReplicaId

Candidate: TypeAlias = object
"""A decoded signed message or a raw peer item."""


def relevance(core: Core, sender: ReplicaId, message: Candidate) -> Reason | None:
    """A reason not to bother verifying `message`, None if it may matter.

    `sender` is the claimed signer of a signed statement, else the peer that sent the item.
    """
    match message:
        case PrePrepare():
            return normal_case.check_pre_prepare(core, message, sender)
        case Prepare() | Commit():
            return normal_case.check_vote(core, message, sender)
        case Checkpoint():
            return checkpoint.check(core, message)
        case ViewChange():
            return view_change.check_view_change(core, message, sender)
        case NewView():
            return view_change.check_new_view(core, message, sender)
        case Request():
            return request.check_forwarded(core, message, sender)
        case Status():
            return status.check_status(core, sender)
        case Proposal():
            return _check_proposal(core, message)
        case BatchBytes():
            wanted = {
                digest for slot in core.log for digest in normal_case.digests_wanted(core, slot)
            }
            return None if wanted and batch_digest(message.batch) in wanted else Reason.UNWANTED
        case StateRequest():
            return state_source.check_state_request(core, sender, message)
        case CommittedBatch():
            return _check_committed(core, message)
        case StableCertificate():
            return _check_stable(core, message)
        case StateLeaves():
            return state_transfer.check_leaves(core, sender)
        case StateChunk():
            return state_transfer.check_chunk(core, sender)
        case _:
            return None


def _check_proposal(core: Core, message: Proposal) -> Reason | None:
    signed = message.pre_prepare
    vote = decode_message(signed.kind, signed.payload)
    if not isinstance(vote, PrePrepare) or not isinstance(signed.signer, int):
        return Reason.MALFORMED
    return normal_case.check_pre_prepare(core, vote, signed.signer)


def _check_committed(core: Core, message: CommittedBatch) -> Reason | None:
    if not message.commits:
        return Reason.BAD_CERTIFICATE
    commit = decode_message(message.commits[0].kind, message.commits[0].payload)
    if not isinstance(commit, Commit):
        return Reason.BAD_CERTIFICATE
    return normal_case.check_committed(core, commit.sequence)


def _check_stable(core: Core, message: StableCertificate) -> Reason | None:
    if not message.checkpoints:
        return Reason.BAD_CERTIFICATE
    known = decode_message(message.checkpoints[0].kind, message.checkpoints[0].payload)
    if not isinstance(known, Checkpoint):
        return Reason.BAD_CERTIFICATE
    is_above = known.sequence > core.low_water_mark
    is_wanted = is_above or checkpoint.is_needed_below(core, known.sequence)
    return None if is_wanted else Reason.SEQUENCE_LOW
