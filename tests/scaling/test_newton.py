"""Newton's searches end where the gradient is rounding, one by one or in batches, and never above their start."""

import numpy as np

from scaling.coordinates import centred
from scaling.forms import FULL
from scaling.newton import MOST_STEPS, descend
from scaling.objective import Objective
from scaling.runs import FloatArray, Runs
from scaling.solve import objective_of, solve
from tests.scaling.runs import grid_runs


def begun(runs: Runs, count: int, spread: float) -> tuple[Objective, FloatArray]:
    found = centred(objective_of(FULL, runs))
    best = found.phi(solve(FULL, runs).theta[None])
    return found.objective, best + spread * np.random.default_rng(0).standard_normal((count, best.shape[1]))


def test_searches_from_around_end_in_one_point_with_a_gradient_of_rounding() -> None:
    objective, start = begun(grid_runs(), 40, 0.1)
    ends = descend(objective, start)
    assert np.abs(ends.at - ends.at[0]).max() < 1e-9
    assert np.abs(ends.curve.gradient).max() < 1e-13
    assert (ends.steps < 100).all()
    for array, there in zip(ends.curve, objective.curve(ends.at), strict=True):
        np.testing.assert_allclose(array, there, rtol=1e-9, atol=1e-12)


def test_a_search_never_ends_above_its_start() -> None:
    objective, start = begun(grid_runs(), 60, 3.0)
    before = objective.value(start)
    for most in (1, 3, MOST_STEPS):
        ends = descend(objective, start, most=most)
        assert (ends.curve.value <= before).all() and (ends.steps <= most).all() and np.isfinite(ends.at).all()


def test_searches_with_weights_of_their_own_are_the_same_as_alone() -> None:
    objective, start = begun(grid_runs(), 6, 0.1)
    weights = np.random.default_rng(1).poisson(1.0, (6, len(objective.y))).astype(float)
    together = descend(objective, start, weights)
    for number in range(6):
        alone = descend(objective, start[[number]], weights[number])
        np.testing.assert_allclose(alone.at[0], together.at[number], atol=1e-8)
