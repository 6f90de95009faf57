"""How connections behave, on both ends: message sizes, retry pace, and noticing a link that died silently."""

MOST_MESSAGE_BYTES = 64 << 20
"""Largest message that anyone accepts."""
_PING_EVERY_MS = 10_000
_PING_PATIENCE_MS = 5_000

_COMMON = (
    ("grpc.max_receive_message_length", MOST_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", _PING_EVERY_MS),
    ("grpc.keepalive_timeout_ms", _PING_PATIENCE_MS),
    ("grpc.http2.max_pings_without_data", 0),
)

CLIENT_OPTIONS = (
    *_COMMON,
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.min_reconnect_backoff_ms", 5_000),  # in effect how long one attempt at a connection may take
)
SERVER_OPTIONS = (
    *_COMMON,
    ("grpc.so_reuseport", 0),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", _PING_EVERY_MS // 2),
    ("grpc.http2.max_ping_strikes", 0),
)
