"""Laws per exit: the form that made the rows is found, and every way of leaving rows out leaves what it says."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from scaling.errors import ScalingError
from scaling.exitreport import exits_table, summarise_exits
from scaling.exits import OVERALL, compare, splits
from scaling.forms import M0, M1, M2, M3, Form
from scaling.runs import FloatArray, Runs

SCALES = [np.log(1.5), np.log(300.0), np.log(900.0), 0.32, 0.35]


def exit_rows(form: Form, extra: list[float], noise: float = 0.002) -> Runs:
    """Rows of families of G = 1, 2, 4 at three sizes and four budgets, whose losses a form made."""
    rng = np.random.default_rng(1)
    cells: list[tuple[float, ...]] = []
    for run, (c, n, g) in enumerate(product((1e15, 1e16, 1e17, 1e18), (1e6, 4e6, 1.6e7), (1, 2, 4))):
        cells += [(n, c / 6 / n, g, c, run, 8 * (i + 1) // g, n * (0.2 + 0.8 * (i + 1) / g)) for i in range(g)]
    n, d, g, c, cluster, layer, own = np.array(cells).T
    ones = np.ones(len(cells))
    rows = Runs(n, d, g, c, ones, cluster.astype(np.int64), layer, 8 * ones, 1 / g, own)
    log: FloatArray = np.log(np.exp(form.design(rows) @ np.array(SCALES + extra)).sum(axis=0))
    return replace(rows, loss=np.exp(log + noise * rng.standard_normal(len(cells))))


def test_rows_of_no_new_parameter_choose_m0() -> None:
    assert compare(exit_rows(M0, []), (M0, M1, M3)).chosen == "M0"


def test_rows_of_interference_choose_m1_and_m0_is_shown_beside_it() -> None:
    found = compare(exit_rows(M1, [0.1]), (M0, M1, M3))
    assert found.chosen == "M1"
    assert {score.form for score in found.scores if score.split == OVERALL} == {"M0", "M1", "M3"}
    best = [score for score in found.scores if score.form == "M1"]
    assert all(score.error < 0.004 and score.standard_error < 0.002 for score in best)


def test_each_split_leaves_out_what_it_says() -> None:
    rows = exit_rows(M0, [])
    found = {split.name: split.parts for split in splits(rows)}
    assert list(found) == ["runs", "layers", "top budget"]
    assert (found["runs"].sum(axis=0) == 1).all() and (found["layers"].sum(axis=0) == 1).all()
    for part in found["runs"]:
        assert not set(rows.cluster[part]) & set(rows.cluster[~part])
    assert len(found["layers"]) == 4
    assert set(rows.c[found["top budget"][0]]) == {1e18}


def test_two_runs_are_too_few_to_compare_by() -> None:
    rows = exit_rows(M0, [])
    with pytest.raises(ScalingError, match="only 2"):
        splits(rows.take(rows.cluster < 2))


def test_a_form_whose_parameters_the_rows_cannot_tell_is_left_out_with_the_reason() -> None:
    found = compare(exit_rows(M0, []))  # all exits weigh the same
    assert set(found.fits) == {"M0", "M1", "M3"}
    assert "all runs have the same G·w_g" in found.left_out["M2"]
    assert {score.form for score in found.scores} == set(found.fits)


def test_exits_that_weigh_more_and_are_better_choose_m2() -> None:
    rows = exit_rows(M0, [])
    weighted = replace(rows, exit_weight=np.where(rows.g > 1, np.where(rows.exit_layer == 8, 2, 1) / (rows.g + 1), 1.0))
    log = np.log(np.exp(M2.design(weighted) @ np.array([*SCALES, 0.2])).sum(axis=0))
    noise = 0.002 * np.random.default_rng(2).standard_normal(len(rows))
    assert compare(replace(weighted, loss=np.exp(log + noise))).chosen == "M2"


def test_m0_is_never_left_out() -> None:
    rows = exit_rows(M0, [])
    with pytest.raises(ScalingError, match="the form M0 needs n_exit"):
        compare(replace(rows, n_exit=None))


def test_the_table_has_every_form_and_says_which_is_chosen() -> None:
    found = compare(exit_rows(M1, [0.1]))
    lines = exits_table(found).splitlines()
    assert lines[1].split() == ["parameters", "runs", "layers", "top", "budget", "overall"]
    assert [line.split()[0] for line in lines[2:6]] == ["M0", "M1", "M3", "M2"] and "left out" in lines[5]
    assert lines[3].endswith("*") and lines[-1].endswith("chosen: M1")
    summary = summarise_exits(found)
    assert summary.chosen == "M1" and [fit.form for fit in summary.fits] == ["M0", "M1", "M3"]
    assert summary.fits[1].parameters["gamma"] == pytest.approx(0.1, abs=0.01) and summary.fits[1].certified
