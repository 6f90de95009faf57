"""L-BFGS on many starts at once, in plain coordinates: the search of the paper's procedure.

The two-loop recursion (Nocedal and Wright, Numerical Optimization, algorithm 7.4) with backtracking, for all starts in
step: state is (p, S), so that each operation runs over starts. A start stops when a step gains next to nothing. That is
what such a search knows of its end; whether it is an optimum is for the certificate to say.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scaling.objective import Objective
from scaling.runs import FloatArray, IntArray

Mask = NDArray[np.bool_]

MEMORY = 10
"""Pairs of steps and changes of gradient."""
MOST_STEPS = 300
LEAST_GAIN = 1e-10
"""Share of the objective that a step must gain for another one to follow."""
LEAST_GRADIENT = 1e-9
"""In any parameter. SciPy's L-BFGS-B stops at 1e-5, or at an absolute gain of 2e-9, where this objective is 1e-3."""
SUFFICIENT = 1e-4
"""Share of the promised decrease that a step must bring (Armijo)."""
SHORTEST = 1e-12
SHRINK, SHRINK_LEAST = 0.1, 0.5
"""Between which factors a step that was too long is cut."""


@dataclass(frozen=True, eq=False)
class Ends:
    """Where S searches ended."""

    at: FloatArray
    """(S, p)"""
    value: FloatArray
    """(S,)"""
    steps: IntArray
    """(S,), evaluations; `MOST_STEPS` if the search was still gaining."""


class _Searches:
    """Those that go on, one column each."""

    def __init__(self, objective: Objective, start: FloatArray) -> None:
        self.objective = objective
        self.index = np.arange(len(start))
        self.at = np.ascontiguousarray(start.T)
        self.value, self.gradient = self.evaluate(self.at)
        size = np.maximum(np.abs(self.gradient).sum(axis=0), np.finfo(float).tiny)
        self.direction = -self.gradient * np.minimum(1.0, 1 / size)
        self.slope = (self.gradient * self.direction).sum(axis=0)
        self.length = np.ones(len(start))
        self.moves = np.zeros((MEMORY, *self.at.shape))
        self.changes = np.zeros((MEMORY, *self.at.shape))
        self.inverse = np.zeros((MEMORY, len(start)))
        """1 / (move · change); 0 in a slot where a search made no move of use."""
        self.scale = np.ones(len(start))

    def evaluate(self, at: FloatArray) -> tuple[FloatArray, FloatArray]:
        value, gradient = self.objective.slope(at.T)
        return value, np.ascontiguousarray(gradient.T)

    def step(self, number: int) -> Mask:
        """One evaluation of each search, numbered from 0; whether each is over."""
        new = self.at + self.length * self.direction
        value, gradient = self.evaluate(new)
        promised = self.length * self.slope
        took = value <= self.value + SUFFICIENT * promised
        reach = self.length * np.abs(self.direction).max(axis=0)
        over: Mask = np.where(took, self.value - value <= LEAST_GAIN * self.value, reach < SHORTEST)
        cut = -promised * self.length / (2 * (value - self.value - promised))
        cut = np.where(np.isfinite(cut), cut, 0.0)
        self.length = np.where(took, 1.0, np.clip(cut, SHRINK * self.length, SHRINK_LEAST * self.length))
        new[:, ~took], gradient[:, ~took] = self.at[:, ~took], self.gradient[:, ~took]
        self._remember(number % MEMORY, new - self.at, gradient - self.gradient)
        self.at, self.gradient, self.value = new, gradient, np.where(took, value, self.value)
        self._turn(number, took)
        over |= np.abs(gradient).max(axis=0) < LEAST_GRADIENT
        return over

    def _remember(self, slot: int, move: FloatArray, change: FloatArray) -> None:
        self.moves[slot], self.changes[slot] = move, change
        along, square = (move * change).sum(axis=0), (change * change).sum(axis=0)
        useful = along > np.finfo(float).eps * square
        self.inverse[slot] = np.where(useful, 1 / along, 0.0)
        self.scale = np.where(useful, along / square, self.scale)

    def _turn(self, number: int, took: Mask) -> None:
        """New directions for the searches that moved."""
        slots = [(number - back) % MEMORY for back in range(min(MEMORY, number + 1))]
        direction, weights = -self.gradient, {}
        for slot in slots:
            weights[slot] = self.inverse[slot] * (self.moves[slot] * direction).sum(axis=0)
            direction -= weights[slot] * self.changes[slot]
        direction *= self.scale
        for slot in reversed(slots):
            weights[slot] -= self.inverse[slot] * (self.changes[slot] * direction).sum(axis=0)
            direction += weights[slot] * self.moves[slot]
        slope = (self.gradient * direction).sum(axis=0)
        wrong = ~(slope < 0)
        direction[:, wrong] = -self.gradient[:, wrong]
        slope[wrong] = -(self.gradient[:, wrong] ** 2).sum(axis=0)
        self.direction = np.where(took, direction, self.direction)
        self.slope = np.where(took, slope, self.slope)

    def keep(self, kept: Mask) -> None:
        """Drop the others."""
        for name in ("index", "at", "value", "gradient", "direction", "slope", "length", "scale", "inverse"):
            setattr(self, name, getattr(self, name)[..., kept])
        self.moves, self.changes = self.moves[..., kept], self.changes[..., kept]


def lbfgs(objective: Objective, start: FloatArray) -> Ends:
    """Search from S starting points (S, p)."""
    ends = Ends(start.copy(), np.empty(len(start)), np.full(len(start), MOST_STEPS))
    with np.errstate(all="ignore"):  # a step into overflow is not taken
        searches = _Searches(objective, start)
        for number in range(MOST_STEPS):
            over = searches.step(number)
            if number + 1 == MOST_STEPS:
                over[:] = True
            if over.any():
                done = searches.index[over]
                ends.at[done], ends.value[done] = searches.at[:, over].T, searches.value[over]
                ends.steps[done] = number + 1
                searches.keep(~over)
            if not len(searches.index):
                break
    return ends
