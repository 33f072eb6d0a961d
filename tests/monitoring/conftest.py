"""Clusters of real processes, as the process tests have them."""

from tests.process.conftest import cluster, new_cluster

__all__ = ["cluster", "new_cluster"]
