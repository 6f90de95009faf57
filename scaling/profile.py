"""The profile of one parameter: how much worse the fit is when it is held at a value, and the interval that follows.

All other parameters are fitted again at every value. The objective V is a sum of Huber losses, no likelihood, so twice
its difference has no chi-squared distribution as it stands; scaled by E[psi'] / E[psi²], psi the loss's derivative, it
has (Ronchetti, 1982; Heritier and Ronchetti, JASA 89, 1994), for independent residuals of one distribution. Rows of one
run (exits) are not independent: for these the interval is too narrow, and the bootstrap's is to be believed.

With δ far below the residuals few lie within it, so E[psi'] = P(|r| <= δ) is taken from the density over half a robust
standard deviation on either side of 0.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from scaling.coordinates import centred
from scaling.diagnose import robust_sigma
from scaling.errors import ScalingError
from scaling.findings import listed
from scaling.forms import SCALES, Form
from scaling.law import LEVEL
from scaling.newton import descend
from scaling.objective import Objective
from scaling.quantiles import reach
from scaling.runs import FloatArray, Runs
from scaling.solve import objective_of

FIRST_STEP = 0.02
"""From the fit, in θ's unit; doubled until the interval's end is passed."""
DOUBLINGS = 12
"""Beyond a step of 80 the end is called infinite."""
HALVINGS = 20
POINTS = 25
"""Of the curve."""


@dataclass(frozen=True, eq=False)
class LikelihoodProfile:
    """The profile of one parameter."""

    parameter: str
    """As `Form.natural_names` has it."""
    value: float
    """At the fit."""
    low: float
    high: float
    level: float
    at: FloatArray
    """(P,), values across the interval and somewhat beyond."""
    statistic: FloatArray
    """(P,), the scaled likelihood ratio there: 0 at the fit, the quantile at the interval's ends."""
    quantile: float
    """Of chi-squared with one degree of freedom, at `level`."""


def profiles(runs: Runs, form: Form, theta: FloatArray, level: float = LEVEL) -> tuple[LikelihoodProfile, ...]:
    """`profile` of every parameter."""
    return tuple(profile(runs, form, theta, name, level) for name in form.natural_names)


def profile(runs: Runs, form: Form, theta: FloatArray, parameter: str, level: float = LEVEL) -> LikelihoodProfile:
    """Profile one parameter of a fit.

    Args:
        runs: those it was fitted to.
        form: the form.
        theta: (p,), the fit, at its optimum.
        parameter: its name: E, A, B or an exponent.
        level: of the interval.

    Raises:
        ScalingError: the form has no such parameter, `level` is no share, or the runs fit the law to the last digit.
    """
    if parameter not in form.natural_names:
        raise ScalingError(f"the form {form.name} has no {parameter!r}; choose one of {listed(form.natural_names)}")
    index = form.natural_names.index(parameter)
    quantile = reach(level) ** 2
    statistic = _statistic(objective_of(form, runs), theta, index)
    low, high = (_end(statistic, float(theta[index]), side, quantile) for side in (-1, 1))
    inner = [end if np.isfinite(end) else theta[index] for end in (low, high)]
    margin = 0.2 * (inner[1] - inner[0])
    at = np.linspace(inner[0] - margin, inner[1] + margin, POINTS)
    values = np.array([statistic(value) for value in at])
    shown: Callable[[FloatArray], FloatArray] = np.exp if index < len(SCALES) else np.asarray
    centre, first, last = shown(np.array([theta[index], low, high])).tolist()
    return LikelihoodProfile(parameter, centre, first, last, level, shown(at), values, quantile)


def _statistic(objective: Objective, theta: FloatArray, index: int) -> Callable[[float], float]:
    """The scaled likelihood ratio as a function of the value that θ[index] is held at."""
    residuals = objective.residuals(theta[None])[0]
    best, scale = float(objective.value(theta[None])[0]), _scale(residuals, objective.delta)
    others = np.delete(theta, index)[None]

    def statistic(value: float) -> float:
        found = centred(objective.fixed(index, value))
        ends = descend(found.objective, found.phi(others))
        return max(0.0, 2 * scale * (float(ends.curve.value[0]) - best))

    return statistic


def _scale(residuals: FloatArray, delta: float) -> float:
    """E[psi'] / E[psi²]."""
    psi = np.clip(residuals, -delta, delta)
    near = max(delta, robust_sigma(residuals) / 2)
    within = float((np.abs(residuals) <= near).mean()) * delta / near
    if not (squared := float((psi**2).mean())):
        raise ScalingError("the runs fit the law to the last digit: nothing is left that says how sure it is")
    return within / squared


def _end(statistic: Callable[[float], float], centre: float, side: int, quantile: float) -> float:
    """Where the statistic reaches the quantile on one side; infinite where it does not."""
    inside, step = centre, FIRST_STEP
    for _ in range(DOUBLINGS):
        outside = centre + side * step
        if statistic(outside) > quantile:
            break
        inside, step = outside, 2 * step
    else:
        return side * float("inf")
    for _ in range(HALVINGS):
        middle = (inside + outside) / 2
        inside, outside = (inside, middle) if statistic(middle) > quantile else (middle, outside)
    return (inside + outside) / 2
