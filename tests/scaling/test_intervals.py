"""Intervals of what follows from a law."""

from dataclasses import replace

import numpy as np
import pytest

from scaling.certificate import Certificate
from scaling.errors import ScalingError
from scaling.forms import FULL
from scaling.frontier import optimum, surface
from scaling.intervals import interval, theta_draws
from scaling.law import FittedLaw, data_of
from scaling.runs import Conventions, FloatArray
from tests.scaling.runs import TRUTH, grid_runs

CERTIFIED = Certificate(1.0, 0.0, 1.0, 1, 1.0, (), (), 8, 8, 0, ())


def law_at(theta: FloatArray, draws: FloatArray, covariance: FloatArray | None = None) -> FittedLaw:
    """A full law with these parameters and draws."""
    data = data_of(grid_runs())
    return FittedLaw(FULL, "certified", theta, covariance, draws, 0, 0.0, 0.0, Conventions(), CERTIFIED, data, ())


def best_size(theta: FloatArray) -> FloatArray:
    return optimum(surface(FULL, theta), np.array([1e20, 1e22])).n


def test_an_interval_is_that_of_the_draws() -> None:
    rng = np.random.default_rng(0)
    draws = TRUTH + 0.01 * rng.standard_normal((500, 6))
    found = interval(law_at(TRUTH, draws), best_size, 0.9)
    assert found.value.shape == found.low.shape == found.high.shape == (2,)
    assert (found.low < found.value).all() and (found.value < found.high).all()
    inside = (best_size(draws) >= found.low) & (best_size(draws) <= found.high)
    np.testing.assert_allclose(inside.mean(axis=0), 0.9, atol=0.01)


def test_a_draw_without_an_optimum_widens_both_ends() -> None:
    draws = np.tile(TRUTH, (10, 1))
    draws[:2, 3] = -0.1
    found = interval(law_at(TRUTH, draws), best_size, 0.9)
    assert np.isinf(found.low).all() and np.isinf(found.high).all()


def test_without_draws_the_covariance_serves_and_without_both_there_is_an_error() -> None:
    law = law_at(TRUTH, np.zeros((0, 6)), 1e-4 * np.eye(6))
    np.testing.assert_allclose(theta_draws(law).std(axis=0), 0.01, rtol=0.1)
    with pytest.raises(ScalingError, match="how sure"):
        theta_draws(replace(law, covariance=None))
