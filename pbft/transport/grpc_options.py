"""Channel and server options, each with the observation it rests on (operations.md section 4)."""

from collections.abc import Sequence

from pbft.limits import TRANSPORT_BYTES_MAX

Options = Sequence[tuple[str, int]]

_KEEPALIVE: Options = (
    # A frozen or unplugged peer is noticed after these two together; keepalive_timeout_ms alone
    # does not fire.
    ("grpc.keepalive_time_ms", 2_000),
    ("grpc.keepalive_timeout_ms", 2_000),
    ("grpc.http2.ping_timeout_ms", 2_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
)
_SERVER: Options = (
    *_KEEPALIVE,
    ("grpc.max_send_message_length", TRANSPORT_BYTES_MAX),
    # A second process on the port is an error, not a share of its connections.
    ("grpc.so_reuseport", 0),
    # Pings as often as both ends of ours send them.
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 500),
    # The bandwidth probes of a busy client are pings too: they are no attack.
    ("grpc.http2.max_ping_strikes", 0),
    # Identity only: a small frame cannot become a huge message.
    ("grpc.compression_enabled_algorithms_bitset", 1),
    # Connections that never finish their handshake or never open a stream.
    ("grpc.server_handshake_timeout_ms", 5_000),
    ("grpc.max_connection_idle_ms", 60_000),
)

CHANNEL_OPTIONS: Options = (
    *_KEEPALIVE,
    ("grpc.max_receive_message_length", TRANSPORT_BYTES_MAX),
    ("grpc.max_send_message_length", TRANSPORT_BYTES_MAX),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 500),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # Each attempt is a new channel with a new subchannel: its backoff is ours, not gRPC's.
    ("grpc.use_local_subchannel_pool", 1),
)


def server_options(*, connections: int, streams: int, message_bytes: int) -> Options:
    """Of a listener that takes so many connections, with so many streams on each, and receives
    messages of so many bytes at most. gRPC enforces them before anything of ours is asked.

    The last is to be above what is refused by us, so that a message between the two can be
    counted as OVERSIZE.
    """
    return (
        *_SERVER,
        ("grpc.max_allowed_incoming_connections", connections),
        ("grpc.max_concurrent_streams", streams),
        ("grpc.max_receive_message_length", message_bytes),
    )
