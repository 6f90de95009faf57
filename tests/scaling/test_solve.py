"""The certified fit finds the published optimum, and says what it did not find."""

from dataclasses import replace

import numpy as np
import pytest

from scaling.certificate import LEAST_CURVATURE, Certificate, certify
from scaling.coordinates import centred
from scaling.forms import DENSE, FULL, REDUCIBLE
from scaling.newton import descend
from scaling.read import read_runs
from scaling.runs import FloatArray, Runs, make_runs
from scaling.solve import objective_of, solve
from tests.scaling.runs import TRUTH, grid_runs, losses, real


def codes(certificate: Certificate) -> list[str]:
    return [problem.code for problem in certificate.problems]


def dense_runs(n: FloatArray, d: FloatArray) -> Runs:
    """80 runs of the law at G = 1, with noise."""
    noise = 0.003 * np.random.default_rng(0).standard_normal(len(n))
    return make_runs(n, d, losses(n, d, np.ones(len(n))) * np.exp(noise))


def plane(sizes: int, tokens: int) -> tuple[FloatArray, FloatArray]:
    n, d = np.meshgrid(np.geomspace(1e7, 3e9, sizes), np.geomspace(1e9, 3e11, tokens))
    return n.ravel(), d.ravel()


def test_the_chinchilla_points_have_the_published_optimum() -> None:
    runs = read_runs(real("epoch-chinchilla/svg_extracted_data.csv")).without_highest(5)
    solution = solve(DENSE, runs)
    assert solution.certificate.objective <= 1.01827402e-3
    e, _, _, alpha, beta = DENSE.natural(solution.theta)
    assert (round(alpha, 4), round(beta, 4), round(e, 3)) == (0.3473, 0.3672, 1.817)
    found = solution.certificate
    assert found.certified and found.agree == found.starts == 8
    assert found.gradient < 1e-12 and found.curvature > 1e-5
    assert 0 < found.within < len(runs)


@pytest.mark.parametrize("form", [FULL, REDUCIBLE])
def test_a_law_without_noise_is_found_to_the_last_digits(form: object) -> None:
    runs = grid_runs(noise=0.0)
    if form is FULL:
        solution = solve(FULL, runs)
        np.testing.assert_allclose(solution.theta, TRUTH, rtol=1e-9)
    else:
        exact = np.exp(REDUCIBLE.design(runs) @ TRUTH).sum(axis=0)
        solution = solve(REDUCIBLE, replace(runs, loss=exact))
        np.testing.assert_allclose(solution.theta, TRUTH, rtol=1e-9)
    assert solution.certificate.certified and solution.certificate.agree == solution.certificate.starts


def test_gamma_without_any_exits_is_reported_as_flat() -> None:
    solution = solve(FULL, dense_runs(*plane(8, 10)))
    assert solution.certificate.flat == ("gamma",)
    assert not solution.certificate.certified and codes(solution.certificate) == ["flat"]
    assert "the runs do not determine (gamma)" in solution.certificate.problems[0].text
    assert np.isfinite(solution.theta).all() and solution.theta[5] == 0


def test_one_model_size_is_reported_as_flat() -> None:
    found = solve(DENSE, dense_runs(np.full(80, 1e9), np.geomspace(1e9, 1e12, 80))).certificate
    assert sorted(found.flat) == ["alpha", "e a"] and not found.certified


def test_tokens_in_proportion_to_parameters_are_reported() -> None:
    n = np.geomspace(1e7, 1e10, 80)
    found = solve(DENSE, dense_runs(n, 20 * n)).certificate
    assert not found.certified and {"flat", "ties"} & set(codes(found))


def test_a_term_that_is_not_in_the_losses_is_reported() -> None:
    n, d = plane(8, 10)
    noise = 0.003 * np.random.default_rng(0).standard_normal(len(n))
    found = solve(DENSE, make_runs(n, d, (1.7 + 2000 * d**-0.36) * np.exp(noise)))
    assert not found.certificate.certified or found.certificate.curvature < 1e-3


def test_a_fit_does_not_depend_on_the_order_of_runs() -> None:
    runs = grid_runs()
    mixed = runs.take(np.random.default_rng(0).permutation(len(runs)))
    np.testing.assert_allclose(solve(FULL, mixed).theta, solve(FULL, runs).theta, rtol=1e-9)


def test_runs_that_fit_a_whole_set_of_laws_are_reported() -> None:
    runs = grid_runs()  # without gamma, each N and D has two losses above and two below a law in the gap between
    found = solve(DENSE, runs).certificate
    assert found.within == 0 and abs(found.curvature) < LEAST_CURVATURE and found.ties > 0
    assert set(codes(found)) == {"no-minimum", "ties"}


def test_a_start_that_ends_elsewhere_is_counted_with_its_objective() -> None:
    runs = grid_runs()
    found = centred(objective_of(FULL, runs))
    best = found.phi(solve(FULL, runs).theta[None])
    vanished = best.copy()
    vanished[:, 1] = -60.0  # a term of N that no gradient brings back
    certificate = certify(FULL.parameters, found.objective, descend(found.objective, np.concatenate([best, vanished])))
    assert (certificate.starts, certificate.agree, certificate.ties) == (2, 1, 0)
    assert certificate.elsewhere[0] > 2 * certificate.objective
    assert codes(certificate) == ["alone"]
    alone = certify(FULL.parameters, found.objective, descend(found.objective, vanished))
    assert alone.vanished == ("a",) and "vanished" in codes(alone)
