from dataclasses import replace

import numpy as np
import pytest

from scaling.diagnose import diagnose, robust_sigma
from scaling.forms import DENSE, FULL
from scaling.runs import FloatArray
from tests.scaling.runs import TRUTH, grid_runs

SURE = np.eye(6) * 1e-6


def test_the_truth_has_nothing_to_say() -> None:
    assert diagnose(grid_runs(), FULL, TRUTH, SURE) == ()


def test_the_robust_deviation_is_that_of_normal_residuals_and_outliers_do_not_move_it() -> None:
    residuals = 0.01 * np.random.default_rng(0).standard_normal(20_000)
    assert robust_sigma(residuals) == pytest.approx(0.01, rel=0.03)
    residuals[:500] = 7.0
    assert robust_sigma(residuals) == pytest.approx(0.01, rel=0.06)


def test_outliers_are_named_with_their_distance_the_farthest_first() -> None:
    runs = grid_runs()
    loss = runs.loss.copy()
    loss[3] *= 1.05
    loss[8] *= 0.9
    (finding,) = diagnose(replace(runs, loss=loss), FULL, TRUTH, SURE)
    assert finding.code == "outliers" and finding.warning
    assert "2 losses more than 5 robust sigmas" in finding.text and "run 8 (-1" in finding.text.split(",")[0]
    assert "run 3 (+4.9%)" in finding.text


def test_losses_under_the_irreducible_one_are_named() -> None:
    runs = grid_runs()
    loss = runs.loss.copy()
    loss[5] = 1.0
    codes = {finding.code: finding.text for finding in diagnose(replace(runs, loss=loss), FULL, TRUTH, SURE)}
    assert (
        codes.keys() == {"outliers", "under-e"}
        and "1 loss under the fitted irreducible loss: run 5" in codes["under-e"]
    )


def test_a_term_that_is_hardly_there_is_named() -> None:
    theta = TRUTH.copy()
    theta[1] = -2.5
    assert (
        "hardly any A (term of N)"
        in next(f for f in diagnose(grid_runs(), FULL, theta, SURE) if f.code == "faint").text
    )


@pytest.mark.parametrize(
    ("theta", "covariance", "said"),
    [
        (TRUTH, None, "the runs do not determine all parameters"),
        (
            TRUTH,
            np.diag([1e-6, 1e-6, 1e-6, 1e-6, 1e-6, 0.04**2]),
            "gamma is 0.05, somewhere from -0.0158 to 0.116: the runs do not tell it from 0",
        ),
        (np.array([0.5, 1.0, 7.6, -0.01, 0.36, 0.05]), SURE, "alpha is -0.01: loss rises with N; no law of this form"),
    ],
)
def test_parameters_that_are_not_known_are_named(theta: FloatArray, covariance: FloatArray | None, said: str) -> None:
    findings = diagnose(grid_runs(), FULL, theta, covariance)
    assert any(said in finding.text and finding.warning for finding in findings)


def test_losses_that_the_law_does_not_explain_are_named() -> None:
    runs = grid_runs()
    noise = replace(runs, loss=np.random.default_rng(0).uniform(2, 4, len(runs)))
    assert "unexplained" in {finding.code for finding in diagnose(noise, FULL, TRUTH, SURE)}


def test_an_exponent_with_a_wide_interval_is_named() -> None:
    draws = TRUTH + np.linspace(-1, 1, 101)[:, None] * np.array([0, 0, 0, 0.3, 0.1, 0.01])
    (finding,) = diagnose(grid_runs(), FULL, TRUTH, SURE, draws)
    assert finding.code == "loose" and finding.text.startswith("alpha is 0.34, somewhere from 0.0")


def test_a_form_without_g_has_no_gamma_to_doubt() -> None:
    runs = grid_runs()
    runs = runs.take(runs.g == 1)
    assert diagnose(runs, DENSE, TRUTH[:5], np.eye(5) * 1e-6) == ()
