"""Completion of a command's flags in bash, zsh and fish: `COMMAND --print-completion SHELL`.

The scripts are those of shtab (docs.iterative.ai/shtab), which is loaded only when one is asked for.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from family.cli import existing_file, run

SHELLS = ("bash", "zsh", "fish")


def add_completion(parser: argparse.ArgumentParser) -> None:
    """The flag `--print-completion`. Like `--help` it asks for nothing else, and ends the command."""
    parser.add_argument(
        "--print-completion", action=_PrintCompletion, choices=SHELLS, help="print the completion script of a shell"
    )


class _PrintCompletion(argparse.Action):
    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,  # noqa: ARG002
        values: str | Sequence[Any] | None,
        option_string: str | None = None,  # noqa: ARG002
    ) -> None:
        run(lambda: _write(parser, str(values)), name="--print-completion", extra="node")
        parser.exit()


def _write(parser: argparse.ArgumentParser, shell: str) -> None:
    import shtab

    for action in _actions(parser):
        metavar = action.metavar if isinstance(action.metavar, str) else ""
        if "DIR" in metavar:
            action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
        elif action.type in (Path, existing_file) or metavar.startswith("FILE"):
            action.complete = shtab.FILE  # type: ignore[attr-defined]
    sys.stdout.write(shtab.complete(parser, shell) + "\n")


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Those of a parser and of its commands."""
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _actions(command)
