"""What `relay` and `relay-node` share: addresses, names and segments read strictly."""

import argparse

from relay.names import MOST_NAME_CHARACTERS, NAME_RULE, is_name

DEFAULT_NODE = "localhost:7001"
QUIET_GRPC = {"GRPC_VERBOSITY": "NONE"}
"""For the environment before gRPC loads: its core would add lines of its own to the commands' output."""


def address(text: str) -> str:
    """HOST:PORT, for argparse."""
    host, colon, port = text.rpartition(":")
    if not (host and colon and port.isdigit() and int(port) < 65536):
        raise argparse.ArgumentTypeError(f"expected HOST:PORT, got {text!r}")
    return text


def name(text: str) -> str:
    """The name of a tier, for argparse."""
    if not is_name(text):
        raise argparse.ArgumentTypeError(f"{NAME_RULE}, got {text[:MOST_NAME_CHARACTERS]!r}")
    return text


def segments(text: str) -> tuple[int, ...]:
    """`2` or `1-3`, for argparse."""
    first, dash, last = text.partition("-")
    if not first.isdigit() or (dash and not last.isdigit()):
        raise argparse.ArgumentTypeError(f"expected A or A-B, for example 1-2, got {text!r}")
    return tuple(range(int(first), int(last if dash else first) + 1))
