"""Damped Newton on many starts or many bootstrap draws at once.

A Huber loss with δ far below the residuals is nearly a sum of absolute values: most runs pull with constant force, and
only those within δ bend the objective. Gauss-Newton and reweighting converge slowly there; Newton with the exact
Hessian is quadratic as soon as the set of runs within δ has settled. Until then it is damped (Levenberg), eigenvalues
are taken by their size so that every step goes down, and a step counts only if the objective really fell. When what is
left to gain drowns in rounding, a step counts as long as it makes the gradient smaller: so the end is a gradient at
rounding level, not a small change.
"""

from dataclasses import dataclass

import numpy as np

from scaling.objective import Curve, Objective
from scaling.runs import FloatArray, IntArray

MOST_STEPS = 500
LONGEST_STEP = 2.0
"""In any coordinate: a factor of e² in a term at the runs' centre."""
FIRST_DAMPING = 1e-3
"""Per unit of weight: it stands beside the Hessian of runs that are all within δ, whose diagonal is 1 or less."""
LESS, MORE = 1 / 4, 8.0
"""What damping is multiplied with after a good step and after a bad one."""
GOOD, BAD = 0.75, 0.25
"""Share of what the quadratic model promised."""
ROUNDING = 2.0**-44
"""Share of the objective below which a promise cannot be checked by its value."""
SHORTEST_STEP = 1e-13
MOST_DAMPING = 1e9


@dataclass(frozen=True, eq=False)
class Minima:
    """Where S searches ended."""

    at: FloatArray
    """(S, p), in the objective's coordinates."""
    curve: Curve
    """There."""
    steps: IntArray
    """(S,), evaluations."""

    def take(self, index: IntArray) -> "Minima":
        """Some of them."""
        return Minima(self.at[index], Curve(*(array[index] for array in self.curve)), self.steps[index])


def descend(objective: Objective, start: FloatArray, weights: FloatArray | None = None) -> Minima:
    """Search from S starting points (S, p), in centred coordinates; weights as in `Objective`."""
    at, curve = start.copy(), objective.curve(start, weights)
    mass = np.broadcast_to(float(len(objective.y)) if weights is None else weights.sum(axis=-1), len(start))
    damping, steps = np.full(len(start), FIRST_DAMPING), np.zeros(len(start), np.int64)
    going = np.arange(len(start))
    for _ in range(MOST_STEPS):
        here = Curve(*(array[going] for array in curve))
        step, promised = _step(here, damping[going] * mass[going])
        new_at = at[going] + step
        new = objective.curve(new_at, weights if weights is None or weights.ndim == 1 else weights[going])
        blind = promised <= ROUNDING * here.value
        took = np.where(blind, _size(new.gradient) < _size(here.gradient), new.value < here.value)
        kept = (here.value - new.value) / promised
        at[going[took]] = new_at[took]
        for array, new_array in zip(curve, new, strict=True):
            array[going[took]] = new_array[took]
        damping[going[took & (blind | (kept > GOOD))]] *= LESS
        damping[going[~took | (~blind & (kept < BAD))]] *= MORE
        steps[going] += 1
        over = (blind & ~took) | (_size(step) < SHORTEST_STEP) | (damping[going] > MOST_DAMPING)
        going = going[~over]
        if not len(going):
            break
    return Minima(at, curve, steps)


def _step(here: Curve, damping: FloatArray) -> tuple[FloatArray, FloatArray]:
    """The damped Newton step (S, p), and by how much the quadratic model says the objective falls, (S,)."""
    size, direction = np.linalg.eigh(here.hessian)
    along = np.matmul(here.gradient[:, None], direction)[:, 0]
    step = np.matmul(direction, (-along / (np.abs(size) + damping[:, None] + TINY))[:, :, None])[:, :, 0]
    step *= np.minimum(1.0, LONGEST_STEP / np.maximum(_size(step), LONGEST_STEP))[:, None]
    bent = np.matmul(here.hessian, step[:, :, None])[:, :, 0]
    return step, np.maximum(-((here.gradient + 0.5 * bent) * step).sum(axis=1), TINY)


def _size(vectors: FloatArray) -> FloatArray:
    largest: FloatArray = np.abs(vectors).max(axis=1)
    return largest


TINY = 1e-300
"""In place of a zero below a fraction."""
