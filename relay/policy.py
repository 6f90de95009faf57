"""Which exit decides the token of a position. Pure functions of the request and the position, never of the process."""

import math
from dataclasses import dataclass
from hashlib import blake2b
from typing import Literal, get_args

from relay.errors import InvalidRequestError

Statistic = Literal["max_probability", "margin", "entropy"]
"""Of an exit's probabilities, before temperature and filters: the largest, the largest less the second, and the entropy
in nats. An exit is sure when the first two are at least the threshold, the third at most."""


@dataclass(frozen=True)
class Rule:
    """When an exit may decide although a deeper one was allowed. Every exit on the way, on any node, decides by it.

    Raises `InvalidRequestError` for an unknown statistic or a threshold that no probability can be compared with.
    """

    statistic: Statistic
    threshold: float

    def __post_init__(self) -> None:
        if self.statistic not in get_args(Statistic):
            raise InvalidRequestError(
                f"statistic {self.statistic!r} is unknown; give one of {', '.join(get_args(Statistic))}"
            )
        most = math.inf if self.statistic == "entropy" else 1.0
        if not 0 <= self.threshold <= most:
            bounds = "0 nats or more" if self.statistic == "entropy" else "a number in 0..1"
            raise InvalidRequestError(f"the threshold of {self.statistic} cannot be {self.threshold}; give {bounds}")


@dataclass(frozen=True)
class FixedExit:
    """Every token at this exit, counted from 1."""

    exit: int


@dataclass(frozen=True)
class ExitSchedule:
    """An exit drawn for each position, uniformly, from (seed, position) alone: the same on every node and every run."""

    seed: int


@dataclass(frozen=True)
class ConfidenceExit:
    """Every token at the first exit that is sure enough, and at the deepest allowed if none is.

    Raises `InvalidRequestError` as `Rule` does.
    """

    threshold: float
    statistic: Statistic = "max_probability"
    deepest: int | None = None
    """The deepest exit that may be asked; by default the family's; the entry node's own where it has no upstream."""

    def __post_init__(self) -> None:
        Rule(self.statistic, self.threshold)


Policy = FixedExit | ExitSchedule | ConfidenceExit


def target_exit(policy: Policy, position: int, deepest: int) -> int:
    """The exit that decides the token id of `position` if none before it is sure enough, in 1..deepest."""
    match policy:
        case FixedExit(exit=exit_):
            return exit_
        case ExitSchedule(seed=seed):
            digest = blake2b(seed.to_bytes(8, "little") + position.to_bytes(8, "little"), digest_size=8).digest()
            return 1 + int.from_bytes(digest, "little") % deepest
        case ConfidenceExit(deepest=own):
            return own or deepest


def rule_of(policy: Policy) -> Rule | None:
    """When an exit before the target's may decide; None: never."""
    return Rule(policy.statistic, policy.threshold) if isinstance(policy, ConfidenceExit) else None


def deepest_exit(policy: Policy, deepest: int) -> int:
    """The deepest exit that the policy may ask, where `deepest` is the deepest that there is."""
    return deepest if isinstance(policy, ExitSchedule) else target_exit(policy, 0, deepest)
