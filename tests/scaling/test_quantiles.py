"""Bias-corrected percentiles."""

import numpy as np
import pytest
from scipy.special import ndtr, ndtri

from scaling.quantiles import bounds


def test_they_are_the_percentiles_where_the_estimate_is_the_median() -> None:
    drawn = np.random.default_rng(0).standard_normal((1001, 3))
    low, high = bounds(drawn, np.median(drawn, axis=0), 0.9)
    np.testing.assert_allclose(low, np.quantile(drawn, 0.05, axis=0))
    np.testing.assert_allclose(high, np.quantile(drawn, 0.95, axis=0))


def test_they_move_with_the_estimate() -> None:
    drawn = np.linspace(0, 1, 10001)
    low, high = bounds(drawn, 0.6, 0.9)
    shift = ndtri(0.6)
    assert float(low) == pytest.approx(ndtr(2 * shift - ndtri(0.95)), abs=1e-3)
    assert float(high) == pytest.approx(ndtr(2 * shift + ndtri(0.95)), abs=1e-3)


def test_they_do_not_depend_on_the_scale() -> None:
    drawn = np.exp(np.random.default_rng(0).standard_normal((1001, 2)))
    value = np.array([0.8, 1.1])
    inner = bounds(np.log(drawn), np.log(value), 0.9)
    np.testing.assert_allclose(np.exp(inner), bounds(drawn, value, 0.9), rtol=0.02)


@pytest.mark.parametrize("value", [-1.0, 0.0, 0.001, 0.5, 1.0, 2.0])
def test_the_estimate_is_inside_wherever_it_lies_among_the_draws(value: float) -> None:
    drawn = np.linspace(0, 1, 101)
    low, high = bounds(drawn, value, 0.9)
    assert low <= value <= high


def test_draws_without_the_quantity_are_beyond_both_ends() -> None:
    drawn = np.linspace(0, 1, 100)
    drawn[:20] = np.nan
    assert bounds(drawn, 0.6, 0.9) == (-np.inf, np.inf)
    assert bounds(np.full(10, np.nan), 0.6, 0.9) == (-np.inf, np.inf)


def test_draws_that_are_all_alike_are_the_interval() -> None:
    assert bounds(np.full(50, 3.0), 3.0, 0.9) == (3.0, 3.0)
