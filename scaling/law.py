"""The fitted law: parameters with their uncertainty, what they were fitted to, and predictions with intervals."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from scaling.certificate import Certificate
from scaling.check import check_values
from scaling.findings import Finding
from scaling.forms import SCALES, Form
from scaling.objective import Objective
from scaling.quantiles import bounds, reach
from scaling.runs import Conventions, FloatArray, Runs, Source, aligned, make_runs

OPTIMAL_SIZE = "beta/(alpha+beta)"
"""The exponent of C in N*, the best size for a budget of 6ND FLOPs (Hoffmann et al., arXiv 2203.15556, eq. 4)."""
LEVEL = 0.9
"""Of intervals, unless another is asked for."""
MOST_NUMBERS = 1 << 22
"""Predictions of draws that are held at once."""


class Prediction(NamedTuple):
    """Of P points."""

    loss: FloatArray
    """(P,), nats per token."""
    low: FloatArray
    """(P,), the interval of the law itself; a run scatters around it by `FittedLaw.sigma` as well."""
    high: FloatArray
    """(P,)"""


@dataclass(frozen=True)
class Estimate:
    """One number of the law."""

    name: str
    value: float
    error: float
    """Standard error: that of the bootstrap's draws, or without them from the covariance, to first order. NaN where
    the runs do not determine it, or the draws have no finite one."""
    low: float
    high: float


@dataclass(frozen=True)
class Data:
    """What a law was fitted to."""

    sha256: str
    """`Runs.sha256`."""
    runs: int
    observations: int
    """Losses; more than runs where every exit has its own."""
    ranges: Mapping[str, tuple[float, ...]]
    """Least and greatest N, D, G, C and loss."""
    source: Source | None = None


def data_of(runs: Runs) -> Data:
    """What a law says of the runs that it was fitted to."""
    arrays = {name: getattr(runs, name) for name in ("n", "d", "g", "c", "loss")}
    ranges = {name: (float(array.min()), float(array.max())) for name, array in arrays.items()}
    return Data(runs.sha256, len(np.unique(runs.cluster)), len(runs), ranges, runs.source)


@dataclass(frozen=True, eq=False)
class FittedLaw:
    """A form with parameters θ. All arrays are float64."""

    form: Form
    method: str
    """`certified` or `paper`."""
    theta: FloatArray
    """(p,), as `form.parameters` names them: e, a, b are logarithms of E, A, B."""
    covariance: FloatArray | None
    """(p, p), of θ; None where the runs do not determine it."""
    draws: FloatArray
    """(B, p): θ of each bootstrap of the runs; B may be 0."""
    seed: int
    """Of the draws."""
    objective: float
    """The sum of Huber losses at θ."""
    sigma: float
    """Robust standard deviation of the residuals of log L: how far a run is from the law."""
    conventions: Conventions
    certificate: Certificate
    data: Data
    findings: tuple[Finding, ...]

    @property
    def natural(self) -> Mapping[str, float]:
        """E, A, B and the exponents by name."""
        return dict(zip(self.form.natural_names, self.form.natural(self.theta).tolist(), strict=True))

    @property
    def trusted(self) -> bool:
        """Whether there is no warning."""
        return not any(finding.warning for finding in self.findings)

    def predict(self, n: ArrayLike, d: ArrayLike, g: ArrayLike = 1.0, level: float = LEVEL) -> Prediction:
        """Losses at N, D and G, which are broadcast against each other and flattened, under the law's conventions.

        Raises:
            ScalingError: a number is impossible, `level` is no share, or the form is of exits, whose layers and sizes
                `predict_runs` takes.
        """
        n, d, g = (values.ravel() for values in aligned(n, d, g))
        points = make_runs(n, d, np.ones(len(n)), g)
        if len(points):
            check_values(points)
        return self.predict_runs(points, level)

    def predict_runs(self, runs: Runs, level: float = LEVEL) -> Prediction:
        """Losses at the points of `runs`, whatever losses these have."""
        x = self.form.design(runs)
        step = max(1, MOST_NUMBERS // (x.shape[0] * max(len(self.draws), 1)))
        parts = [self._part(x[:, i : i + step], level) for i in range(0, max(x.shape[1], 1), step)]
        return Prediction(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))

    def estimates(self, level: float = LEVEL) -> tuple[Estimate, ...]:
        """Every parameter, and the exponent of C in N*, with standard errors and intervals."""
        names = (*self.form.natural_names, OPTIMAL_SIZE)
        values = self._reported(self.theta)
        if len(self.draws) > 1:
            draws = self._reported(self.draws)
            with np.errstate(all="ignore"):  # A of a draw whose alpha ran away
                errors = draws.std(axis=0, ddof=1)
            low, high = bounds(draws, values, level)
        else:
            errors, low, high = self._first_order(level)
        rows = zip(names, values, errors, low, high, strict=True)
        return tuple(Estimate(name, *map(float, numbers)) for name, *numbers in rows)

    def _part(self, x: FloatArray, level: float) -> Prediction:
        terms = Objective(x, np.zeros(x.shape[1]))  # its residuals are log L̂ itself
        log = terms.residuals(self.theta[None])[0]
        if len(self.draws) > 1:
            with np.errstate(over="ignore"):  # far from its runs, a draw may expect any loss
                drawn = terms.residuals(self.draws)
            low, high = bounds(drawn, log, level)
        else:
            slopes = terms.jacobian(self.theta[None])[0]
            error = reach(level) * np.sqrt(np.einsum("np,pq,nq->n", slopes, self._covariance, slopes))
            low, high = log - error, log + error
        return Prediction(np.exp(log), np.exp(low), np.exp(high))

    def _reported(self, theta: FloatArray) -> FloatArray:
        """E, A, B, the exponents and `OPTIMAL_SIZE` of θ (..., p)."""
        alpha, beta = (theta[..., place] for place in self.form.decays)
        with np.errstate(all="ignore"):
            return np.concatenate([self.form.natural(theta), (beta / (alpha + beta))[..., None]], axis=-1)

    def _first_order(self, level: float) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Standard errors and intervals from the covariance; those of E, A, B are symmetric in their logarithms."""
        decays = list(self.form.decays)
        alpha, beta = self.theta[decays]
        slope = np.zeros(len(self.theta))
        np.add.at(slope, decays, np.array([-beta, alpha]) / (alpha + beta) ** 2)
        share = np.sqrt(slope @ self._covariance @ slope)
        errors, half = np.sqrt(np.diag(self._covariance)), reach(level)
        centre = self._reported(self.theta)[-1]
        low, high = (
            np.append(self.form.natural(self.theta + side * half * errors), centre + side * half * share)
            for side in (-1, 1)
        )
        scales = np.append(np.exp(self.theta[: len(SCALES)]), np.ones(len(self.theta) - len(SCALES)))
        return np.append(errors * scales, share), low, high

    @property
    def _covariance(self) -> FloatArray:
        return np.full((len(self.theta),) * 2, np.nan) if self.covariance is None else self.covariance
