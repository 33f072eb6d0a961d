"""The only place that decides how gRPC is set up in a process, before gRPC is imported.

gRPC reads its switches when its C library loads, so everything takes `grpc` and `aio` from here, or
imports them after this. The event engine, on by default from about grpcio 1.76, makes a stream's
round trip two to three times slower here (operations.md section 4); a version that no longer knows
the switch ignores it. Nothing forks, and the fork handlers cost time on every call. Whoever
connects in the wrong way must not fill the log. A value that the user set stays.
"""

import os

SWITCHES = {
    "GRPC_EXPERIMENTS": "-event_engine_client,-event_engine_listener",
    "GRPC_ENABLE_FORK_SUPPORT": "0",
    "GRPC_VERBOSITY": "NONE",
}

for _name, _value in SWITCHES.items():
    os.environ.setdefault(_name, _value)

import grpc  # noqa: E402 (it reads the switches when it is imported)
from grpc import aio  # noqa: E402

__all__ = ["SWITCHES", "aio", "grpc"]
