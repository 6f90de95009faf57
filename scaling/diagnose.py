"""What a fit shows of its runs and of itself: outliers, losses out of its reach, parameters that it does not know."""

import numpy as np

from scaling.certificate import LEAST_SHARE
from scaling.findings import Finding, counted, listed, warning
from scaling.forms import SCALES, Form
from scaling.law import LEVEL
from scaling.objective import Objective
from scaling.quantiles import bounds
from scaling.runs import FloatArray, Runs

OUTLYING = 5.0
"""Robust standard deviations from the median residual."""
FAINT = 1e-3
"""Largest share of a loss of a term that is hardly there. One that is not there at all stands in the certificate."""
UNKNOWN = 1.645
"""Standard errors between an exponent and 0 within which its 90% interval has both signs."""
LOOSE = 4.0
"""Most that the ends of alpha's or beta's interval are apart, as a factor."""
UNEXPLAINED = 0.5
"""Largest share of the spread of log losses that a law should leave."""
NORMAL_MAD = 1.4826
"""Standard deviation of a normal distribution over its median absolute deviation."""

_TERMS = {"E": "irreducible loss", "A": "term of N", "B": "term of D"}


def robust_sigma(residuals: FloatArray) -> float:
    """Standard deviation from the median absolute deviation, which outliers do not move."""
    return NORMAL_MAD * float(np.median(np.abs(residuals - np.median(residuals))))


def diagnose(
    runs: Runs, form: Form, theta: FloatArray, covariance: FloatArray | None, draws: FloatArray | None = None
) -> tuple[Finding, ...]:
    """What is to be said of a form fitted to runs.

    Args:
        runs: those it was fitted to.
        form: the form.
        theta: (p,), the fit.
        covariance: (p, p), of θ; None where it is not determined.
        draws: (B, p), of the bootstrap, which say more than the covariance where there are any.
    """
    objective = Objective(form.design(runs), np.log(runs.loss))
    residuals = objective.residuals(theta[None])[0]
    terms = np.exp(objective.x @ theta)  # (3, n)
    return (
        *_unexplained(runs, residuals),
        *_outliers(runs, residuals),
        *_unreached(runs, terms[0]),
        *_faint(terms),
        *_unknown(form, theta, covariance, draws if draws is not None and len(draws) > 1 else None),
    )


def _unexplained(runs: Runs, residuals: FloatArray) -> list[Finding]:
    left, whole = robust_sigma(residuals), robust_sigma(np.log(runs.loss))
    if left <= UNEXPLAINED * whole:
        return []
    text = f"the law leaves {left:.1%} of scatter where the losses themselves scatter by {whole:.1%}: N, D and G say "
    return [warning("unexplained", text + "little of these losses")]


def _outliers(runs: Runs, residuals: FloatArray) -> list[Finding]:
    sigma = robust_sigma(residuals)
    distance = np.abs(residuals - np.median(residuals))
    far = np.flatnonzero(distance > OUTLYING * max(sigma, np.finfo(float).eps))
    if not len(far):
        return []
    far = far[np.argsort(-distance[far], kind="stable")]
    named = [f"{name} ({-r:+.1%})" for name, r in zip(runs.names(far), residuals[far], strict=True)]
    text = (
        f"{counted(len(far), 'loss', 'losses')} more than {OUTLYING:g} robust sigmas of {sigma:.2%} above (+) or below "
    )
    text += "the law: "
    return [warning("outliers", text + listed(named))]


def _unreached(runs: Runs, floor: FloatArray) -> list[Finding]:
    below = runs.loss <= floor
    if not below.any():
        return []
    text = f"{counted(below.sum(), 'loss', 'losses')} under the fitted irreducible loss: {listed(runs.names(below))}; "
    return [warning("under-e", text + "E is too high, or they are not of the same kind as the others")]


def _faint(terms: FloatArray) -> list[Finding]:
    shares = (terms / terms.sum(axis=0)).max(axis=1)
    named = zip(_TERMS.items(), shares, strict=True)
    hardly = [f"{name} ({what})" for (name, what), share in named if LEAST_SHARE <= share < FAINT]
    if not hardly:
        return []
    text = f"the fit has hardly any {' and '.join(hardly)}: less than {FAINT:.1%} of every loss; widen N and D"
    return [warning("faint", text)]


def _unknown(form: Form, theta: FloatArray, covariance: FloatArray | None, draws: FloatArray | None) -> list[Finding]:
    if covariance is None:
        return [
            warning("undetermined", "the runs do not determine all parameters: the objective is flat at the optimum")
        ]
    if draws is None:
        reach = UNKNOWN * np.sqrt(np.diag(covariance))
        ends = np.array([theta - reach, theta + reach])
    else:
        ends = np.array(bounds(draws, theta, LEVEL))
    findings = []
    for name, value, low, high in list(zip(form.parameters, theta, *ends, strict=True))[len(SCALES) :]:
        if name in ("alpha", "beta") and value <= 0:
            text = f"{name} is {value:.3g}: loss rises with {'N' if name == 'alpha' else 'D'}; no law of this form"
            findings.append(warning("rising", text))
        elif low < 0 < high:
            text = f"{name} is {value:.3g}, somewhere from {low:.3g} to {high:.3g}: the runs do not tell it from 0"
            findings.append(warning("undetermined", text))
        elif name in ("alpha", "beta") and high > LOOSE * low:
            text = f"{name} is {value:.3g}, somewhere from {low:.3g} to {high:.3g}: do not extrapolate by it"
            findings.append(warning("loose", text))
    return findings
