"""Intervals of anything that follows from a law's parameters, by its bootstrap draws."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from scaling.errors import ScalingError
from scaling.law import LEVEL, FittedLaw
from scaling.quantiles import bounds
from scaling.runs import FloatArray

NORMAL_DRAWS = 2000
"""Of a normal distribution with the law's covariance, where a law has no bootstrap."""


class Interval(NamedTuple):
    """A quantity with its interval, all of the quantity's shape."""

    value: FloatArray
    low: FloatArray
    high: FloatArray


def theta_draws(law: FittedLaw) -> FloatArray:
    """θ (B, p) as uncertain as the law: its bootstrap's draws, or without them normal ones of its covariance.

    Raises:
        ScalingError: it has neither.
    """
    if len(law.draws) > 1:
        return law.draws
    if law.covariance is None:
        raise ScalingError("the law has no draws and no covariance, so nothing says how sure it is: fit it again")
    rng = np.random.default_rng(law.seed)
    return rng.multivariate_normal(law.theta, law.covariance, NORMAL_DRAWS)


def interval(law: FittedLaw, quantity: Callable[[FloatArray], FloatArray], level: float = LEVEL) -> Interval:
    """A quantity of θ at the law's θ, and its interval (`scaling.quantiles.bounds`).

    Args:
        law: a fitted law.
        quantity: of θ (S, p), its first axis S.
        level: of the interval.
    """
    value = quantity(law.theta[None])[0]
    drawn = quantity(theta_draws(law))
    return Interval(value, *bounds(drawn, value, level))
