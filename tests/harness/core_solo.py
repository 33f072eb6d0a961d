"""One replica that runs among n - 1 whose statements the test makes up."""

from pbft.core.effects import AcceptedRecord, EventName, Persist, PreparedRecord
from pbft.core.log import Slot
from pbft.crypto.digest import batch_digest
from pbft.messages import Commit, Prepare, ReadRequest, Recall, Recalled, Signed
from pbft.types import Digest, ReplicaId, View
from tests.harness.core_cluster import Cluster, Node
from tests.harness.core_forge import Forge


class Solo:
    """`node` is real; everybody else is the test."""

    def __init__(
        self, replicas: int = 4, me: ReplicaId = 1, forge: Forge | None = None, **settings: object
    ) -> None:
        self.cluster = Cluster(replicas, [me], with_forge=forge, **settings)
        self.forge = self.cluster.forge
        self.thresholds = self.cluster.thresholds
        self.node: Node = self.cluster[me]
        self.me = me
        self.recall()

    def recall(self, *votes: Signed) -> None:
        """Its peers answer the recall of its start: it told them nothing, or these votes."""
        (recall,) = self.node.sent(Recall)[-1:]
        for peer in self.others[: self.thresholds.recalls]:
            answer = Recalled(self.me, recall.nonce, 0, 0, (), None, votes)
            self.node.receive(peer, self.forge.sign(peer, answer))
        assert self.node.core.recalling is None

    def restart(self) -> None:
        """Crashes and starts again; its peers remember nothing that it does not."""
        self.node.restart()
        self.recall()

    @property
    def others(self) -> list[ReplicaId]:
        """All but the one that runs."""
        return [i for i in range(self.thresholds.replicas) if i != self.me]

    @property
    def window(self) -> int:
        """L"""
        return self.forge.genesis.constants.window

    def other_backups(self, view: View = 0) -> list[ReplicaId]:
        """Backups of v besides the one that runs."""
        return [i for i in self.forge.backups(view) if i != self.me]

    def slot(self, sequence: int) -> Slot:
        """What it knows about n."""
        slot = self.node.core.log.get(sequence)
        assert slot is not None
        return slot

    def batch(self, number: int = 1, client: int = 0) -> bytes:
        """A body with one good request."""
        return self.forge.batch(self.forge.request(number, client=client))

    def propose(self, sequence: int, batch: bytes | None = None, view: View = 0) -> Digest:
        """The primary proposes it (by default a body of request n); returns its digest."""
        body = self.batch(sequence) if batch is None else batch
        self.cluster.tell(self.me, self.forge.proposal(sequence, body, view))
        return batch_digest(body)

    def prepare(
        self, sequence: int, digest: Digest, count: int | None = None, view: View = 0
    ) -> None:
        """Other backups prepare: by default as many as it takes together with my own prepare."""
        mine = self.forge.primary(view) != self.me
        wanted = self.thresholds.prepares - mine if count is None else count
        for backup in self.other_backups(view)[:wanted]:
            self.cluster.tell(self.me, self.forge.prepare(backup, sequence, digest, view))

    def commit(
        self, sequence: int, digest: Digest, count: int | None = None, view: View = 0
    ) -> None:
        """Others commit: by default as many as it takes together with my own commit."""
        wanted = self.thresholds.quorum - 1 if count is None else count
        for replica in self.others[:wanted]:
            self.cluster.tell(self.me, self.forge.commit(replica, sequence, digest, view))

    def decide(self, sequence: int, batch: bytes | None = None, view: View = 0) -> Digest:
        """All three phases."""
        digest = self.propose(sequence, batch, view)
        self.prepare(sequence, digest, view=view)
        self.commit(sequence, digest, view=view)
        return digest

    def decide_to(self, last: int, first: int = 1) -> None:
        """Decides batches of one request each."""
        for sequence in range(first, last + 1):
            self.decide(sequence)

    def stabilise(self, sequence: int, digest: Digest | None = None) -> Digest:
        """Others vouch for its own state at n; returns the digest."""
        known = digest or self.node.core.sealed[sequence]
        mine = self.node.core.sealed.get(sequence) == known
        for replica in self.others[: self.thresholds.quorum - mine]:
            self.cluster.tell(self.me, self.forge.checkpoint(replica, sequence, known))
        return known

    def enter(self, view: View) -> None:
        """Takes it into a view of another primary in which nothing is re-proposed."""
        signers = self.others[: self.thresholds.quorum]
        new_view = self.forge.new_view(view, self.forge.view_changes(view, signers))
        self.cluster.tell(self.me, new_view)
        assert self.node.core.entered_view == view

    # What it did.

    def prepared_for(self) -> list[Prepare]:
        """Its prepares, in order."""
        return self.node.sent(Prepare)

    def committed_to(self) -> list[Commit]:
        """Its commits, in order."""
        return self.node.sent(Commit)

    def decided(self) -> list[int]:
        """Sequences that were committed locally, in order."""
        return [event.sequence for event in self.node.events(EventName.COMMITTED)]

    def accepted_records(self) -> list[AcceptedRecord]:
        """Pre-prepares put on disk since the last start."""
        effects = [e.record for e in self.node.effects if isinstance(e, Persist)]
        return [record for record in effects if isinstance(record, AcceptedRecord)]

    def prepared_records(self) -> list[PreparedRecord]:
        """Prepared certificates put on disk since the last start."""
        effects = [e.record for e in self.node.effects if isinstance(e, Persist)]
        return [record for record in effects if isinstance(record, PreparedRecord)]

    def rejected(self, reason: object) -> int:
        """How many messages it refused for this reason."""
        return sum(count for (_, why), count in self.node.rejections.items() if why is reason)

    def read(self, read: ReadRequest) -> None:
        """A fast read of client 0."""
        self.node.read(self.forge.clients[0].client, read)
