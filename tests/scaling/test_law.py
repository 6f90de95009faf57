import textwrap
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import scaling
from scaling.errors import ScalingError
from scaling.fit import fit
from scaling.forms import M0
from scaling.frontier import optimum, surface
from scaling.law import FittedLaw
from scaling.lawfile import load_law
from scaling.report import law_table, summarise
from tests.scaling.runs import TRUTH, grid_runs, losses, write_csv


@cache
def law(bootstraps: int = 400) -> FittedLaw:
    return fit(grid_runs(), "full", bootstraps=bootstraps, seed=1)


def test_a_law_predicts_losses_with_intervals_that_hold_the_truth() -> None:
    n, d, g = np.array([2e7, 1e9, 2e10]), np.array([2e9, 1e11, 2e12]), np.array([1.0, 3.0, 2.0])
    loss, low, high = law().predict(n, d, g)
    truth = losses(n, d, g)
    assert (low < loss).all() and (loss < high).all()
    assert loss == pytest.approx(truth, rel=0.01)
    width = np.log(high / low)
    assert width[2] > width[0], "farther from the runs it is less sure"


def test_points_are_broadcast_and_many_are_done_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = law().predict(np.geomspace(1e7, 1e10, 50), 1e10)
    monkeypatch.setattr("scaling.law.MOST_NUMBERS", 5000)
    parts = law().predict(np.geomspace(1e7, 1e10, 50), 1e10)
    assert all(np.array_equal(one, other) for one, other in zip(whole, parts, strict=True))
    assert whole.loss.shape == (50,) and law().predict(1e9, 1e10).loss.shape == (1,)


@pytest.mark.parametrize(
    ("point", "problem"),
    [
        ({"n": 0.0}, "n is positive and finite: run 0 has 0"),
        ({"n": [1e9, -1.0]}, "n is positive and finite: run 1 has -1"),
        ({"d": np.nan}, "d is positive and finite"),
        ({"g": 1.5}, "a whole number from 1 on"),
        ({"n": [1e8, 1e9], "d": [1e9, 1e10, 1e11]}, "arrays of one length"),
        ({"level": 90}, "an interval's level lies between 0 and 1, got 90"),
        ({"level": 0.0}, "between 0 and 1, got 0"),
    ],
)
def test_points_and_levels_that_are_none_are_refused(point: dict[str, Any], problem: str) -> None:
    for one in (law(), replace(law(), draws=np.empty((0, 6)))):
        with pytest.raises(ScalingError, match=problem):
            one.predict(**{"n": 1e9, "d": 1e10, **point})
        if "level" in point:
            with pytest.raises(ScalingError, match=problem):
                one.estimates(**point)


def test_no_points_have_no_losses() -> None:
    assert [array.shape for array in law().predict([], [])] == [(0,)] * 3


def test_a_wider_level_has_a_wider_interval() -> None:
    narrow, wide = (law().predict(1e9, 1e10, level=level) for level in (0.5, 0.95))
    assert wide.low < narrow.low < narrow.loss == wide.loss < narrow.high < wide.high


def test_without_draws_intervals_come_from_the_covariance_and_are_about_the_same() -> None:
    drawn, first_order = law(), replace(law(), draws=np.empty((0, 6)))
    for one, other in zip(drawn.estimates(), first_order.estimates(), strict=True):
        assert one.value == other.value and other.low < one.value < other.high
        if one.name not in ("A", "B"):
            assert 0.5 < other.error / one.error < 2, one.name
    wide = [p.high - p.low for p in (drawn.predict(1e9, 1e11), first_order.predict(1e9, 1e11))]
    assert 0.5 < wide[0] / wide[1] < 2


def test_a_law_that_the_runs_do_not_determine_has_no_interval() -> None:
    bare = replace(law(), draws=np.empty((0, 6)), covariance=None)
    assert np.isnan(bare.predict(1e9, 1e10).low).all()
    assert all(np.isnan([e.error, e.low, e.high]).all() for e in bare.estimates())
    assert all(estimate.keys() == {"name", "value"} for estimate in summarise(bare).estimates), "JSON has no NaN"
    assert "-   - to -" in law_table(bare)


def test_a_standard_error_of_a_heavy_tail_is_not_shown() -> None:
    draws = law().draws.copy()
    draws[0, 1] = 60.0  # A of one draw in 400 ran away
    wild = replace(law(), draws=draws)
    a = next(e for e in wild.estimates() if e.name == "A")
    assert a.error > 1e20 and a.high < 1e4
    value, error, low, _, high = next(line.split()[1:] for line in law_table(wild).splitlines() if line[:2] == "A ")
    assert error == "-" and float(low) < float(value) < float(high)


def test_estimates_name_every_parameter_and_the_exponent_of_the_best_size() -> None:
    estimates = {e.name: e for e in law().estimates()}
    assert list(estimates) == ["E", "A", "B", "alpha", "beta", "gamma", "beta/(alpha+beta)"]
    alpha, beta = TRUTH[3:5]
    for name, truth in (("E", 1.7), ("alpha", alpha), ("gamma", 0.05), ("beta/(alpha+beta)", beta / (alpha + beta))):
        assert abs(estimates[name].value - truth) < 4 * estimates[name].error
    assert law().natural == {e.name: e.value for e in law().estimates()[:-1]}


@pytest.mark.parametrize("bootstraps", [0, 50])
def test_tied_exponents_make_the_best_size_a_square_root(bootstraps: int) -> None:
    runs = grid_runs(theta=np.array([np.log(1.7), np.log(900.0), np.log(1800.0), 0.35, 0.35, 0.0]))
    tied = fit(runs, "tied", bootstraps=bootstraps)
    *found, share = tied.estimates()
    assert [e.name for e in found] == ["E", "A", "B", "alpha"] and tied.certificate.certified
    assert abs(found[3].value - 0.35) < 4 * found[3].error
    assert (share.value, share.error, share.low, share.high) == (0.5, 0, 0.5, 0.5)
    best = optimum(surface(tied.form, tied.theta[None]), np.array([1e20, 1e22]))
    assert best.n[0, 1] / best.n[0, 0] == pytest.approx(10)


def test_a_law_of_exits_is_asked_with_their_sizes() -> None:
    runs = replace(grid_runs(), n_exit=grid_runs().n)
    exits = fit(runs, "M0", bootstraps=0)
    with pytest.raises(ScalingError, match="the form M0 needs n_exit"):
        exits.predict(1e9, 1e10)
    assert exits.predict_runs(runs).loss.shape == (len(runs),) and exits.form is M0


def test_the_table_has_parameters_certificate_and_findings() -> None:
    runs = grid_runs().without_highest(2)
    lines = law_table(fit(runs, "full", bootstraps=50, seed=3)).splitlines()
    assert lines[0].startswith("118 runs, N 1e+07 to 3e+09, D 1e+09 to 3e+11, G 1 to 4, C ")
    assert lines[1] == (
        "L = (E + A N^-alpha + B D^-beta) G^gamma (full; N total, C 6ND without the heads that are not in N)"
    )
    assert "90% interval (50 bootstraps of the runs, seed 3)" in lines[3]
    assert [line.split()[0] for line in lines[4:10]] == ["E", "A", "B", "alpha", "beta", "gamma"]
    assert any(line.startswith("certified: ") for line in lines)
    assert any(line.startswith("note: left out as asked, the 2 highest losses: run ") for line in lines)


def test_a_summary_is_the_law_without_its_draws() -> None:
    summary = summarise(law())
    assert summary.bootstraps == 400 and summary.estimates == tuple(asdict(e) for e in law().estimates())
    assert summary.data.sha256 == grid_runs().sha256


def test_the_example_of_the_package_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = grid_runs()
    dense = runs.take(runs.g == 1)
    write_csv(tmp_path / "runs.csv", {"N": dense.n, "D": dense.d, "loss": dense.loss})
    monkeypatch.chdir(tmp_path)
    example = str(scaling.__doc__).split("\n\n", 1)[1].rsplit("\n\n", 1)[0]
    exec(textwrap.dedent(example), {})
    assert load_law(tmp_path / "law.json").data.runs == 25
