"""The bootstrap of a fit: runs drawn with replacement, each draw a full fit that starts at the fit to all runs.

All observations of a run (its exits, or repeats) are drawn together: they share the run's noise. A draw is a vector of
weights, so a batch of draws is one batch of searches (`scaling.newton`).
"""

from collections.abc import Iterator

import numpy as np

from scaling.coordinates import centred
from scaling.newton import descend
from scaling.objective import Objective
from scaling.parallel import each
from scaling.runs import FloatArray, IntArray

AT_ONCE = 256
"""Draws of one batch, fewer where there are many observations."""
MOST_NUMBERS = 1 << 25
"""Weights of one batch."""


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
    at = found.phi(theta[None])

    def work(counts: FloatArray) -> FloatArray:
        return descend(found.objective, np.repeat(at, len(counts), axis=0), counts).at

    ends = each(work, batches(cluster, draws, seed))
    return found.theta(np.concatenate(ends)) if ends else np.empty((0, len(theta)))


def resampled(cluster: IntArray, draws: int, seed: int) -> FloatArray:
    """How often each observation occurs in each draw, (B, n): as many runs as there are, with replacement."""
    return np.concatenate([np.empty((0, len(cluster))), *batches(cluster, draws, seed)])


def batches(cluster: IntArray, draws: int, seed: int) -> Iterator[FloatArray]:
    """The rows of `resampled`, in parts that fit the memory."""
    clusters, of_row = np.unique(cluster, return_inverse=True)
    share = np.full(len(clusters), 1 / len(clusters))
    rng = np.random.default_rng(seed)
    size = max(1, min(AT_ONCE, MOST_NUMBERS // len(cluster)))
    for start in range(0, draws, size):
        counts = rng.multinomial(len(clusters), share, min(size, draws - start))
        yield counts[:, of_row].astype(np.float64)
