"""Centred coordinates are the same law in better units."""

import numpy as np

from scaling.coordinates import centred
from scaling.forms import FULL
from scaling.runs import make_runs
from scaling.solve import objective_of
from tests.scaling.runs import TRUTH, grid_runs


def test_they_say_the_same_and_lead_back() -> None:
    objective = objective_of(FULL, grid_runs())
    found = centred(objective)
    theta = TRUTH + 0.01 * np.random.default_rng(0).standard_normal((5, 6))
    np.testing.assert_allclose(found.theta(found.phi(theta)), theta, rtol=1e-12)
    np.testing.assert_allclose(found.objective.residuals(found.phi(theta)), objective.residuals(theta), atol=1e-12)


def test_exponents_stand_beside_columns_of_mean_0_and_spread_1() -> None:
    x = centred(objective_of(FULL, grid_runs())).objective.x
    np.testing.assert_allclose(x[:, :, 3:].mean(axis=1), 0, atol=1e-12)
    np.testing.assert_allclose(x[:, :, 3:].std(axis=1).max(axis=0), 1)
    np.testing.assert_array_equal(x[range(3), :, range(3)], 1)


def test_a_column_without_spread_becomes_zero_and_nothing_else() -> None:
    runs = grid_runs()
    same = make_runs(runs.n, runs.d, runs.loss, 4.0)
    found = centred(objective_of(FULL, same))
    np.testing.assert_allclose(found.objective.x[:, :, 5], 0, atol=1e-12)
    assert np.isfinite(found.to_theta).all() and np.linalg.cond(found.to_theta) < 1e4
