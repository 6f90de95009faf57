"""`relay generate`: continue one prompt."""

import argparse
import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

from family.cli import positive
from family.errors import FamilialError
from relay.cli.colours import Palette, shown, wants_colour
from relay.cli.common import client_of, configured, write
from relay.cli.config import CLIENT_SETTINGS, ClientConfig
from relay.cli.options import add_options, caveat, options_of

if TYPE_CHECKING:
    from relay.client.sync import Generation
    from relay.client.types import Finish, Prompt

DEFAULT_TOKENS = 128


class NoPromptError(FamilialError):
    """Nothing was given to continue."""


def add_generate(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> argparse.ArgumentParser:
    """The command's parser."""
    parser = commands.add_parser("generate", help="continue a prompt, token by token")
    parser.add_argument(
        "prompt", nargs="?", help="the text to continue, or with --chat what the user says; without it, standard input"
    )
    parser.add_argument("--chat", action="store_true", help="wrap the prompt in the model's chat template")
    add_options(parser, DEFAULT_TOKENS)
    parser.add_argument("--samples", type=positive, default=1, metavar="N", help="so many texts of the one prompt")
    parser.add_argument(
        "--logprobs", type=int, metavar="N", help="with --json: log-probabilities of each token and of the N best"
    )
    parser.set_defaults(command=_generate)
    return parser


def _generate(arguments: argparse.Namespace) -> None:
    config = configured(ClientConfig, CLIENT_SETTINGS, arguments)
    options = options_of(arguments)
    options["samples"] = arguments.samples
    if config.timeout_s is not None:
        options["timeout"] = config.timeout_s
    said = _prompt(arguments.prompt)
    if note := caveat(options):
        sys.stderr.write(f"note: {note}\n")
    prompt: Prompt = [{"role": "user", "content": said}] if arguments.chat else said
    with client_of(config) as client:
        stream = client.generate(prompt, **options)
        if arguments.json:
            _as_json(stream)
            return
        if arguments.seed is None and options.get("temperature"):
            sys.stderr.write(f"seed {stream.seed}\n")
        _as_text(stream, arguments.samples)


def _prompt(given: str | None) -> str:
    if given is not None:
        return given
    if sys.stdin.isatty():
        raise NoPromptError('nothing to continue; give a prompt, for example: relay generate "The tide comes in"')
    return sys.stdin.read()


def _as_json(stream: "Generation") -> None:
    """One object per token, and one where a sample is complete."""
    told = 0
    for token in stream:
        for finish in stream.finishes[told:]:
            _finish_as_json(finish, stream)
        told = len(stream.finishes)
        fields = {key: value for key, value in asdict(token).items() if key != "logits" and value is not None}
        write(shown(json.dumps(fields, ensure_ascii=False), sys.stdout) + "\n")
    for finish in stream.finishes[told:]:
        _finish_as_json(finish, stream)


def _finish_as_json(finish: "Finish", stream: "Generation") -> None:
    """With what the text can be made again by, and found in the logs."""
    fields = {**asdict(finish), "seed": stream.seed, "request_id": stream.request_id}
    write(json.dumps(fields, ensure_ascii=False) + "\n")


def _as_text(stream: "Generation", samples: int) -> None:
    """The text alone, coloured by tier; a line of its own before each of several samples."""
    palette = Palette(wants_colour(sys.stdout))
    current = -1
    try:
        for token in stream:
            if samples > 1 and token.sample != current:
                write("\n" * (current >= 0) + palette.faint(f"[{token.sample + 1} of {samples}]") + "\n")
            current = token.sample
            write(palette.paint(token.tier, shown(token.text, sys.stdout)))
    finally:  # what is said next, of an error too, begins a line
        if current >= 0:
            write("\n")
    if stream.finish is not None and stream.finish.reason == "context":
        sys.stderr.write("the text ends here because the model's context is full\n")
