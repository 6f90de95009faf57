"""From runs to a law."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from scaling.errors import ScalingError
from scaling.fit import fit
from scaling.forms import FULL
from scaling.runs import make_runs
from tests.scaling.runs import TRUTH, grid_runs


def test_a_law_holds_the_truth_that_made_its_runs() -> None:
    law = fit(grid_runs(), bootstraps=400, seed=1)
    assert law.trusted and law.certificate.certified and law.method == "certified"
    inside = [of.low <= truth <= of.high for of, truth in zip(law.estimates(0.99), FULL.natural(TRUTH), strict=False)]
    assert inside == [True] * 6
    assert law.draws.shape == (400, 6) and law.sigma == pytest.approx(0.003, rel=0.3)


def test_without_bootstraps_the_covariance_says_about_the_same() -> None:
    law = fit(grid_runs(), bootstraps=1000)
    assert law.covariance is not None
    np.testing.assert_allclose(np.sqrt(np.diag(law.covariance)), law.draws.std(axis=0), rtol=0.5)
    assert len(fit(grid_runs(), bootstraps=0).draws) == 0


def test_rows_of_one_run_count_once_in_the_covariance() -> None:
    runs = grid_runs()
    twice = runs.take(np.repeat(np.arange(len(runs)), 2))
    once, doubled = fit(runs, bootstraps=0).covariance, fit(twice, bootstraps=0).covariance
    apart = fit(replace(twice, cluster=np.arange(len(twice))), bootstraps=0).covariance
    assert once is not None and doubled is not None and apart is not None
    np.testing.assert_allclose(doubled, once, rtol=1e-6)
    np.testing.assert_allclose(apart, once / 2, rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"form": "cubic"}, "there is no form 'cubic'; choose one of dense, tied, full, reducible"),
        ({"method": "guess"}, "there is no method 'guess'; choose one of certified, paper"),
        ({"form": "M0"}, "the form M0 needs n_exit"),
        ({"bootstraps": -1}, "expected 0 or at least 2 bootstraps and a seed from 0 on, got -1 and 0"),
        ({"bootstraps": 1}, "got 1 and 0"),
        ({"seed": -1}, "got 0 and -1"),
    ],
)
def test_what_cannot_be_fitted_is_an_error_that_says_so(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ScalingError, match=message):
        fit(grid_runs(), **{"bootstraps": 0, **options})


def test_few_bootstraps_are_named() -> None:
    codes = [{finding.code for finding in fit(grid_runs(), bootstraps=count).findings} for count in (199, 200, 0)]
    assert codes == [{"few-draws"}, set(), set()]


def test_gamma_is_not_fitted_to_dense_runs() -> None:
    runs = grid_runs()
    dense = make_runs(runs.n, runs.d, runs.loss)
    with pytest.raises(ScalingError, match="all runs have the same G, so gamma"):
        fit(dense, "full", bootstraps=0)
    assert fit(dense, bootstraps=0).form.name == "dense", "what is fitted where no form is named"
