"""What both commands share: errors as one line, colours per tier, addresses and segments read strictly."""

import argparse
import os
import sys
from collections.abc import Callable
from typing import TextIO

from family.errors import FamilialError

EXIT_USER_ERROR = 2
DEFAULT_NODE = "localhost:7001"

_COLOURS = (36, 33, 35, 32, 34, 31)  # cyan, yellow, magenta, green, blue, red


def run(command: Callable[[], None]) -> None:
    """Run a command; an error that is meant for the user becomes one line on stderr and exit status 2."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # read when gRPC loads: its core would add lines of its own
    try:
        command()
    except FamilialError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(EXIT_USER_ERROR)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)


def wants_colour(stream: TextIO) -> bool:
    """Whether to colour: on a terminal, unless NO_COLOR is set (no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR")


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


def segments(text: str) -> tuple[int, ...]:
    """`2` or `1-3`, for argparse."""
    first, dash, last = text.partition("-")
    if not first.isdigit() or (dash and not last.isdigit()):
        raise argparse.ArgumentTypeError(f"expected A or A-B, for example 1-2, got {text!r}")
    return tuple(range(int(first), int(last if dash else first) + 1))


def positive(text: str) -> int:
    """A whole number from 1 on, for argparse."""
    if not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"expected a positive whole number, got {text!r}")
    return int(text)


def seconds(text: str) -> float:
    """A positive number of seconds, for argparse."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a positive number of seconds, got {text!r}")
    return value
