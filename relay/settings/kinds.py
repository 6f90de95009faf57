"""How the value of a setting is read, whether it comes from a flag, a variable or a TOML file."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from family.cli import positive, seconds
from relay.names import MOST_NAME_CHARACTERS, NAME_RULE, Codec, is_name

DEFAULT_ADDRESS = "localhost:7001"
"""Where a node listens, and where a client looks for it, unless told otherwise."""

MOST_SEGMENTS = 1000
MOST_THREADS = 1024


def address(text: str) -> str:
    """HOST:PORT, for argparse."""
    host, colon, port = text.rpartition(":")
    if not (host and colon and port.isdecimal() and int(port) < 65536):
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
    if not first.isdecimal() or (dash and not last.isdecimal()):
        raise argparse.ArgumentTypeError(f"expected A or A-B, for example 1-2, got {text!r}")
    low, high = int(first), int(last if dash else first)
    if not low <= high <= MOST_SEGMENTS:
        raise argparse.ArgumentTypeError(f"expected A-B with A up to B, and B up to {MOST_SEGMENTS}, got {text!r}")
    return tuple(range(low, high + 1))


def sent(text: str) -> str:
    """What goes to the upstream."""
    if text not in ("rows", "ahead", "ids"):
        raise argparse.ArgumentTypeError(f"expected rows, ahead or ids, got {text!r}")
    return text


def codec(text: str) -> str:
    """The label of a codec, for argparse."""
    try:
        return Codec.labelled(text).label
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def threads(text: str) -> int:
    """A number of threads, for argparse."""
    number = positive(text)
    if number > MOST_THREADS:
        raise argparse.ArgumentTypeError(f"expected at most {MOST_THREADS}, got {text!r}")
    return number


_UNITS = {"": 1, "B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}


def memory(text: str) -> int:
    """`1.5GiB`, `800MiB` or a number of bytes, for argparse."""
    number = text.rstrip("KMGTiB")
    unit = text.removeprefix(number).strip()
    try:
        size = int(float(number) * _UNITS[unit])
    except (KeyError, ValueError, OverflowError):
        size = 0
    if size <= 0:
        raise argparse.ArgumentTypeError(f"expected a size such as 1.5GiB or 800MiB, got {text!r}")
    return size


def _segments_text(served: tuple[int, ...]) -> str:
    return f"{served[0]}-{served[-1]}"


def _absolute_text(path: Path) -> str:
    return str(path.absolute())


def _itself(value: Any) -> Any:
    return value


@dataclass(frozen=True)
class Kind:
    """A kind of value."""

    metavar: str
    read: Callable[[str], Any]
    """From text; raises `argparse.ArgumentTypeError`."""
    toml: tuple[type, ...]
    """The types that it may have in a TOML file."""
    toml_name: str
    """These types in words."""
    written: Callable[[Any], str | int | float] = _itself
    """To what a TOML file holds; it reads back as the same value."""


NAME = Kind("NAME", name, (str,), "a string")
FOLDER = Kind("DIR", Path, (str,), "a string", _absolute_text)
FILE = Kind("FILE", Path, (str,), "a string", _absolute_text)
ADDRESS = Kind("HOST:PORT", address, (str,), "a string")
SEGMENTS = Kind("A-B", segments, (str, int), "a string or a whole number", _segments_text)
CODEC = Kind("CODEC", codec, (str,), "a string")
SENT = Kind("rows|ids", sent, (str,), "a string")
MEMORY = Kind("SIZE", memory, (str, int), "a string or a whole number")
COUNT = Kind("N", positive, (int,), "a whole number")
THREADS = Kind("N", threads, (int,), "a whole number")
SECONDS = Kind("S", seconds, (int, float), "a number")
