"""How large the statements of honest replicas can be: what is larger is refused unread."""

from collections.abc import Mapping

from pbft.genesis import Genesis
from pbft.limits import KIB, MESSAGE_BYTES_MAX, STATUS_BITMAP_BYTES_MAX, VOTE_BYTES
from pbft.messages import Kind

SMALL_BYTES = KIB
"""A vote, a checkpoint, a recall."""
STATUS_BYTES = 64 * KIB + 3 * STATUS_BITMAP_BYTES_MAX
VOTES_RECALLED_PER_SLOT = 16
"""A replica's own votes that one slot of a peer can hold, of all views it keeps."""


def payload_bytes_max(genesis: Genesis) -> Mapping[Kind, int]:
    """The largest payload of each kind that replicas send each other, rounded up generously: twice
    the window counts. Requests have their limit in the genesis."""
    replicas, slots = len(genesis.replicas), 2 * genesis.constants.window
    view_change = SMALL_BYTES + VOTE_BYTES * replicas * (1 + slots)
    new_view = SMALL_BYTES + replicas * (view_change + VOTE_BYTES) + VOTE_BYTES * slots
    recalled = SMALL_BYTES + view_change + VOTE_BYTES * (replicas + VOTES_RECALLED_PER_SLOT * slots)
    largest = {
        Kind.PRE_PREPARE: SMALL_BYTES,
        Kind.PREPARE: SMALL_BYTES,
        Kind.COMMIT: SMALL_BYTES,
        Kind.CHECKPOINT: SMALL_BYTES,
        Kind.RECALL: SMALL_BYTES,
        Kind.STATUS: STATUS_BYTES,
        Kind.VIEW_CHANGE: view_change,
        Kind.NEW_VIEW: new_view,
        Kind.RECALLED: recalled,
    }
    return {kind: min(size, MESSAGE_BYTES_MAX) for kind, size in largest.items()}
