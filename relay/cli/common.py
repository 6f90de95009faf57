"""What `relay` and `relay-node` share: colours per tier, addresses and segments read strictly."""

import argparse
import os
import unicodedata
from typing import TextIO

from relay.names import MOST_NAME_CHARACTERS, NAME_RULE, is_name

DEFAULT_NODE = "localhost:7001"
QUIET_GRPC = {"GRPC_VERBOSITY": "NONE"}
"""For the environment before gRPC loads: its core would add lines of its own to the commands' output."""

_COLOURS = (36, 33, 35, 32, 34, 31)  # cyan, yellow, magenta, green, blue, red


def wants_colour(stream: TextIO) -> bool:
    """Whether to colour: on a terminal, unless NO_COLOR is set (no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR")


def shown(text: str, stream: TextIO) -> str:
    """A text from elsewhere, as `stream` may have it: on a terminal, without the characters that command it."""
    if not stream.isatty():
        return text
    return "".join(c for c in text if c in "\n\t" or unicodedata.category(c) != "Cc")


class Palette:
    """One colour per name, in the order in which names first appear."""

    def __init__(self, enabled: bool) -> None:
        self.enabled = enabled
        self._names: list[str] = []

    def paint(self, name: str, text: str) -> str:
        """`text` in the colour of `name`."""
        if not self.enabled or not text:
            return text
        if name not in self._names:
            self._names.append(name)
        return f"\x1b[{_COLOURS[self._names.index(name) % len(_COLOURS)]}m{text}\x1b[0m"


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
