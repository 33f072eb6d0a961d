"""Switches of gRPC's C core that it reads once, when it is imported: decided here, nowhere else.

The package imports this before any of its modules imports `grpc`. The event engine, on by default
from about grpcio 1.76, makes a stream's round trip two to three times slower here (operations.md
section 4); a version that no longer knows the switch ignores it. A value that the user set stays.
"""

import os

SWITCHES = {
    "GRPC_EXPERIMENTS": "-event_engine_client,-event_engine_listener",
    "GRPC_ENABLE_FORK_SUPPORT": "0",
    "GRPC_VERBOSITY": "NONE",
}

for _name, _value in SWITCHES.items():
    os.environ.setdefault(_name, _value)
