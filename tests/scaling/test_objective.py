"""The objective is the paper's sum, and its derivatives are those of its values."""

import numpy as np
import pytest

from scaling.coordinates import centred
from scaling.forms import FULL
from scaling.objective import DELTA, Objective
from scaling.runs import FloatArray
from tests.scaling.runs import TRUTH, grid_runs


@pytest.fixture
def objective() -> Objective:
    runs = grid_runs()
    return Objective(FULL.design(runs), np.log(runs.loss))


def thetas(count: int) -> FloatArray:
    """Around the truth, so that some residuals are within δ and others are not."""
    spread = np.array([0.003, 0.02, 0.02, 0.001, 0.001, 0.001])
    return TRUTH + spread * np.random.default_rng(1).standard_normal((count, len(TRUTH)))


def test_the_value_is_the_sum_of_huber_losses_of_log_residuals(objective: Objective) -> None:
    theta = thetas(1)[0]
    residuals = np.log(np.exp(objective.x @ theta).sum(axis=0)) - objective.y
    quadratic = np.abs(residuals) <= DELTA
    assert 0 < quadratic.sum() < len(residuals)
    losses = np.where(quadratic, residuals**2 / 2, DELTA * (np.abs(residuals) - DELTA / 2))
    assert objective.value(theta[None])[0] == pytest.approx(losses.sum(), rel=1e-12)


@pytest.mark.parametrize("weighting", ["none", "of runs", "of draws"])
def test_gradient_and_hessian_are_the_differences_of_value_and_gradient(objective: Objective, weighting: str) -> None:
    found, theta = centred(objective), thetas(4)
    objective, theta = found.objective, found.phi(theta)
    counts = np.random.default_rng(2).poisson(1.0, (4, len(objective.y))).astype(float)
    weights = {"none": None, "of runs": counts[0], "of draws": counts}[weighting]
    curve, slope = objective.curve(theta, weights), objective.slope(theta, weights)
    np.testing.assert_allclose(slope.value, objective.value(theta, weights), rtol=1e-13)
    np.testing.assert_allclose(curve.value, slope.value, rtol=1e-13)
    np.testing.assert_allclose(curve.gradient, slope.gradient, atol=1e-12)
    step = 1e-7
    for j, unit in enumerate(step * np.eye(theta.shape[1])):
        up, down = objective.slope(theta + unit, weights), objective.slope(theta - unit, weights)
        np.testing.assert_allclose((up.value - down.value) / (2 * step), curve.gradient[:, j], atol=1e-6)
        np.testing.assert_allclose((up.gradient - down.gradient) / (2 * step), curve.hessian[:, j], atol=1e-2)


def test_weights_are_repetitions(objective: Objective) -> None:
    theta, times = thetas(3), np.random.default_rng(3).integers(0, 4, len(objective.y))
    rows = np.repeat(np.arange(len(times)), times)
    repeated = Objective(objective.x[:, rows], objective.y[rows])
    for one, other in zip(objective.curve(theta, times.astype(float)), repeated.curve(theta), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12)


def test_a_large_batch_is_the_same_as_its_parts(objective: Objective) -> None:
    theta = thetas(300)
    whole, one = objective.curve(theta), objective.curve(theta[150:151])
    for of_all, alone in zip(whole, one, strict=True):
        np.testing.assert_allclose(of_all[150], alone[0], rtol=1e-11, atol=1e-13)


def test_a_parameter_that_is_held_leaves_the_others(objective: Objective) -> None:
    theta = thetas(2)
    theta[:, 3] = 0.3
    held = objective.fixed(3, 0.3).fixed(0, theta[0, 0])
    rest = np.delete(theta[:1], [0, 3], axis=1)
    np.testing.assert_allclose(held.residuals(rest), objective.residuals(theta[:1]), atol=1e-13)
    np.testing.assert_allclose(
        held.curve(rest).hessian[0],
        np.delete(np.delete(objective.curve(theta[:1]).hessian[0], [0, 3], 0), [0, 3], 1),
        rtol=1e-9,
        atol=1e-12,
    )


def test_shares_and_jacobian_are_those_of_the_terms(objective: Objective) -> None:
    theta, step = thetas(1), 1e-6
    np.testing.assert_allclose(objective.shares(theta).sum(axis=0), 1.0)
    jacobian = objective.jacobian(theta)[0]
    for j, unit in enumerate(step * np.eye(theta.shape[1])):
        change = objective.residuals(theta + unit) - objective.residuals(theta - unit)
        np.testing.assert_allclose(change[0] / (2 * step), jacobian[:, j], atol=1e-6)
