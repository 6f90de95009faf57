"""What every command shares: a user's error as one line, and arguments read strictly."""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

from family.errors import FamilialError

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141
NO_TELEMETRY = {"ORT_DISABLE_TELEMETRY": "1"}
"""For the environment before ONNX Runtime loads: its official builds otherwise send facts on models home."""


def run(command: Callable[[], None], *, name: str, extra: str, interrupted: str = "") -> None:
    """Run the body of command `name`; what is meant for the user becomes one line on stderr and exit status 2.

    `extra` is the optional dependency set that it needs; `interrupted` is what to say after Ctrl-C.
    """
    os.environ.update(NO_TELEMETRY | os.environ)
    try:
        command()
    except FamilialError as error:
        _leave(EXIT_USER_ERROR, error_line(error))
    except ModuleNotFoundError as error:
        advice = f"install it with: pip install 'familial[{extra}]'"
        _leave(EXIT_USER_ERROR, f"error: {name} needs the package {error.name}; {advice}")
    except KeyboardInterrupt:
        _leave(EXIT_INTERRUPTED, interrupted)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        _leave(EXIT_BROKEN_PIPE, "")
    except OSError as error:  # a full disk, a folder that may not be written
        _leave(EXIT_USER_ERROR, f"error: {error}")


def error_line(error: FamilialError) -> str:
    """What a terminal is told of an error, with the name under which the logs have it."""
    known = not error.reference or error.reference in str(error)
    return f"error: {error}" if known else f"error: {error} ({error.reference})"


def positive(text: str) -> int:
    """A whole number from 1 on, for argparse."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"expected a positive whole number, got {text!r}")
    return int(text)


def whole(text: str) -> int:
    """A whole number from 0 on, for argparse."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number from 0 on, got {text!r}")
    return int(text)


def number(text: str) -> float:
    """A number from 0 on, for argparse."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number from 0 on, got {text!r}")
    return value


def seconds(text: str) -> float:
    """A positive number of seconds, for argparse."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a positive number of seconds, got {text!r}")
    return value


def existing_file(text: str) -> Path:
    """A file that is there, for argparse."""
    if not Path(text).is_file():
        raise argparse.ArgumentTypeError(f"{text}: no such file")
    return Path(text)


def folder(text: str) -> Path:
    """A folder that is there or can be made, for argparse."""
    if Path(text).exists() and not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"{text} is a file; give a folder")
    return Path(text)


def _leave(status: int, line: str) -> None:
    if line:
        sys.stderr.write(line + "\n")
    sys.exit(status)
