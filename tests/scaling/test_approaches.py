"""The three approaches on runs of a known law, and the published exponents on published data."""

import csv

import numpy as np
import pytest

from scaling.approaches import approaches, budgets, profiles, weighted_exponent
from scaling.read import read_runs
from scaling.runs import Runs, make_runs
from tests.scaling.runs import TRUTH, losses, real

A = 0.36 / (0.34 + 0.36)


def isoflop_runs() -> Runs:
    """Nine sizes around the best at six budgets, G = 1, almost without noise."""
    c = np.repeat(np.geomspace(1e18, 1e21, 6), 9)
    best = (0.34 * 400 / (0.36 * 2000)) ** (1 / 0.7) * (c / 6) ** A
    n = best * np.tile(np.geomspace(1 / 4, 4, 9), 6)
    d = c / 6 / n
    noise = 1 + 1e-4 * np.random.default_rng(0).standard_normal(len(c))
    return make_runs(n, d, losses(n, d, np.ones(len(n)), TRUTH) * noise)


def test_all_approaches_find_the_exponent_of_the_law_that_made_the_runs() -> None:
    for found in approaches(isoflop_runs()):
        assert found.value == pytest.approx(A, abs=0.03), found
        assert found.low <= A + 0.03 and found.high >= A - 0.03


def test_budgets_are_told_apart_by_gaps() -> None:
    found = budgets(np.array([1e18, 1e19, 1.02e18, 1.01e19, 1e20]))
    assert [sorted(group.tolist()) for group in found] == [[0, 2], [1, 3], [4]]


def test_budgets_are_the_fullest_neighbourhoods_first() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        c = np.exp(rng.uniform(0, 2, 60))
        left = list(range(60))
        expected = []
        while left:
            near = [[j for j in left if abs(np.log(c[i] / c[j])) <= 0.1] for i in left]
            fullest = max(near, key=len)  # the first of several
            expected.append(fullest)
            left = [i for i in left if i not in fullest]
        assert sorted(group.tolist() for group in budgets(c)) == sorted(expected)


def test_budgets_of_many_runs_take_no_memory_of_their_square() -> None:
    c = np.exp(np.random.default_rng(0).uniform(0, 10, 300_000))
    assert sum(map(len, budgets(c))) == len(c)


def test_a_profile_without_a_minimum_among_its_sizes_has_no_best() -> None:
    n = np.array([1e7, 2e7, 4e7])
    falling = make_runs(n, 1e17 / 6 / n, np.array([3.0, 2.5, 2.2]))
    (profile,) = profiles(falling)
    assert np.isnan(profile.best)
    np.testing.assert_allclose(profile.at(n), [3.0, 2.5, 2.2])


def test_chinchillas_points_give_about_one_half_by_all_three() -> None:
    runs = read_runs(real("epoch-chinchilla/svg_extracted_data.csv")).without_highest(5)
    found = approaches(runs)
    assert all(0.42 < exponent.value < 0.6 for exponent in found), found
    assert found[2].value == pytest.approx(0.513, abs=0.003)


def test_porians_exponents_come_out_as_published() -> None:
    with real("porian/porian_optimal_pairs.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["n"] and row["n_star_std"] and row["fit_n_exponent"]]
    experiments = {row["fit_n_exponent"] for row in rows}
    for published in experiments:
        mine = [row for row in rows if row["fit_n_exponent"] == published]
        c, n, std = (np.array([float(row[name]) for row in mine]) for name in ("flops", "n", "n_star_std"))
        assert weighted_exponent(c, n, std).value == pytest.approx(float(published), abs=0.005)
