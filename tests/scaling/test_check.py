import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from scaling.check import check_runs, check_values
from scaling.errors import ScalingError
from scaling.forms import DENSE, FULL, M0, M2, Form
from scaling.runs import Runs, make_runs
from tests.scaling.runs import grid_runs


def codes(runs: Runs, form: Form = FULL) -> set[str]:
    return {finding.code for finding in check_runs(runs, form) if finding.warning}


def dense(n: Any, d: Any) -> Runs:
    return make_runs(n, d, np.linspace(4, 2, len(n)))


def test_a_design_that_identifies_everything_has_no_finding() -> None:
    assert check_runs(grid_runs(), FULL) == ()


@pytest.mark.parametrize(
    ("keep", "code"),
    [
        (lambda r: r.n < 6e7, "narrow-n"),
        (lambda r: r.d < 8e9, "narrow-d"),
        (lambda r: np.isin(r.n, np.unique(r.n)[[0, 5]]), "few-n"),
        (lambda r: np.isin(r.d, np.unique(r.d)[[0, 4]]), "few-d"),
        (lambda r: r.g > 1, "no-dense"),
        (lambda r: (r.g > 1) | (r.n > 2e7), "no-partner"),
        (lambda r: r.g == np.searchsorted(np.unique(r.n), r.n) % 4 + 1, "aliased-g"),
        (lambda r: np.arange(len(r)) % 7 == 0, "few-runs"),
    ],
)
def test_a_design_that_cannot_identify_the_law_is_named(keep: Any, code: str) -> None:
    runs = grid_runs()
    assert code in codes(runs.take(keep(runs)))


def test_partners_need_not_have_the_same_n_to_the_last_parameter() -> None:
    runs = grid_runs()
    assert codes(replace(runs, n=runs.n * (1 + 0.01 * runs.g))) == set()


def test_one_ratio_of_tokens_to_parameters_is_named() -> None:
    n = np.geomspace(1e7, 1e9, 30)
    assert codes(dense(n, 20 * n), DENSE) == {"one-ratio"}
    assert codes(dense(n, n**0.5 * 1e5), DENSE) == {"aliased-d"}
    assert codes(dense(n, 1e18 / n), DENSE) == {"aliased-d"}, "one budget of compute"


@pytest.mark.parametrize(
    ("runs", "form", "problem"),
    [
        (dense([1e6], [1e9]), DENSE, "there is one run; the form dense has 5 parameters"),
        (dense([1e7] * 30, np.geomspace(1e9, 1e11, 30)), DENSE, "all runs have the same N, so alpha of the form dense"),
        (dense(np.geomspace(1e7, 1e9, 30), [1e9] * 30), DENSE, "all runs have the same D, so beta of the form dense"),
        (dense([1e6, 3e6, 1e7], [1e9, 3e9, 1e9]), DENSE, "3 losses cannot tell 5 parameters (form dense); add runs"),
        (
            dense(np.geomspace(1e7, 1e9, 30), np.tile(np.geomspace(1e9, 1e11, 5), 6)),
            FULL,
            "all runs have the same G, so gamma of the form full cannot be fitted; fit a form without it (dense)",
        ),
        (
            make_runs(np.geomspace(1e7, 1e9, 30), np.tile(np.geomspace(1e9, 1e11, 5), 6), np.full(30, 3.0)),
            DENSE,
            "all losses are 3: nothing depends on N and D; is the right column mapped?",
        ),
        (dense([1e6, 1e7], [1e9, 1e9]), M0, "the form M0 needs n_exit, which these runs do not have"),
    ],
)
def test_what_no_fit_can_tell_is_refused(runs: Runs, form: Form, problem: str) -> None:
    with pytest.raises(ScalingError) as refused:
        check_runs(runs, form)
    assert problem in str(refused.value)


def test_equal_weights_of_all_exits_leave_nothing_for_eta() -> None:
    runs = grid_runs()
    equal = replace(runs, n_exit=runs.n, exit_weight=1 / runs.g)
    with pytest.raises(ScalingError, match="all runs have the same G·w_g, so eta of the form M2 cannot be fitted"):
        check_runs(equal, M2)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"n": 1e-6}, "units"),
        ({"d": 1e-9}, "units"),
        ({"c": 1e-3}, "units"),
        ({"c": 1e18}, "units"),
        ({"loss": 30.0}, "units"),
    ],
)
def test_numbers_in_other_units_are_named(change: dict[str, float], code: str) -> None:
    runs = grid_runs()
    for name, factor in change.items():
        runs = replace(runs, **{name: getattr(runs, name) * factor})
    assert code in codes(runs)


def test_single_rows_in_other_units_are_named_among_many() -> None:
    runs = grid_runs()
    odd = np.arange(len(runs)) == 7
    texts = [f.text for f in check_runs(make_runs(np.where(odd, 7.0, runs.n), runs.d, runs.loss, runs.g), FULL)]
    assert any("N is less than 1000 in run 7: is it in parameters, not in millions?" in text for text in texts)
    (finding,) = check_runs(replace(runs, loss=np.where(odd, 20.0, runs.loss)), FULL)
    assert finding.text == "the loss is over 15 in run 7: is it nats per token, not perplexity?"


def test_losses_of_early_exits_are_no_losses_of_runs() -> None:
    runs = grid_runs()
    layers = np.full(len(runs), 8.0)
    last = replace(runs, exit_layer=layers, n_layers=layers)
    assert check_runs(last, FULL) == ()
    early = replace(last, exit_layer=np.where(np.arange(len(runs)) == 3, 4.0, layers))
    with pytest.raises(ScalingError, match=r"run 3: losses of early exits, and the form full is .* \(M0 to M3\)"):
        check_runs(early, FULL)


def test_numbers_at_the_ends_of_floats_are_refused_or_named_without_noise() -> None:
    runs = grid_runs()
    odd = np.arange(len(runs)) == 7
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ScalingError, match="c is positive and finite: run 7 has inf"):
            check_runs(make_runs(np.where(odd, 1e300, runs.n), runs.d, runs.loss, runs.g), FULL)
        tiny = make_runs(np.where(odd, 5e-324, runs.n), runs.d, runs.loss, runs.g)
        assert {"units"} <= {finding.code for finding in check_runs(tiny, FULL)}


def test_rows_of_another_convention_are_named() -> None:
    runs = grid_runs()
    mixed = replace(runs, c=np.where(np.arange(len(runs)) == 7, runs.c / 10, runs.c))
    (finding,) = check_runs(mixed, FULL)
    assert finding.code == "mixed" and "run 7: are all rows in one convention?" in finding.text


def test_rows_that_stand_there_twice_are_told_from_runs_that_were_made_again() -> None:
    runs = grid_runs()
    more = runs.take(np.array([*range(120), 3, 5, 5]))
    again = replace(more, loss=np.where(np.arange(123) == 120, more.loss * 1.01, more.loss))
    repeated, other = check_runs(again, FULL)
    assert (repeated.code, repeated.warning) == ("duplicates", True) and "run 121, run 122" in repeated.text
    assert (other.code, other.warning) == ("replicates", False) and other.text.endswith("run 120")


def test_losses_of_several_kinds_in_one_table_are_suspected() -> None:
    runs = grid_runs()
    both = runs.take(np.tile(np.arange(120), 3))
    assert "replicates" in codes(replace(both, loss=both.loss + np.repeat([0.0, 0.1, 0.2], 120)))


def test_arrays_of_several_lengths_are_refused() -> None:
    runs = grid_runs()
    with pytest.raises(ScalingError, match="expected arrays of one length, got n: 119"):
        check_values(replace(runs, n=runs.n[1:]))


def test_no_runs_are_refused() -> None:
    with pytest.raises(ScalingError, match="there are no runs"):
        check_values(grid_runs().take(np.array([], dtype=np.int64)))
