"""The learning-rate rule from a sweep over learning rates: the best rate of each size, and a power law through them."""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from training.sweep.design import RateRule
from training.sweep.errors import SweepError
from training.sweep.rows import Row

FEWEST_RATES = 3


@dataclass(frozen=True)
class BestRate:
    """Where a size's loss is lowest."""

    parameters: int
    rate: float
    loss: float
    """The lowest that was measured."""
    inside: bool
    """Whether lower and higher rates were tried; if not, the best may lie beyond."""


def best_rates(rows: Sequence[Row]) -> list[BestRate]:
    """The best rate of each dense size at each budget, the vertex of a parabola through the best three in log(rate)."""
    groups: dict[tuple[int, float], dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if row.granularity == 1 and row.depth_of is None and row.loss is not None:
            groups[row.parameters, row.budget_flops][row.lr].append(row.loss)
    return [
        _best(parameters, {rate: float(np.mean(losses)) for rate, losses in found.items()})
        for (parameters, _), found in sorted(groups.items())
        if len(found) >= FEWEST_RATES
    ]


def fit_rate(best: Sequence[BestRate]) -> RateRule:
    """The power law in N through the best rates, by least squares in logarithms.

    Raises:
        SweepError: fewer than two sizes have been tried with enough rates.
    """
    sizes = [math.log(b.parameters) for b in best]
    if len(set(sizes)) < 2:
        raise SweepError(
            f"a learning-rate rule needs at least two dense sizes with {FEWEST_RATES} finished rates each; give the "
            "design a grid with rate_factors, and run it"
        )
    power, level = np.polyfit(sizes, [math.log(b.rate) for b in best], 1)
    middle = round(math.exp(float(np.mean(sizes))))
    return RateRule(float(middle), _digits(math.exp(level + power * math.log(middle))), _digits(power))


def _best(parameters: int, losses: dict[float, float]) -> BestRate:
    rates = sorted(losses)
    at = min(range(len(rates)), key=lambda i: losses[rates[i]])
    lowest = losses[rates[at]]
    if not 0 < at < len(rates) - 1:
        return BestRate(parameters, rates[at], lowest, inside=False)
    near = rates[at - 1 : at + 2]
    a, b, _ = np.polyfit([math.log(rate) for rate in near], [losses[rate] for rate in near], 2)
    return BestRate(parameters, _digits(math.exp(-b / (2 * a))), lowest, inside=True)


def _digits(value: float) -> float:
    return float(f"{value:.3g}")
