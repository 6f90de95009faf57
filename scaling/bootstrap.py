"""The bootstrap of a fit: runs drawn with replacement, each draw a full fit that starts at the fit to all runs.

All observations of a run (its exits, or repeats) are drawn together: they share the run's noise. A draw is a vector of
weights, so a batch of draws is one batch of searches (`scaling.newton`).
"""

import numpy as np

from scaling.coordinates import centred
from scaling.newton import descend
from scaling.objective import Objective
from scaling.parallel import in_parts
from scaling.runs import FloatArray, IntArray

AT_ONCE = 256
"""Draws of one batch."""


def bootstrap(objective: Objective, theta: FloatArray, cluster: IntArray, draws: int, seed: int = 0) -> FloatArray:
    """θ (B, p) of each of B = `draws` resamplings of the runs.

    Args:
        objective: of the fit.
        theta: (p,), the fit.
        cluster: (n,), which observations are one run.
        draws: how many.
        seed: of the drawing; the same seed gives the same draws.
    """
    found = centred(objective)
    at, weights = found.phi(theta[None]), resampled(cluster, draws, seed)

    def work(part: slice) -> FloatArray:
        counts = weights[part]
        return descend(found.objective, np.repeat(at, len(counts), axis=0), counts).at

    ends = in_parts(work, draws, AT_ONCE)
    return found.theta(np.concatenate(ends)) if ends else np.empty((0, len(theta)))


def resampled(cluster: IntArray, draws: int, seed: int) -> FloatArray:
    """How often each observation occurs in each draw, (B, n): as many runs as there are, with replacement."""
    clusters, of_row = np.unique(cluster, return_inverse=True)
    share = np.full(len(clusters), 1 / len(clusters))
    counts = np.random.default_rng(seed).multinomial(len(clusters), share, draws)
    drawn: FloatArray = counts[:, of_row].astype(np.float64)
    return drawn
