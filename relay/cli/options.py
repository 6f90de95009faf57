"""Flags of a generation, the same for every command that makes one."""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from family.cli import positive
from family.errors import FamilialError
from relay.names import Codec

if TYPE_CHECKING:
    from relay.client.types import GenerateOptions
    from relay.policy import Policy

POLICY_FORMS = "exit G | schedule SEED | confidence THRESHOLD [STATISTIC] [DEEPEST]"
_COPIED = ("codec", "temperature", "top_k", "top_p", "min_p", "seed", "stop", "logprobs")
_PENALTIES = ("repetition_penalty", "presence_penalty", "frequency_penalty")


class PolicyFormError(FamilialError):
    """Words that name no policy."""


def add_options(parser: argparse.ArgumentParser, most_tokens: int) -> None:
    """Flags for the length, the policy and sampling. What they may be is checked where it is used, by the SDK."""
    parser.add_argument("--max-tokens", type=positive, default=most_tokens, metavar="N", help=f"default: {most_tokens}")
    who = parser.add_argument_group("which exit decides a token", "by default the deepest")
    which = who.add_mutually_exclusive_group()
    which.add_argument("--exit", type=positive, metavar="G", help="exit G decides every token")
    which.add_argument("--schedule", type=int, metavar="SEED", help="an exit drawn for every token from SEED")
    which.add_argument(
        "--confidence", type=float, metavar="T", help="the first exit that is sure enough, for example 0.8"
    )
    statistics = ("max_probability", "margin", "entropy")
    who.add_argument(
        "--statistic", choices=statistics, metavar="S", help="of --confidence: max_probability, margin or entropy"
    )
    who.add_argument("--deepest", type=positive, metavar="G", help="of --confidence: no exit beyond G is asked")
    parser.add_argument(
        "--codec",
        choices=[codec.label for codec in Codec],
        metavar="C",
        help="how rows travel between nodes: f32, exactly; bf16, int8 or int4, in fewer bytes, and the text may "
        "differ; by default as the entry node is set up",
    )
    how = parser.add_argument_group("how a token is drawn", "by default the most probable one is taken")
    how.add_argument("--temperature", type=float, metavar="T", help="0: greedy; 1: with the model's own probabilities")
    how.add_argument("--top-k", type=int, metavar="K", help="from the K most probable tokens only")
    how.add_argument("--top-p", type=float, metavar="P", help="from the most probable that together have probability P")
    how.add_argument("--min-p", type=float, metavar="P", help="from those at least P times as probable as the first")
    how.add_argument("--seed", type=int, metavar="N", help="the same seed gives the same text; by default drawn")
    how.add_argument("--stop", action="append", metavar="TEXT", help="end before TEXT; may be given several times")
    for name in _PENALTIES:
        how.add_argument(
            f"--{name.replace('_', '-')}", type=float, metavar="X", help="for exits of the entry node only"
        )


def options_of(arguments: argparse.Namespace) -> "GenerateOptions":
    """The SDK's options. Raises `RelayError` for values that make no sense."""
    from relay.client.types import GenerateOptions

    options = GenerateOptions(max_tokens=arguments.max_tokens)
    for name in (*_COPIED, *_PENALTIES):
        value = getattr(arguments, name, None)
        if value is not None:
            options[name] = value  # type: ignore[literal-required]
    policy = _policy_of(arguments)
    if policy is not None:
        options["policy"] = policy
    return options


def _policy_of(arguments: argparse.Namespace) -> "Policy | None":
    if arguments.confidence is not None:
        deepest = [str(arguments.deepest)] if arguments.deepest else []
        return policy(["confidence", str(arguments.confidence), arguments.statistic or "max_probability", *deepest])
    if arguments.statistic or arguments.deepest:
        raise PolicyFormError("--statistic and --deepest refine --confidence T; give that too")
    for kind in ("exit", "schedule"):
        if (value := getattr(arguments, kind)) is not None:
            return policy([kind, str(value)])
    return None


def policy(words: Sequence[str]) -> "Policy":
    """A policy in words: one of `POLICY_FORMS`. Raises `PolicyFormError`, or `RelayError` for a bad threshold."""
    from relay.policy import ConfidenceExit, ExitSchedule, FixedExit

    try:
        match list(words):
            case ["exit", number]:
                return FixedExit(int(number))
            case ["schedule", seed]:
                return ExitSchedule(int(seed))
            case ["confidence", threshold]:
                return ConfidenceExit(float(threshold))
            case ["confidence", threshold, statistic]:
                return ConfidenceExit(float(threshold), statistic)  # type: ignore[arg-type]
            case ["confidence", threshold, statistic, deepest]:
                return ConfidenceExit(float(threshold), statistic, int(deepest))  # type: ignore[arg-type]
    except ValueError:
        pass
    raise PolicyFormError(f"{' '.join(words)!r} is no policy; give {POLICY_FORMS}")


def described(given: "Policy | None") -> str:
    """A policy in the words that make it."""
    from relay.policy import ConfidenceExit, ExitSchedule, FixedExit

    match given:
        case FixedExit(exit=number):
            return f"exit {number}"
        case ExitSchedule(seed=seed):
            return f"schedule {seed}"
        case ConfidenceExit():
            deepest = f" {given.deepest}" if given.deepest else ""
            return f"confidence {given.threshold:g} {given.statistic}{deepest}"
        case None:
            return "the deepest exit"
