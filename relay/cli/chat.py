"""`relay chat`: a conversation, turn by turn, of which every node keeps what it has computed."""

import argparse
import statistics
import sys
import uuid
from collections import Counter
from contextlib import suppress
from itertools import pairwise
from typing import TYPE_CHECKING

from family.cli import error_line
from family.errors import FamilialError
from relay.cli.colours import Palette, shown, wants_colour
from relay.cli.common import client_of, configured, write
from relay.cli.config import CLIENT_SETTINGS, ClientConfig
from relay.cli.options import POLICY_FORMS, add_options, caveat, described, options_of, policy

if TYPE_CHECKING:
    from relay.client.sync import RelayClient
    from relay.client.types import GenerateOptions, Token

DEFAULT_TOKENS = 512
HELP = f"""\
/policy           which exit decides; /policy {POLICY_FORMS} changes it
/reset            forget the conversation
/exit             leave; so does Ctrl-D. Ctrl-C ends an answer
"""


def add_chat(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> argparse.ArgumentParser:
    """The command's parser."""
    parser = commands.add_parser("chat", help="talk to the model, with a history; /help inside says more")
    parser.add_argument("--system", metavar="TEXT", help="what the model is told before the conversation")
    add_options(parser, DEFAULT_TOKENS)
    parser.set_defaults(command=_chat)
    return parser


def _chat(arguments: argparse.Namespace) -> None:
    config = configured(ClientConfig, CLIENT_SETTINGS, arguments)
    options = options_of(arguments)
    if config.timeout_s is not None:
        options["timeout"] = config.timeout_s
    with client_of(config) as client:
        Chat(client, options, arguments.system).run()


class Chat:
    """One conversation. Lines come from standard input; what begins with `/` is a command."""

    def __init__(self, client: "RelayClient", options: "GenerateOptions", system: str | None) -> None:
        self._client = client
        self._options = options
        self._options["session"] = uuid.uuid4().hex
        self._options["keep"] = True
        self._system = [{"role": "system", "content": system}] if system else []
        self._turns: list[dict[str, str]] = []
        self._asks = sys.stdin.isatty()
        self._palette = Palette(wants_colour(sys.stdout))

    def run(self) -> None:
        """Until `/exit` or the end of the input. At a terminal errors are told and the conversation goes on."""
        if self._asks:
            with suppress(ImportError):
                import readline  # noqa: F401  line editing and history for input()
            self._remark("/help lists the commands, /exit leaves")
        while (line := self._line()) is not None:
            try:
                if line.startswith("/"):
                    if self._command(line.split()):
                        return
                elif line.strip():
                    self._answer(line)
            except FamilialError as error:
                if not self._asks:
                    raise
                sys.stderr.write(error_line(error) + "\n")
                if getattr(error, "code", "") == "prompt-too-long":
                    self._remark("/reset forgets the conversation and makes room")

    def _line(self) -> str | None:
        try:
            return input(self._palette.faint("you> ") if self._asks else "")
        except EOFError:
            return None
        except UnicodeDecodeError:
            raise ChatInputError("standard input is not valid text; send UTF-8") from None

    def _command(self, words: list[str]) -> bool:
        """Whether to leave."""
        match words:
            case ["/exit"] | ["/quit"]:
                return True
            case ["/policy"]:
                self._remark(f"policy: {described(self._options.get('policy'))}")
            case ["/policy", *rest]:
                self._options["policy"] = policy(rest)
                self._remark(f"policy: {described(self._options['policy'])}")
            case ["/reset"]:
                self._turns.clear()
                self._remark("the conversation is forgotten")
            case ["/help"]:
                write(HELP)
            case _:
                raise ChatInputError(f"{words[0]} is no command; /help lists them")
        return False

    def _answer(self, said: str) -> None:
        """Ask, show the answer as it comes, and remember both; a turn that failed is forgotten."""
        if note := caveat(self._options):
            self._remark(note)
        prompt = [*self._system, *self._turns, {"role": "user", "content": said}]
        tokens: list[Token] = []
        stream = self._client.generate(prompt, **self._options)
        try:
            for token in stream:
                tokens.append(token)
                write(self._palette.paint(token.tier, shown(token.text, sys.stdout)))
        except KeyboardInterrupt:
            if not self._asks:
                raise
            stream.close()
        finally:
            if tokens:
                write("\n")
        self._turns += [
            {"role": "user", "content": said},
            {"role": "assistant", "content": "".join(token.text for token in tokens)},
        ]
        if tokens:
            self._remark(_summary(tokens, stream.finish.cached_tokens if stream.finish else 0))

    def _remark(self, text: str) -> None:
        """Beside the conversation, and only for a person."""
        if self._asks:
            write(self._palette.faint(text) + "\n")


class ChatInputError(FamilialError):
    """A line that is neither a command nor text."""


def _summary(tokens: "list[Token]", cached: int) -> str:
    """Who said how much, and how fast."""
    tiers = Counter(token.tier for token in tokens)
    shares = ", ".join(f"{tier} {count / len(tokens):.0%}" for tier, count in tiers.most_common())
    times = [token.elapsed_ms for token in tokens]
    steps = [b - a for a, b in pairwise(times)] or times
    return f"{len(tokens)} tokens ({shares}), {statistics.median(steps):.1f} ms each, {cached} of the prompt known"
