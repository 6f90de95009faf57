"""Which exit decides the token of a position. Pure functions of the request and the position, never of the process."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Literal, get_args

from relay.errors import InvalidRequestError
from relay.pace import MOST_DRAFTS

Statistic = Literal["max_probability", "margin", "entropy"]
"""Of an exit's probabilities, before temperature and filters: the largest, the largest less the second, and the entropy
in nats. An exit is sure when the first two are at least the threshold, the third at most."""


@dataclass(frozen=True)
class Rule:
    """When an exit may decide although a deeper one was allowed. Every exit on the way, on any node, decides by it.

    Raises `InvalidRequestError` for an unknown statistic, or for a threshold that no probability can be compared with.
    """

    statistic: Statistic
    thresholds: tuple[float, ...]
    """Of exit 1, exit 2 and so on; the last one is also that of every exit beyond."""

    def __post_init__(self) -> None:
        check_statistic(self.statistic)
        bounds = "0 nats or more" if self.statistic == "entropy" else "a number in 0..1"
        if not self.thresholds:
            raise InvalidRequestError(f"{self.statistic} has no threshold; give {bounds}, or one for each exit")
        most = math.inf if self.statistic == "entropy" else 1.0
        for threshold in self.thresholds:
            if not 0 <= threshold <= most:
                raise InvalidRequestError(f"the threshold of {self.statistic} cannot be {threshold}; give {bounds}")

    def allows(self, exit_: int, value: float) -> bool:
        """Whether an exit, counted from 1, whose probabilities have this value of the statistic may decide."""
        threshold = self.thresholds[min(exit_, len(self.thresholds)) - 1]
        return value <= threshold if self.statistic == "entropy" else value >= threshold


def check_statistic(statistic: str) -> None:
    """Raise `InvalidRequestError` unless it is a `Statistic`."""
    if statistic not in get_args(Statistic):
        raise InvalidRequestError(f"statistic {statistic!r} is unknown; give one of {', '.join(get_args(Statistic))}")


@dataclass(frozen=True)
class FixedExit:
    """Every token at this exit, counted from 1.

    Raises `InvalidRequestError` for a burst that no message can have.
    """

    exit: int
    burst: int = 0
    """Tokens that the exit's node may decide by itself after each that it is asked for, where it holds the lower
    segments too and the entry node sends it token ids: so many tokens come at once, for one round trip."""

    def __post_init__(self) -> None:
        if not 0 <= self.burst <= MOST_DRAFTS:
            raise InvalidRequestError(f"a burst cannot have {self.burst} tokens; give 0 to {MOST_DRAFTS}")


@dataclass(frozen=True)
class ExitSchedule:
    """An exit drawn for each position, uniformly, from (seed, position) alone: the same on every node and every run."""

    seed: int


@dataclass(frozen=True)
class ConfidenceExit:
    """Every token at the first exit that is sure enough, and at the deepest allowed if none is.

    Give the thresholds, or `epsilon` in their place. Raises `InvalidRequestError` for both or none of them, for an
    epsilon that is no share, and as `Rule` does.
    """

    threshold: float | Sequence[float] | None = None
    """Of every exit, or of exit 1, exit 2 and so on as in `Rule`."""
    statistic: Statistic = "max_probability"
    deepest: int | None = None
    """The deepest exit that may be asked; by default the family's; the entry node's own where it has no upstream."""
    epsilon: float | None = None
    """The thresholds are those that `calibrate-family` certified for the entry node's bundle: over texts like those of
    the calibration, the share of a text's tokens that differ from what the last exit would have chosen after the same
    text is expected to be at most this. That holds for greedy texts without penalties that are no longer than the
    calibration's and decided by this policy throughout; at a temperature above 0 the thresholds are only a guess."""

    def __post_init__(self) -> None:
        if (self.threshold is None) == (self.epsilon is None):
            raise InvalidRequestError("a confidence needs a threshold, or epsilon in its place; give one of the two")
        if self.epsilon is None:
            self.rule()
        elif not 0 < self.epsilon < 1:
            raise InvalidRequestError(f"epsilon cannot be {self.epsilon}; give a share of tokens between 0 and 1")
        elif self.deepest is not None:
            raise InvalidRequestError("epsilon is a promise about the family's last exit; leave `deepest` out")
        check_statistic(self.statistic)

    def rule(self) -> Rule:
        """When an exit may decide. Only where thresholds are given: the entry node looks up those of an epsilon."""
        assert self.threshold is not None
        given = self.threshold
        return Rule(self.statistic, tuple(given) if isinstance(given, Sequence) else (given,))


@dataclass(frozen=True)
class SpeculativeExit:
    """Every token as one exit decides it, drafted by an earlier exit of the entry node and verified many at a time.

    Raises `InvalidRequestError` for a length that no message can have.
    """

    exit: int | None = None
    """The target; by default the deepest that the entry node can reach."""
    draft_exit: int | None = None
    """By default the entry node's deepest before the target."""
    length: int | None = None
    """Drafts of a message; by default as many as pays, by what the entry node measures."""
    shorten: bool = False
    """Whether exits between the two may take off drafts that they would not have made."""

    def __post_init__(self) -> None:
        if self.length is not None and not 1 <= self.length <= MOST_DRAFTS:
            raise InvalidRequestError(f"a message cannot have {self.length} drafts; give 1 to {MOST_DRAFTS}")


Policy = FixedExit | ExitSchedule | ConfidenceExit | SpeculativeExit


def target_exit(policy: Policy, position: int, deepest: int) -> int:
    """The exit that decides the token id of `position` if none before it is sure enough, in 1..deepest."""
    match policy:
        case FixedExit(exit=exit_):
            return exit_
        case ExitSchedule(seed=seed):
            digest = blake2b(seed.to_bytes(8, "little") + position.to_bytes(8, "little"), digest_size=8).digest()
            return 1 + int.from_bytes(digest, "little") % deepest
        case ConfidenceExit(deepest=own) | SpeculativeExit(exit=own):
            return own or deepest


def drafting_exit(policy: SpeculativeExit, deepest: int, last: int) -> int:
    """The exit that drafts at an entry node whose last segment is `last` and that reaches exits up to `deepest`."""
    return policy.draft_exit or min(last, target_exit(policy, 0, deepest) - 1)


def rule_of(policy: Policy) -> Rule | None:
    """When an exit before the target's may decide; None: never."""
    return policy.rule() if isinstance(policy, ConfidenceExit) else None


def deepest_exit(policy: Policy, deepest: int) -> int:
    """The deepest exit that the policy may ask, where `deepest` is the deepest that there is."""
    return deepest if isinstance(policy, ExitSchedule) else target_exit(policy, 0, deepest)
