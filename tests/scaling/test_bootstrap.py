"""The bootstrap draws runs, and every draw is a full fit."""

from dataclasses import replace

import numpy as np
import pytest

from scaling.bootstrap import batches, bootstrap, resampled
from scaling.forms import DENSE, FULL
from scaling.read import read_runs
from scaling.solve import objective_of, solve
from tests.scaling.runs import grid_runs, real

PUBLISHED = {"E": 0.0257, "alpha": 0.0154, "beta": 0.0206, "beta/(alpha+beta)": 0.020}
"""Standard errors of arXiv 2404.10102 from 4,000 bootstraps."""


def test_standard_errors_on_the_chinchilla_points_are_the_published() -> None:
    runs = read_runs(real("epoch-chinchilla/svg_extracted_data.csv")).without_highest(5)
    theta = solve(DENSE, runs).theta
    draws = bootstrap(objective_of(DENSE, runs), theta, runs.cluster, 4000)
    natural = DENSE.natural(draws)
    numbers = {"E": natural[:, 0], "alpha": natural[:, 3], "beta": natural[:, 4]}
    numbers["beta/(alpha+beta)"] = natural[:, 4] / natural[:, 3:].sum(axis=1)
    assert {name: drawn.std() for name, drawn in numbers.items()} == pytest.approx(PUBLISHED, rel=0.1)


def test_a_draw_is_the_fit_to_the_runs_drawn() -> None:
    runs = grid_runs()
    draws = bootstrap(objective_of(FULL, runs), solve(FULL, runs).theta, runs.cluster, 5, seed=3)
    for draw, counts in zip(draws, resampled(runs.cluster, 5, 3), strict=True):
        again = solve(FULL, runs.take(np.repeat(np.arange(len(runs)), counts.astype(int))))
        np.testing.assert_allclose(draw, again.theta, rtol=1e-6)


def test_rows_of_one_run_are_drawn_together() -> None:
    cluster = np.array([7, 7, 3, 3, 3, 1])
    counts = resampled(cluster, 200, 0)
    assert (counts[:, 0] == counts[:, 1]).all() and (counts[:, 2:5] == counts[:, 2:3]).all()
    assert (counts[:, [0, 2, 5]].sum(axis=1) == 3).all()


def test_rows_of_one_run_add_nothing_to_what_it_says() -> None:
    runs = grid_runs()
    twice = runs.take(np.repeat(np.arange(len(runs)), 2))
    theta = solve(FULL, runs).theta
    once = bootstrap(objective_of(FULL, runs), theta, runs.cluster, 100)
    np.testing.assert_allclose(bootstrap(objective_of(FULL, twice), theta, twice.cluster, 100), once, rtol=1e-6)
    apart = replace(twice, cluster=np.arange(len(twice)))
    assert (bootstrap(objective_of(FULL, apart), theta, apart.cluster, 100).std(axis=0) < once.std(axis=0)).all()


def test_draws_do_not_depend_on_how_many_fit_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = np.repeat(np.arange(40), 3)
    whole = resampled(cluster, 300, 5)
    monkeypatch.setattr("scaling.bootstrap.MOST_NUMBERS", 7 * len(cluster))
    parts = list(batches(cluster, 300, 5))
    assert len(parts) == 43 and max(map(len, parts)) == 7
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_the_same_seed_gives_the_same_draws_and_no_draws_are_none() -> None:
    runs = grid_runs()
    objective, theta = objective_of(FULL, runs), solve(FULL, runs).theta
    first = bootstrap(objective, theta, runs.cluster, 20, seed=1)
    np.testing.assert_array_equal(bootstrap(objective, theta, runs.cluster, 20, seed=1), first)
    assert (bootstrap(objective, theta, runs.cluster, 20, seed=2) != first).any()
    assert bootstrap(objective, theta, runs.cluster, 0).shape == (0, 6)
