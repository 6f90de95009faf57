"""The rules that are worth testing: thresholds of all exits from one number, made of prompts that test nothing.

That number is the chance of a wrong token that is just accepted. For every exit the share of wrong choices is
estimated as a function of its statistic (isotonic regression, along the last exit's own texts), and its threshold
stands where this share reaches that chance. Tokens are traded between exits until another one accepted anywhere costs
the same: of all thresholds with as many tokens decided early this gives the fewest wrong ones, as far as each exit is
seen by itself.
"""

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from exporter.confidence.trajectories import Reader, follow
from relay.policy import Rule, Statistic

F64 = NDArray[np.float64]
Bools = NDArray[np.bool_]

STEP = 1.3
"""Ratio of the expected risks of neighbouring rules."""
LOWEST, HIGHEST = 1 / 6, 1.2
"""The first and the last rule's expected risk, over the smallest and the largest epsilon."""
_ACCEPTED: list[float] = np.geomspace(1e-4, 0.999, 600).tolist()


@dataclass(frozen=True)
class Observed:
    """What the exits but the last said along texts of the last one."""

    values: dict[str, F64]
    """By statistic, (tokens, exits)."""
    wrong: Bools
    """Where an exit's choice is not the last one's, (tokens, exits)."""


@dataclass(frozen=True)
class Candidate:
    """A rule to be tested."""

    accepted: float
    """The chance of a wrong token up to which an exit decides."""
    expected: float
    """Risk on the texts that it was made of."""
    rule: Rule


def observe(reader: Reader, stop_ids: Collection[int], most: int) -> Observed:
    """One prompt's text at the last exit, with what every other exit says of each token."""
    tokens = follow(reader, None, stop_ids, most).tokens
    ends = range(len(tokens) - 1, -1, -1)  # the last first: an exit reads what it lacks in one forward
    by_exit = [[reader.at(tokens[:end], g) for end in ends][::-1] for g in range(1, reader.depth)]
    statistics = by_exit[0][0].values
    values = {name: np.array([[r.values[name] for r in readings] for readings in by_exit]).T for name in statistics}
    wrong = np.array([[r.token != t for r, t in zip(readings, tokens, strict=True)] for readings in by_exit]).T
    return Observed(values, wrong)


def candidates(seen: Sequence[Observed], statistic: Statistic, epsilons: Iterable[float]) -> list[Candidate]:
    """Rules of one statistic, the strictest first, each with a higher expected risk than the one before."""
    values = np.concatenate([one.values[statistic] for one in seen])
    wrong = np.concatenate([one.wrong for one in seen])
    doubt = values if statistic == "entropy" else -values
    curves = [rising_shares(doubt[:, g], wrong[:, g]) for g in range(doubt.shape[1])]
    limits = [[_limit(curve, accepted) for curve in curves] for accepted in _ACCEPTED]
    risks = np.array([_expected(doubt, wrong, limit) for limit in limits])
    strictest = 0.0 if statistic == "entropy" else 1.0
    found: dict[int, Candidate] = {}
    for aim in _aims(sorted(epsilons)):
        fitting = np.flatnonzero(risks <= aim)
        if fitting.size:
            i = int(fitting[-1])
            thresholds = tuple(abs(limit) if math.isfinite(limit) else strictest for limit in limits[i])
            found[i] = Candidate(_ACCEPTED[i], float(risks[i]), Rule(statistic, thresholds))
    return [found[i] for i in sorted(found)]


def rising_shares(doubt: F64, wrong: Bools) -> tuple[F64, F64]:
    """The share of wrong choices as a rising function of doubt, both (n,): doubts, ascending, and the share at each.

    Between them it is a straight line (centred isotonic regression, Oron and Flournoy 2017): neighbours are pooled
    until shares rise, and each pool stands at its mean doubt.
    """
    order = np.argsort(doubt, kind="stable")
    pools: list[tuple[float, float, int]] = []  # sums of doubt and of wrong choices, and the size
    for value, failed in zip(doubt[order], wrong[order], strict=True):
        pools.append((float(value), float(failed), 1))
        while len(pools) > 1 and pools[-2][1] * pools[-1][2] >= pools[-1][1] * pools[-2][2]:
            (a, b, n), (c, d, m) = pools[-2:]
            pools[-2:] = [(a + c, b + d, n + m)]
    sums = np.array(pools)
    return sums[:, 0] / sums[:, 2], sums[:, 1] / sums[:, 2]


def _aims(epsilons: Sequence[float]) -> F64:
    """Expected risks at which a rule is wanted, rising."""
    lowest, highest = epsilons[0] * LOWEST, epsilons[-1] * HIGHEST
    aims: F64 = np.geomspace(lowest, highest, 1 + math.ceil(math.log(highest / lowest) / math.log(STEP)))
    return aims


def _limit(curve: tuple[F64, F64], accepted: float) -> float:
    """The largest doubt at which the share of wrong choices is at most `accepted`; minus infinity if none is."""
    doubts, shares = curve
    return float(np.interp(accepted, shares, doubts)) if accepted >= shares[0] else -math.inf


def _expected(doubt: F64, wrong: Bools, limits: Sequence[float]) -> float:
    """Share of tokens that come out wrong where each is decided by the first exit whose doubt is within its limit."""
    allowed = doubt <= np.array(limits)
    first = allowed & (np.cumsum(allowed, axis=1) == 1)
    return float((first & wrong).any(axis=1).mean())
