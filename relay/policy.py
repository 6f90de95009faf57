"""Which exit decides the token of a position. Pure functions of the request and the position, never of the process."""

from dataclasses import dataclass
from hashlib import blake2b


@dataclass(frozen=True)
class FixedExit:
    """Every token at this exit, counted from 1."""

    exit: int


@dataclass(frozen=True)
class ExitSchedule:
    """An exit drawn for each position, uniformly, from (seed, position) alone: the same on every node and every run."""

    seed: int


Policy = FixedExit | ExitSchedule


def target_exit(policy: Policy, position: int, deepest: int) -> int:
    """The exit that decides the token id of `position`, in 1..deepest."""
    match policy:
        case FixedExit(exit=exit_):
            return exit_
        case ExitSchedule(seed=seed):
            digest = blake2b(seed.to_bytes(8, "little") + position.to_bytes(8, "little"), digest_size=8).digest()
            return 1 + int.from_bytes(digest, "little") % deepest
