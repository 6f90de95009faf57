"""Damped Newton on many starts or many bootstrap draws at once.

A Huber loss with δ far below the residuals is nearly a sum of absolute values: most runs pull with constant force, and
only those within δ bend the objective. Reweighted least squares goes down surely but slowly at the end; Newton with the
exact Hessian is quadratic as soon as the set of runs within δ has settled. So it is Newton, damped (Levenberg) by the
metric of reweighted least squares: damping 1 is about that method's step, damping 0 is Newton's. Eigenvalues are taken
by their size, so that every step goes down, and a step counts only if the objective really fell. When what is left to
gain drowns in rounding, a step counts as long as it makes the gradient smaller: so the end is a gradient at rounding
level, not a small change.
"""

from dataclasses import dataclass

import numpy as np

from scaling.objective import Curve, Objective
from scaling.runs import FloatArray, IntArray

MOST_STEPS = 500
LONGEST_STEP = 2.0
"""In any coordinate: a factor of e² in a term at the runs' centre."""
FIRST_DAMPING = 1.0
LESS, MORE = 1 / 4, 8.0
"""What damping is multiplied with after a good step and after a bad one."""
GOOD, BAD = 0.75, 0.25
"""Share of what the quadratic model promised."""
ROUNDING = 2.0**-44
"""Share of the objective below which a promise cannot be checked by its value."""
SHORTEST_STEP = 1e-13
MOST_DAMPING = 1e12
RIDGE = 1e-8
"""Of the metric, over its trace, and of its eigenvalues: it stands where the runs determine nothing."""


@dataclass(frozen=True, eq=False)
class Minima:
    """Where S searches ended."""

    at: FloatArray
    """(S, p), in the objective's coordinates."""
    curve: Curve
    """There."""
    steps: IntArray
    """(S,), evaluations."""


def descend(
    objective: Objective, start: FloatArray, weights: FloatArray | None = None, most: int = MOST_STEPS
) -> Minima:
    """Search from starting points.

    Args:
        objective: in centred coordinates.
        start: (S, p).
        weights: of the runs, (n,) or (S, n), as in `Objective`.
        most: steps after which a search is over wherever it is.
    """
    with np.errstate(all="ignore"):  # a step into overflow is not taken
        return _descend(objective, start, weights, most)


def _descend(objective: Objective, start: FloatArray, weights: FloatArray | None, most: int) -> Minima:
    curve = objective.curve(start, weights)
    ends = Minima(start.copy(), Curve(*(array.copy() for array in curve)), np.zeros(len(start), np.int64))
    going, at, damping = np.arange(len(start)), start.copy(), np.full(len(start), FIRST_DAMPING)
    for number in range(1, most + 1):
        step, promised = _step(curve, damping)
        new_at = at + step
        new = objective.curve(new_at, weights)
        blind = promised <= ROUNDING * curve.value
        took = np.where(blind, _size(new.gradient) < _size(curve.gradient), new.value < curve.value)
        kept = (curve.value - new.value) / promised
        damping[took & (blind | (kept > GOOD))] *= LESS
        damping[~took | (~blind & (kept < BAD))] *= MORE
        for array, new_array in zip((at, *curve), (new_at, *new), strict=True):
            array[took] = new_array[took]
        over = (blind & ~took) | (_size(step) < SHORTEST_STEP) | (damping > MOST_DAMPING)
        if number == most:
            over[:] = True
        if over.any():
            done = going[over]
            ends.steps[done] = number
            for array, found in zip((ends.at, *ends.curve), (at, *curve), strict=True):
                array[done] = found[over]
            if over.all():
                break
            going, at, damping = going[~over], at[~over], damping[~over]
            curve = Curve(*(array[~over] for array in curve))
            if weights is not None and weights.ndim == 2:
                weights = weights[~over]
    return ends


def _step(here: Curve, damping: FloatArray) -> tuple[FloatArray, FloatArray]:
    """The damped Newton step (S, p), and by how much the quadratic model says the objective falls, (S,)."""
    p = here.gradient.shape[1]
    ridge = RIDGE * np.trace(here.metric, axis1=1, axis2=2) + TINY
    root = np.linalg.inv(np.linalg.cholesky(here.metric + ridge[:, None, None] * np.eye(p)))
    size, direction = np.linalg.eigh(root @ here.hessian @ root.transpose(0, 2, 1))
    basis = direction.transpose(0, 2, 1) @ root  # rows: directions that are orthonormal in the metric
    along = (basis @ here.gradient[:, :, None])[:, :, 0]
    along /= np.abs(size) + (damping + RIDGE)[:, None]
    step = -(along[:, None] @ basis)[:, 0]
    step *= np.minimum(1.0, LONGEST_STEP / np.maximum(_size(step), LONGEST_STEP))[:, None]
    bent = (here.hessian @ step[:, :, None])[:, :, 0]
    return step, np.maximum(-((here.gradient + 0.5 * bent) * step).sum(axis=1), TINY)


def _size(vectors: FloatArray) -> FloatArray:
    largest: FloatArray = np.abs(vectors).max(axis=1)
    return largest


TINY = 1e-300
"""In place of a zero below a fraction."""
