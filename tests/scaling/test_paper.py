"""The paper's procedure: its grid, L-BFGS from every start, and the certified fit's optimum."""

import os

import numpy as np
import pytest

from scaling import worker
from scaling.errors import ScalingError
from scaling.forms import DENSE, FULL
from scaling.lbfgs import lbfgs
from scaling.paper import grid, solve_paper
from scaling.read import read_runs
from scaling.solve import objective_of, solve
from tests.scaling.runs import TRUTH, grid_runs, real

COARSE = 12.25
"""Step of a and b that gives each three values."""


def test_the_grid_is_as_printed_with_half_units_and_gamma_at_0() -> None:
    points = grid(FULL)
    assert len(points) == 5**3 * 50**2 == 312_500
    axes = [np.unique(column) for column in points.T]
    assert [(axis[0], axis[-1]) for axis in axes] == [(-1, 1), (0.5, 25), (0.5, 25), (0, 2), (0, 2), (0, 0)]
    assert all(np.allclose(np.diff(axis), 0.5) for axis in axes)
    assert len(grid(DENSE)) == len(points)


def test_the_chinchilla_points_have_the_same_optimum_from_the_grid() -> None:
    runs = read_runs(real("epoch-chinchilla/svg_extracted_data.csv")).without_highest(5)
    paper, findings = solve_paper(DENSE, runs, COARSE)
    certified = solve(DENSE, runs)
    np.testing.assert_allclose(paper.theta, certified.theta, rtol=1e-9)
    assert paper.certificate.objective <= 1.01827402e-3
    assert paper.certificate.certified and paper.certificate.starts == 9 * 125 > paper.certificate.agree > 1
    assert paper.certificate.elsewhere[0] > paper.certificate.objective
    assert [finding.code for finding in findings] == ["paper-starts", "paper-boundary"]
    assert not any(finding.warning for finding in findings)


def test_an_optimum_outside_of_the_grid_is_reported() -> None:
    theta = TRUTH.copy()
    theta[0] = 1.3  # E = 3.7, where the grid ends at 2.7
    runs = grid_runs(theta=theta)
    _, findings = solve_paper(FULL, runs, COARSE)
    boundary = findings[-1]
    assert boundary.warning and "e = 1.3" in boundary.text and "(-1 to 1)" in boundary.text


def test_lbfgs_gains_on_every_start_and_ends_at_the_certified_optimum_from_near() -> None:
    runs = grid_runs()
    objective, best = objective_of(FULL, runs), solve(FULL, runs)
    start = best.theta + 0.01 * np.random.default_rng(0).standard_normal((50, 6))
    ends = lbfgs(objective, start)
    np.testing.assert_allclose(ends.value, objective.value(ends.at), rtol=1e-12)
    assert (ends.value < objective.value(start)).all()
    np.testing.assert_allclose(ends.value, best.certificate.objective, rtol=1e-3)


def test_a_batch_of_searches_ends_where_each_alone_does_but_for_those_that_rounding_parts() -> None:
    objective = objective_of(FULL, grid_runs())
    start = grid(FULL, COARSE)[::200]
    together = lbfgs(objective, start)
    alone = np.array([lbfgs(objective, one[None]).value[0] for one in start])
    same = np.isclose(alone, together.value, rtol=1e-3)
    assert same.mean() >= 0.75
    np.testing.assert_allclose(alone.min(), together.value.min(), rtol=1e-6)


def test_workers_find_what_one_process_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "AT_ONCE", 8)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    objective = objective_of(FULL, grid_runs())
    start = grid(FULL, COARSE)[::100]
    apart = worker.search(objective, start)
    np.testing.assert_allclose(apart.value, objective.value(apart.at), rtol=1e-12)
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    alone = worker.search(objective, start)
    np.testing.assert_allclose(apart.value.min(), alone.value.min(), rtol=1e-9)


def test_a_worker_that_fails_is_reported() -> None:
    objective = objective_of(FULL, grid_runs())
    with pytest.raises(ScalingError, match=r"a process that searched for the optimum ended with 1: .*out of bounds"):
        worker._worker(objective, np.zeros((3, 4)))
