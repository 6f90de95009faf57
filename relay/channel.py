"""How connections behave, on both ends: message sizes, retry pace, and noticing a link that died silently."""

import grpc
from grpc import aio

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


def open_channel(address: str, credentials: grpc.ChannelCredentials | None) -> aio.Channel:
    """A client's way to a node, over TLS where there are credentials."""
    if credentials is None:
        return aio.insecure_channel(address, CLIENT_OPTIONS)
    return aio.secure_channel(address, credentials, CLIENT_OPTIONS)


def bind(server: aio.Server, address: str, credentials: grpc.ServerCredentials | None) -> int:
    """Have a server listen; the port. Raises `RuntimeError` if it cannot."""
    if credentials is None:
        return server.add_insecure_port(address)
    return server.add_secure_port(address, credentials)
