"""Profiles: an interval that reaches the quantile at its ends and is as wide as the bootstrap's."""

import numpy as np
import pytest

from scaling.errors import ScalingError
from scaling.fit import fit
from scaling.forms import DENSE, FULL
from scaling.profile import profile
from scaling.solve import solve
from tests.scaling.runs import TRUTH, grid_runs


def test_the_interval_of_gamma_holds_the_truth_and_is_about_as_wide_as_the_bootstraps() -> None:
    runs = grid_runs()
    law = fit(runs, "full", bootstraps=300)
    found = profile(runs, FULL, law.theta, "gamma")
    drawn = next(e for e in law.estimates() if e.name == "gamma")
    wide = profile(runs, FULL, law.theta, "gamma", level=0.99)  # one in ten of the 90% intervals misses
    assert wide.low < found.low < found.high < wide.high and wide.low < TRUTH[5] < wide.high
    assert 0.6 < (found.high - found.low) / (drawn.high - drawn.low) < 1.6


def test_the_curve_is_zero_at_the_fit_and_crosses_the_quantile_at_the_ends() -> None:
    runs = grid_runs()
    runs = runs.take(runs.g == 1)
    found = profile(runs, DENSE, solve(DENSE, runs).theta, "E")
    assert np.interp(found.value, found.at, found.statistic) < 0.1 * found.quantile
    inside = (found.at > found.low) & (found.at < found.high)
    np.testing.assert_array_equal(found.statistic < found.quantile, inside)


def test_an_unknown_parameter_is_refused_by_name() -> None:
    with pytest.raises(ScalingError, match="no 'zeta'; choose one of E, A, B"):
        profile(grid_runs(), FULL, TRUTH, "zeta")
