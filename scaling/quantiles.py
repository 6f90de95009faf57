"""Intervals from bootstrap draws: bias-corrected percentiles.

Where the estimate is not the median of its draws, the percentiles are moved by twice that distance, measured in normal
deviates (Efron, Canadian J. Statistics 9, 1981, section 7). Like plain percentiles they do not depend on the scale of a
quantity (A or log A). With a Huber loss far inside its linear zone, drawing runs overstates the variance of small
samples: on 90 runs plain 90% percentiles hold gamma in 94% of data sets, these in close to 90%
(`benchmarks.recovery`).
"""

import numpy as np
from scipy.special import ndtr, ndtri

from scaling.errors import ScalingError
from scaling.runs import FloatArray


def reach(level: float) -> float:
    """Half the width of a normal distribution's interval, in standard deviations.

    Raises:
        ScalingError: `level` is no share.
    """
    if not 0 < level < 1:
        raise ScalingError(f"an interval's level lies between 0 and 1, got {level:g}")
    return float(ndtri((1 + level) / 2))


def bounds(drawn: FloatArray, value: FloatArray | float, level: float) -> tuple[FloatArray, FloatArray]:
    """Low and high end (...) of the interval of quantities that are `value` (...) and were drawn as (B, ...).

    A draw in which a quantity does not exist (NaN) counts as lower than the low end and higher than the high one. The
    estimate is always inside.

    Raises:
        ScalingError: `level` is no share.
    """
    half = reach(level)
    known = ~np.isnan(drawn)
    below = ((drawn < value) + 0.5 * (drawn == value)).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    shift = np.clip(ndtri(np.where(known.any(axis=0), below, 0.5)), -half, half)
    low = _quantile(np.where(known, drawn, -np.inf), ndtr(2 * shift - half))
    high = _quantile(np.where(known, drawn, np.inf), ndtr(2 * shift + half))
    return np.fmin(low, value), np.fmax(high, value)


def _quantile(drawn: FloatArray, share: FloatArray) -> FloatArray:
    """The quantile of each quantity at its own share."""
    ordered = np.sort(drawn, axis=0)
    place = share * (len(drawn) - 1)
    lower = np.floor(place).astype(np.int64)
    upper = np.minimum(lower + 1, len(drawn) - 1)
    under, over = (np.take_along_axis(ordered, at[None], axis=0)[0] for at in (lower, upper))
    part = place - lower
    with np.errstate(invalid="ignore"):  # between infinities
        between: FloatArray = np.where(part > 0, under + part * (over - under), under)
    return np.where(under == over, under, between)
