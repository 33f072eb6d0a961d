"""A replica that fetches a state, from sources that the test plays."""

from collections.abc import Callable
from dataclasses import replace

from pbft.core.effects import Send
from pbft.core.state import Transfer
from pbft.messages import StableCertificate, StateChunk, StateLeaves, StateRequest
from pbft.storage.transfer import PinnedCheckpoint
from tests.harness.core_cluster import SECOND, Cluster
from tests.harness.core_forge import INTERVAL, WINDOW
from tests.harness.core_solo import Solo

Tamper = Callable[[StateLeaves | StateChunk], StateLeaves | StateChunk]
FAR = 2 * WINDOW + INTERVAL


class Target:
    """Replica 3 alone; its sources are snapshots of a real cluster, told by the test."""

    def __init__(self, count: int = FAR) -> None:
        self.donor = Cluster(4, live=range(4))
        self.donor.run(count)
        self.solo = Solo(4, me=3)
        self.node = self.solo.node
        self.certificate = self.snapshot().certificate
        self.solo.cluster.tell(3, StableCertificate(self.certificate))
        self.served: dict[int, int] = {}
        self.pinned: dict[int, PinnedCheckpoint] = {}
        self.solo.cluster.advance(SECOND // 4)

    def snapshot(self) -> PinnedCheckpoint:
        """What an honest source pins now."""
        return self.donor[0].state.pin()

    def requests(self, peer: int) -> list[StateRequest]:
        """New requests to this peer."""
        sends = [e for e in self.node.effects if isinstance(e, Send) and e.to == peer]
        return [e.item for e in sends if isinstance(e.item, StateRequest)]

    def serve(self, peer: int, tamper: Tamper | None = None, most: int = 50) -> None:
        """Answers what this peer is asked, until it is asked no more."""
        for _ in range(most):
            served, requests = self.served.get(peer, 0), self.requests(peer)
            if served >= len(requests):
                return
            request = requests[served]
            self.served[peer] = served + 1
            if request.sequence == 0:
                snapshot = self.pinned[peer] = self.snapshot()
                answer: StateLeaves | StateChunk = StateLeaves(
                    StableCertificate(snapshot.certificate), snapshot.leaves()
                )
            else:
                chunk = self.pinned[peer].chunk(request.buckets, request.cursor)
                answer = replace(chunk, number=request.number)
            self.node.receive(peer, answer if tamper is None else tamper(answer))

    def restart(self) -> None:
        """Crashes and starts again; its old requests are nobody's any more."""
        self.solo.restart()
        self.served.clear()

    def tell_leaves(self, peer: int) -> None:
        """An honest source pins what it has now and says so, asked or not."""
        snapshot = self.pinned[peer] = self.snapshot()
        certificate = StableCertificate(snapshot.certificate)
        self.node.receive(peer, StateLeaves(certificate, snapshot.leaves()))

    @property
    def transfer(self) -> Transfer:
        """That is under way."""
        transfer = self.node.core.transfer
        assert transfer is not None
        return transfer

    @property
    def is_done(self) -> bool:
        """Whether it has the donor's state."""
        return self.node.core.executed == self.snapshot().sequence and not self.node.core.transfer

    def expect_state(self) -> None:
        """Fails unless it is exactly the donor's."""
        assert self.is_done
        count = self.snapshot().sequence
        assert self.node.journal == self.donor[0].journal[:count]


def answer_to(target: Target, request: StateRequest) -> StateChunk:
    """What an honest source says to a request for records."""
    chunk = target.snapshot().chunk(request.buckets, request.cursor)
    return replace(chunk, number=request.number)


def serve_all(target: Target, **tampers: Tamper) -> None:
    """Every source answers in turn; `peer1=...` tampers with what source 1 says."""
    for _ in range(8):
        for peer in (1, 0, 2):
            target.serve(peer, tampers.get(f"peer{peer}"))
        target.solo.cluster.advance(SECOND)
        if target.is_done:
            return
