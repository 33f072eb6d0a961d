"""Clusters of real processes, watched by a real Prometheus.

That is not a Python package, so these tests run where PBFT_TEST_MONITORING=1 asks for them (.ci/run
installs it and does), and fail there if it is missing: nothing is skipped.
"""

import os

from tests.process.conftest import cluster, new_cluster

collect_ignore_glob = [] if os.environ.get("PBFT_TEST_MONITORING") == "1" else ["test_*.py"]

__all__ = ["cluster", "new_cluster"]
