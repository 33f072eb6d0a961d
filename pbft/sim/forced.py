"""Clusters that the genesis refuses, to show why it does: fewer than four replicas, other quorums.

Only the simulator can make them. With n = 3 and f = 1 there is no right quorum: q = 3 stops when
one replica is silent, and q = n - f = 2, the only live choice, lets one traitor break agreement.
"""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from pbft.crypto.digest import request_digest
from pbft.genesis import Genesis, dump_genesis
from pbft.quorum import Thresholds


@dataclass(frozen=True)
class ForcedGenesis(Genesis):
    """A genesis with thresholds of somebody's choice. It cannot be read from a file."""

    forced: Thresholds = field(kw_only=True)

    def __post_init__(self) -> None:
        if self.forced.replicas != len(self.replicas):
            raise ValueError("thresholds for another number of replicas")

    @cached_property
    def thresholds(self) -> Thresholds:
        """The forced ones."""
        return self.forced


def make_genesis(forced: Thresholds | None = None, **values: Any) -> Genesis:
    """A genesis of these values: a proper one, or one with forced thresholds."""
    if forced is None:
        return Genesis.create(**values)
    draft = ForcedGenesis(forced=forced, **values)
    return ForcedGenesis(forced=forced, cluster_id=request_digest(dump_genesis(draft)), **values)
