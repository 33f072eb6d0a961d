"""I9: nothing leaves an honest replica while the record that it depends on is dirty (protocol.md
section 10; adversary.md section 3). What the disk of the replica has synced is asked, not the
replica."""

from collections import defaultdict

from pbft.core.effects import Broadcast, Send
from pbft.messages import (
    Checkpoint,
    Commit,
    NewView,
    Prepare,
    PrePrepare,
    Proposal,
    Signed,
    SignedMessage,
    ViewChange,
)
from pbft.sim.disk import Leaving
from pbft.sim.invariants import Violation
from pbft.sim.node import Node
from pbft.storage import log_records as records
from pbft.types import ReplicaId, View


class WriteAhead:
    """What has been seen on the disks of all replicas."""

    def __init__(self) -> None:
        self._moved: defaultdict[ReplicaId, View] = defaultdict(int)
        """The highest view-change seen on each disk, ..."""
        self._entered: defaultdict[ReplicaId, View] = defaultdict(int)
        """... and the highest new-view."""

    def check(self, node: Node, effect: Leaving) -> None:
        """Raises Violation if this may not leave yet, StorageCorrupt if that cannot be read."""
        if not isinstance(effect, Send | Broadcast):
            return
        item = effect.item
        signed = item.pre_prepare if isinstance(item, Proposal) else item
        if isinstance(signed, Signed) and signed.signer == node.place:
            message = node.world.decoders.message(signed.kind, signed.payload)
            if not self._is_durable(node, message):
                raise Violation("I9", f"replica {node.place} says {message}, which is not on disk")

    def _is_durable(self, node: Node, message: SignedMessage) -> bool:
        match message:
            case PrePrepare(view, sequence) | Prepare(view, sequence):
                keys = [records.slot_key(records.ACCEPTED, sequence, view)]
            case Commit(view, sequence):
                prepared = records.slot_key(records.PREPARED, sequence, view)
                keys = [prepared, records.decided_key(sequence)]
            case Checkpoint(sequence):
                keys, view = [records.decided_key(sequence)], 0
            case ViewChange(view):
                return self._seen(node, self._moved, view)
            case NewView(view):
                return self._seen(node, self._entered, view)
            case _:
                return True
        if sequence <= node.state.durable_sequence:
            return True
        return any(map(node.log.holds, keys)) and self._seen(node, self._entered, view)

    def _seen(self, node: Node, views: defaultdict[ReplicaId, View], view: View) -> bool:
        if views[node.place] < view:
            saved = node.log.load(node.state.durable_sequence)
            if saved.view_change is not None:
                self._moved[node.place] = saved.view_change.view
            if saved.new_view is not None:
                self._entered[node.place] = saved.new_view.view
        return views[node.place] >= view
