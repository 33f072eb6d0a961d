"""The only place that decides how gRPC is set up in a process of a client, before gRPC is imported.

gRPC reads its switches when its C library loads, so everything in this package takes `grpc` from
here. The values were measured (operations.md section 4): the event engine makes a stream's round
trip 2-3 times slower. A value the user set wins; a gRPC version that no longer knows an experiment
logs that and goes on.
"""

import os

os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_client,-event_engine_listener")
# Nothing here forks, and the fork handlers cost time on every call.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

import grpc
from grpc import aio

__all__ = ["aio", "grpc"]
