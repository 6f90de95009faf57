"""The three approaches of Hoffmann et al. (arXiv 2203.15556, section 3) to the exponent a of N* ~ C^a.

1. The lower envelope: of the runs of each budget, the size of that with the lowest loss. Hoffmann et al. take it from
   loss curves, at every FLOPs; here only final losses are there, so it is as coarse as the grid of sizes.
2. IsoFLOP profiles: a parabola in log N through the losses of each budget, and a line through their minima.
3. The parametric law, beta/(alpha+beta).

Intervals are from resampling runs: for 1 and 2 within their budgets, for 3 as the law's own bootstrap does.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from scaling.errors import ScalingError
from scaling.fit import fit
from scaling.law import LEVEL, OPTIMAL_SIZE
from scaling.runs import FloatArray, IntArray, Runs

SAME_BUDGET = 0.1
"""How far, in log C, a run of a budget may be from its middle."""
POINTS = 3
"""Sizes that a parabola needs, and a budget to have a lowest loss among sizes."""
RESAMPLES = 1000


@dataclass(frozen=True, eq=False)
class Profile:
    """The runs of one budget and the parabola in log N through their losses."""

    c: float
    """Geometric mean of the budget's FLOPs."""
    n: FloatArray
    """(P,), ascending."""
    d: FloatArray
    """(P,), tokens."""
    loss: FloatArray
    """(P,)"""
    coefficients: FloatArray
    """(3,), of log(N)², log(N), 1; NaN where there are fewer than three sizes."""

    @property
    def best(self) -> float:
        """N at the parabola's minimum; NaN where it has none between the smallest and the largest size."""
        square, linear, _ = self.coefficients.tolist()
        x = float(-linear / (2 * square)) if square > 0 else np.nan
        return float(np.exp(x)) if np.log(self.n[0]) <= x <= np.log(self.n[-1]) else np.nan

    def at(self, n: FloatArray | float) -> FloatArray:
        """The parabola's loss at N."""
        return np.asarray(np.polyval(self.coefficients, np.log(n)), np.float64)


@dataclass(frozen=True)
class Exponent:
    """a of N* ~ C^a by one approach."""

    approach: str
    value: float
    error: float
    low: float
    high: float
    budgets: int
    """Points that the line goes through; of approach 3, the runs."""


def budgets(c: FloatArray) -> list[IntArray]:
    """Which runs share a budget, the lowest first: again and again the most of those left that one run is near to."""
    left, groups = np.argsort(c, kind="stable"), []
    while len(left):
        at = np.log(c[left])
        first, end = np.searchsorted(at, at - SAME_BUDGET), np.searchsorted(at, at + SAME_BUDGET, "right")
        fullest = np.flatnonzero(end - first == (end - first).max())
        middle = fullest[np.argmin(left[fullest])]  # of several, the run that comes first
        groups.append(np.sort(left[first[middle] : end[middle]]))
        left = np.delete(left, slice(first[middle], end[middle]))
    return sorted(groups, key=lambda group: float(np.log(c[group]).mean()))


def profiles(runs: Runs) -> list[Profile]:
    """An IsoFLOP profile for each budget; the runs should be of one G."""
    return [_profile(runs, index) for index in budgets(runs.c)]


def line(x: FloatArray, y: FloatArray, weights: FloatArray | None = None) -> tuple[float, float]:
    """Slope and intercept by (weighted) least squares; NaN where there are fewer than two different x."""
    w = np.ones_like(x) if weights is None else weights
    if len(x) < 2 or np.ptp(x) == 0:
        return float("nan"), float("nan")
    mean_x, mean_y = np.average(x, weights=w), np.average(y, weights=w)
    slope = np.sum(w * (x - mean_x) * (y - mean_y)) / np.sum(w * (x - mean_x) ** 2)
    return float(slope), float(mean_y - slope * mean_x)


def envelope(runs: Runs, seed: int = 0, level: float = LEVEL) -> Exponent:
    """Approach 1, from final losses."""

    def best(index: IntArray) -> float:
        return float(runs.n[index[np.argmin(runs.loss[index])]])

    return _resampled("1, lowest final loss", runs, best, seed, level)


def isoflop(runs: Runs, seed: int = 0, level: float = LEVEL) -> Exponent:
    """Approach 2: minima that a budget's sizes enclose."""
    return _resampled("2, IsoFLOP profiles", runs, lambda index: _profile(runs, index).best, seed, level)


def parametric(runs: Runs, seed: int = 0, level: float = LEVEL, bootstraps: int = RESAMPLES) -> Exponent:
    """Approach 3: the dense law."""
    law = fit(runs, "dense", bootstraps=bootstraps, seed=seed)
    found = next(e for e in law.estimates(level) if e.name == OPTIMAL_SIZE)
    return Exponent("3, parametric law", found.value, found.error, found.low, found.high, len(runs))


def approaches(runs: Runs, seed: int = 0, level: float = LEVEL) -> tuple[Exponent, ...]:
    """All three, on the runs of G = 1.

    Raises:
        ScalingError: there are no such runs.
    """
    dense = runs.take(runs.g == 1)
    if not len(dense):
        raise ScalingError("the approaches of Hoffmann et al. are of dense models, and no run has G = 1")
    return envelope(dense, seed, level), isoflop(dense, seed, level), parametric(dense, seed, level)


def weighted_exponent(
    c: FloatArray, n: FloatArray, log_std: FloatArray, level: float = LEVEL, seed: int = 0
) -> Exponent:
    """The exponent from pairs (C, N*) that others found, each with the standard deviation of its log N*.

    Weights are inverse variances, as in Porian et al. (arXiv 2406.19146); the interval is from normal draws of log N*.
    """
    x, y, weights = np.log(c), np.log(n), log_std**-2.0
    slope, _ = line(x, y, weights)
    drawn = y + log_std * np.random.default_rng(seed).standard_normal((RESAMPLES, len(y)))
    slopes = np.array([line(x, row, weights)[0] for row in drawn])
    low, high = np.quantile(slopes, [(1 - level) / 2, (1 + level) / 2])
    return Exponent("weighted pairs", slope, float(slopes.std(ddof=1)), float(low), float(high), len(y))


def _profile(runs: Runs, index: IntArray) -> Profile:
    index = index[np.argsort(runs.n[index], kind="stable")]
    x, loss = np.log(runs.n[index]), runs.loss[index]
    enough = len(np.unique(x)) >= POINTS
    centre = x.mean()
    square, linear, constant = np.polyfit(x - centre, loss, 2) if enough else np.full(3, np.nan)
    coefficients = np.array(
        [square, linear - 2 * square * centre, constant - linear * centre + square * centre**2]
    )  # of log N itself
    c = float(np.exp(np.log(runs.c[index]).mean()))
    return Profile(c, runs.n[index], runs.d[index], loss, coefficients)


def _resampled(approach: str, runs: Runs, best: Callable[[IntArray], float], seed: int, level: float) -> Exponent:
    """The slope through budgets' best sizes, and its spread when runs are drawn again within their budgets."""
    groups = [group for group in budgets(runs.c) if len(np.unique(runs.n[group])) >= POINTS]
    x = np.array([np.log(runs.c[group]).mean() for group in groups])

    def slope(drawn: list[IntArray]) -> tuple[float, int]:
        y = np.log(np.array([best(group) for group in drawn]))
        there = np.isfinite(y)
        return line(x[there], y[there])[0], int(there.sum())

    rng = np.random.default_rng(seed)
    value, count = slope(groups)
    slopes = np.array([slope([rng.choice(group, len(group)) for group in groups])[0] for _ in range(RESAMPLES)])
    slopes = slopes[np.isfinite(slopes)]
    if len(slopes) < RESAMPLES / 2 or not np.isfinite(value):
        return Exponent(approach, value, float("nan"), float("nan"), float("nan"), count)
    low, high = np.quantile(slopes, [(1 - level) / 2, (1 + level) / 2])
    return Exponent(approach, value, float(slopes.std(ddof=1)), float(low), float(high), count)
