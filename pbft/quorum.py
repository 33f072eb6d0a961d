"""Thresholds, each named once beside the argument for it (design: protocol.md section 2).

n replicas, at most f of them faulty. No other module does arithmetic on n and f.
"""

from dataclasses import dataclass

from pbft.types import ReplicaId, View

MIN_REPLICAS = 4
MAX_REPLICAS = 31


@dataclass(frozen=True, slots=True)
class Thresholds:
    """The counts that certificates need.

    Invariants for every value made by `of` (property-tested for n in 4..31):
    two quorums share at least f + 1 replicas, so at least one honest one; a quorum shares a
    replica with
    the honest part (>= q - f) of any other; the honest alone (n - f) can form a quorum.
    """

    replicas: int
    """n"""
    faulty: int
    """f: how many replicas may be Byzantine"""
    quorum: int
    """q: distinct signers in a commit, checkpoint or view-change certificate"""

    @classmethod
    def of(cls, replicas: int) -> "Thresholds":
        """Thresholds for n replicas. Raises ValueError outside 4..31.

        f = floor((n - 1) / 3), the most for which n > 3f. q = ceil((n + f + 1) / 2): two sets of
        q among
        n share at least 2q - n >= f + 1 members; it equals 2f + 1 only when n = 3f + 1.
        """
        if not MIN_REPLICAS <= replicas <= MAX_REPLICAS:
            raise ValueError(
                f"a cluster has {MIN_REPLICAS} to {MAX_REPLICAS} replicas, not {replicas}"
            )
        faulty = (replicas - 1) // 3
        return cls(replicas, faulty, (replicas + faulty + 2) // 2)

    @property
    def weak(self) -> int:
        """f + 1: at least one of them is honest."""
        return self.faulty + 1

    @property
    def prepares(self) -> int:
        """q - 1 prepares of distinct backups, which with the primary's pre-prepare make a
        quorum."""
        return self.quorum - 1

    @property
    def recalls(self) -> int:
        """q - 1 peers that answered a Recall: with the asker a quorum, so one honest witness of
        each vote."""
        return self.quorum - 1

    def primary_of(self, view: View) -> ReplicaId:
        """p = v mod n."""
        return view % self.replicas
