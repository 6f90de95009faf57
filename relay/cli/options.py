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

POLICY_FORMS = (
    "exit G | schedule SEED | confidence T[,T...] [STATISTIC] [DEEPEST] | epsilon E [STATISTIC] | speculative [DEEPEST]"
)
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
        "--confidence",
        type=thresholds,
        metavar="T",
        help="the first exit that is sure enough, for example 0.8; or a threshold for each exit, as in 0.9,0.7",
    )
    which.add_argument(
        "--epsilon",
        type=float,
        metavar="E",
        help="the same by thresholds that calibrate-family certified: at most this share of the tokens is expected to "
        "differ from the deepest exit's choice, for example 0.05; at a temperature above 0 nothing is promised",
    )
    statistics = ("max_probability", "margin", "entropy")
    who.add_argument(
        "--statistic",
        choices=statistics,
        metavar="S",
        help="of --confidence and --epsilon: max_probability, margin or entropy",
    )
    which.add_argument(
        "--speculative",
        action="store_true",
        help="the deepest exit decides all, but an exit of the entry node drafts and many drafts go up in one message: "
        "the same text, sooner",
    )
    who.add_argument(
        "--deepest", type=positive, metavar="G", help="of --confidence and --speculative: no exit beyond G is asked"
    )
    who.add_argument("--draft-exit", type=positive, metavar="G", help="of --speculative: the exit that drafts")
    who.add_argument(
        "--drafts", type=positive, metavar="K", help="of --speculative: drafts of a message; by default what pays"
    )
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


def thresholds(text: str) -> tuple[float, ...]:
    """Numbers between commas, for argparse."""
    return tuple(float(part) for part in text.split(","))


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
    from relay.policy import ConfidenceExit, SpeculativeExit

    confidence, epsilon, deepest = arguments.confidence, arguments.epsilon, arguments.deepest
    if (confidence, epsilon) != (None, None):
        refined = {"statistic": arguments.statistic} if arguments.statistic else {}
        return ConfidenceExit(confidence, deepest=deepest, epsilon=epsilon, **refined)
    if arguments.speculative:
        return SpeculativeExit(deepest, arguments.draft_exit, arguments.drafts)
    if arguments.draft_exit or arguments.drafts:
        raise PolicyFormError("--draft-exit and --drafts refine --speculative; give that too")
    if arguments.statistic or deepest:
        raise PolicyFormError("--statistic and --deepest refine --confidence T; give that too")
    for kind in ("exit", "schedule"):
        if (value := getattr(arguments, kind)) is not None:
            return policy([kind, str(value)])
    return None


def policy(words: Sequence[str]) -> "Policy":
    """A policy in words: one of `POLICY_FORMS`. Raises `PolicyFormError`, or `RelayError` for a bad threshold."""
    from relay.policy import ConfidenceExit, ExitSchedule, FixedExit, SpeculativeExit

    try:
        match list(words):
            case ["exit", number]:
                return FixedExit(int(number))
            case ["schedule", seed]:
                return ExitSchedule(int(seed))
            case ["confidence", given]:
                return ConfidenceExit(thresholds(given))
            case ["confidence", given, statistic]:
                return ConfidenceExit(thresholds(given), statistic)  # type: ignore[arg-type]
            case ["confidence", given, statistic, deepest]:
                return ConfidenceExit(thresholds(given), statistic, int(deepest))  # type: ignore[arg-type]
            case ["speculative"]:
                return SpeculativeExit()
            case ["speculative", deepest]:
                return SpeculativeExit(int(deepest))
            case ["epsilon", epsilon]:
                return ConfidenceExit(epsilon=float(epsilon))
            case ["epsilon", epsilon, statistic]:
                return ConfidenceExit(statistic=statistic, epsilon=float(epsilon))  # type: ignore[arg-type]
    except ValueError:
        pass
    raise PolicyFormError(f"{' '.join(words)!r} is no policy; give {POLICY_FORMS}")


def caveat(options: "GenerateOptions") -> str:
    """What a user should know of the text that the options ask for; mostly nothing."""
    from relay.policy import ConfidenceExit

    policy = options.get("policy")
    if isinstance(policy, ConfidenceExit) and policy.epsilon is not None and options.get("temperature"):
        return "epsilon is promised at temperature 0; for a sampled text it is only a guess"
    return ""


def described(given: "Policy | None") -> str:
    """A policy in the words that make it."""
    from relay.policy import ConfidenceExit, ExitSchedule, FixedExit, SpeculativeExit

    match given:
        case FixedExit(exit=number):
            return f"exit {number}"
        case ExitSchedule(seed=seed):
            return f"schedule {seed}"
        case ConfidenceExit(epsilon=None):
            deepest = f" {given.deepest}" if given.deepest else ""
            return f"confidence {','.join(f'{t:g}' for t in given.rule().thresholds)} {given.statistic}{deepest}"
        case ConfidenceExit():
            return f"epsilon {given.epsilon:g} {given.statistic}"
        case SpeculativeExit(exit=number):
            return f"speculative {number}" if number else "speculative"
        case None:
            return "the deepest exit"
