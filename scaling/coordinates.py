"""Coordinates in which a fit is well conditioned: exponents in units of their spread, intercepts at the runs' centre.

In a - alpha log N, log N is 20 ± 2, so a and alpha move together and a step in one undoes the other. With θ = T φ,
φ has each term's value at the mean of log N, log D, log G in place of its intercept, and exponents times the standard
deviation of what they multiply. Damping and stopping are then the same for all parameters.
"""

from dataclasses import dataclass, replace

import numpy as np

from scaling.objective import Objective
from scaling.runs import FloatArray


@dataclass(frozen=True, eq=False)
class Centred:
    """An objective in centred coordinates."""

    objective: Objective
    """Of φ."""
    to_theta: FloatArray
    """T (p, p)."""

    def theta(self, phi: FloatArray) -> FloatArray:
        """θ (S, p) of φ (S, p)."""
        theta: FloatArray = phi @ self.to_theta.T
        return theta

    def phi(self, theta: FloatArray) -> FloatArray:
        """φ (S, p) of θ (S, p)."""
        phi: FloatArray = np.linalg.solve(self.to_theta, theta.T).T.astype(np.float64, copy=False)
        return phi


def centred(objective: Objective) -> Centred:
    """The same objective in centred coordinates. A column that is the same for all runs keeps its unit."""
    x = objective.x
    terms, _, p = x.shape
    to_theta = np.eye(p)
    to_theta[:terms, terms:] = -x[:, :, terms:].mean(axis=1)
    spread: FloatArray = (x @ to_theta).std(axis=1).max(axis=0)
    spread[spread <= SAME * np.abs(x).max(axis=(0, 1))] = 1.0
    to_theta = to_theta / spread
    return Centred(replace(objective, x=x @ to_theta), to_theta)


SAME = 1e-12
"""A spread over a column's largest number below which the column is the same for all runs."""
