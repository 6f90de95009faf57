"""What `fit-law --profile` and `--approaches` add to a law, for people and for programs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scaling.approaches import Exponent
from scaling.profile import LikelihoodProfile


@dataclass(frozen=True)
class ProfileSummary:
    """A `LikelihoodProfile` in JSON's types."""

    parameter: str
    value: float
    level: float
    at: tuple[float, ...]
    statistic: tuple[float, ...]
    """At these values."""
    quantile: float
    """Of the statistic, at the interval's ends."""
    low: float | None = None
    """Missing where the runs set no end, as `high` is; 0 for E, A and B."""
    high: float | None = None


@dataclass(frozen=True)
class ExponentSummary:
    """An `Exponent` in JSON's types; what is unknown is missing."""

    approach: str
    budgets: int
    value: float | None = None
    error: float | None = None
    low: float | None = None
    high: float | None = None


def summarise_profiles(found: Sequence[LikelihoodProfile]) -> tuple[ProfileSummary, ...]:
    """Profiles in JSON's types."""
    return tuple(
        ProfileSummary(
            one.parameter,
            one.value,
            one.level,
            tuple(one.at.tolist()),
            tuple(one.statistic.tolist()),
            one.quantile,
            _finite(one.low),
            _finite(one.high),
        )
        for one in found
    )


def profiles_table(found: Sequence[LikelihoodProfile], shared: bool) -> str:
    """A line for each parameter.

    Args:
        found: profiles.
        shared: whether several rows are of one run, for which profiles are too narrow.
    """
    lines = [f"{'':<14}{'estimate':>12}   {found[0].level:.0%} interval by the profile likelihood"]
    for one in found:
        low, high = (_number(_finite(end)) for end in (one.low, one.high))
        lines.append(f"{one.parameter:<14}{one.value:>12.4g}   {low} to {high}")
    if shared:
        lines.append("it takes rows of one run for independent: it is too narrow here, believe the bootstrap's")
    return "\n".join(lines)


def summarise_approaches(found: Sequence[Exponent]) -> tuple[ExponentSummary, ...]:
    """Exponents in JSON's types."""
    return tuple(
        ExponentSummary(one.approach, one.budgets, *map(_finite, (one.value, one.error, one.low, one.high)))
        for one in found
    )


def approaches_table(found: Sequence[Exponent]) -> str:
    """A line for each approach."""
    lines = ["a of N* ~ C^a by the approaches of Hoffmann et al., of runs with G = 1; in brackets 90% intervals"]
    for one in found:
        value, low, high = (_number(_finite(number)) for number in (one.value, one.low, one.high))
        of = "runs" if one is found[-1] else "budgets"
        lines.append(f"{one.approach:<24}{value} ({low} to {high}), {one.budgets} {of}")
    return "\n".join(lines)


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None


def _number(number: float | None) -> str:
    return "-" if number is None else f"{number:.4g}"
