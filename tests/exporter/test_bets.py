"""Tests by betting: silent where there is nothing to find, and strong where there is."""

import numpy as np
import pytest
from numpy.typing import NDArray

from exporter.confidence.bets import fewest, is_below


def rejected(rng: np.random.Generator, mean: float, spread: float, m: float, size: int, samples: int) -> float:
    """Share of samples of Beta variables, shares of 64 tokens, in which the mean is found to be below m."""
    draws: NDArray[np.float64] = rng.binomial(64, rng.beta(mean * spread, (1 - mean) * spread, (samples, size))) / 64
    return float(np.mean([is_below(draw, m, 0.05) for draw in draws]))


@pytest.mark.parametrize("spread", [2.0, 12.0])
def test_a_mean_that_is_not_below_is_found_to_be_in_at_most_delta_of_the_samples(spread: float) -> None:
    found = rejected(np.random.default_rng(0), mean=0.1, spread=spread, m=0.1, size=300, samples=600)
    assert found <= 0.05 + 3 * (0.05 * 0.95 / 600) ** 0.5


def test_a_rare_risk_of_one_is_not_overlooked() -> None:
    rng = np.random.default_rng(1)
    draws = (rng.random((600, 120)) < 0.05).astype(float)
    assert np.mean([is_below(draw, 0.05, 0.05) for draw in draws]) <= 0.05 + 3 * (0.05 * 0.95 / 600) ** 0.5


def test_a_mean_that_is_clearly_below_is_found_so() -> None:
    assert rejected(np.random.default_rng(2), mean=0.03, spread=12.0, m=0.05, size=400, samples=100) > 0.95


def test_nothing_is_found_of_no_values_or_of_the_largest() -> None:
    assert not is_below([], 0.05, 0.05)
    assert not is_below([1.0] * 500, 0.05, 0.05) and not is_below([0.0, 1.0] * 250, 0.05, 0.05)


@pytest.mark.parametrize("m", [0.01, 0.02, 0.1])
def test_the_fewest_values_that_can_reject_are_as_many_as_are_said(m: float) -> None:
    enough = fewest(m, 0.05)
    assert is_below([0.0] * enough, m, 0.05) and not is_below([0.0] * (enough - 1), m, 0.05)
