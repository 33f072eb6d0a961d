"""gRPC between replicas and towards clients (protocol.md section 12).

`peer_dialler` and `peer_acceptor` are the two ends of a replica-to-replica stream, `gateway` the
replica's end of a client's stream. They carry bytes and keep within bounds; what a message means
is decided above them.
"""

from pbft import grpc_environment

__all__ = ["grpc_environment"]
