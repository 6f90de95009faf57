"""How well a law tells runs of more compute than those it was fitted to.

What a law is for is runs that nobody has made yet. So the runs of the most compute are held out, the law is fitted to
the others, and its predictions are compared with what came out: next to two that need no law, a power of C alone
(Kaplan et al., arXiv 2001.08361, eq. 1.3) and the lowest loss so far.
"""

from dataclasses import dataclass

import numpy as np

from scaling.approaches import budgets, line
from scaling.errors import ScalingError
from scaling.findings import Finding, counted, note, warning
from scaling.forms import Form
from scaling.objective import Objective
from scaling.runs import FloatArray, Runs

SHARE = 0.25
"""Of the runs, how many are held out."""


@dataclass(frozen=True)
class HeldOut:
    """Predictions of held-out losses. Errors are |L̂ / L - 1|, medians over the losses."""

    fitted: int
    """Losses that the law was fitted to."""
    predicted: int
    """Losses that were held out."""
    from_c: float
    """The least C among these, FLOPs."""
    reach: float
    """The most C among these over the most C that the law was fitted to."""
    error: float
    """Of the law."""
    largest: float
    """The largest of the law's errors."""
    bias: float
    """Median of L̂ / L - 1: over 0 where the law expects too much."""
    power_error: float
    """Of a power of C, a line through log C and log L of the fitted runs."""
    lowest_error: float
    """Of the lowest loss that was fitted to."""


def split(runs: Runs, share: float = SHARE) -> tuple[Runs, Runs]:
    """The runs of less compute, and those of more: about `share` of all, with no budget in both parts.

    Raises:
        ScalingError: there is one budget, or `share` is no share.
    """
    if not 0 < share < 1:
        raise ScalingError(f"the share of runs to hold out lies between 0 and 1, got {share:g}")
    groups = budgets(runs.c)
    if len(groups) < 2:
        raise ScalingError("all runs are of one budget, so none of more compute can be held out")
    below = np.cumsum([len(group) for group in groups])[:-1]
    first = 1 + int(np.argmin(np.abs(below - (1 - share) * len(runs))))
    upper = np.sort(np.concatenate(groups[first:]))
    return runs.without(upper), runs.take(upper)


def held_out(form: Form, theta: FloatArray, lower: Runs, upper: Runs) -> HeldOut:
    """What a law says of runs that it did not see.

    Args:
        form: of the law.
        theta: (p,), fitted to `lower`.
        lower: what it was fitted to.
        upper: what it did not see.
    """
    errors = np.expm1(Objective(form.design(upper), np.log(upper.loss)).residuals(theta[None])[0])
    slope, intercept = line(np.log(lower.c), np.log(lower.loss))
    power = np.exp(intercept + slope * np.log(upper.c)) / upper.loss - 1
    lowest = lower.loss.min() / upper.loss - 1
    return HeldOut(
        fitted=len(lower),
        predicted=len(upper),
        from_c=float(upper.c.min()),
        reach=float(upper.c.max() / lower.c.max()),
        error=float(np.median(np.abs(errors))),
        largest=float(np.abs(errors).max()),
        bias=float(np.median(errors)),
        power_error=float(np.median(np.abs(power))),
        lowest_error=float(np.median(np.abs(lowest))),
    )


def held_out_finding(found: HeldOut) -> Finding:
    """The comparison in words: a warning where no law would have done better."""
    text = (
        f"held out, {counted(found.predicted, 'loss', 'losses')} from {found.from_c:.3g} FLOPs on, up to "
        f"{found.reach:.3g} times the compute of the fit: the law is off by {found.error:.2%} in the median (bias "
        f"{found.bias:+.2%}, at most {found.largest:.2%}), a power of C alone by {found.power_error:.2%}, the lowest "
        f"loss of the fit by {found.lowest_error:.2%}"
    )
    worse = found.error > min(found.power_error, found.lowest_error)
    return warning("held-out", f"{text}: no law does better") if worse else note("held-out", text)
