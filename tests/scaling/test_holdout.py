"""Runs of more compute are held out by whole budgets, and the law's error on them is what it is."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from scaling.cli import main
from scaling.errors import ScalingError
from scaling.findings import Finding
from scaling.forms import DENSE, FULL
from scaling.holdout import HeldOut, held_out, held_out_finding, split
from scaling.lawfile import load_law
from scaling.runs import make_runs
from scaling.solve import solve
from tests.scaling.runs import TRUTH, grid_runs, real, write_csv
from tests.scaling.test_approaches import isoflop_runs


@pytest.mark.parametrize(("share", "upper"), [(0.25, 18), (0.4, 18), (0.45, 27), (0.001, 9), (0.999, 45)])
def test_whole_budgets_are_held_out(share: float, upper: int) -> None:
    runs = isoflop_runs()
    scattered = replace(runs, c=runs.c * np.exp(0.02 * np.random.default_rng(0).uniform(-1, 1, len(runs))))
    less, more = split(scattered, share)
    assert (len(less), len(more)) == (54 - upper, upper)
    assert less.c.max() < more.c.min()


def test_rows_keep_their_order_and_none_is_lost() -> None:
    runs = grid_runs()
    parts = split(runs)
    together = np.concatenate([part.cluster for part in parts])
    assert sorted(together) == list(range(len(runs)))
    assert all((np.diff(part.cluster) > 0).all() for part in parts)


@pytest.mark.parametrize("share", [0.0, 1.0, -0.5, float("nan")])
def test_a_share_that_is_none_is_refused(share: float) -> None:
    with pytest.raises(ScalingError, match="between 0 and 1"):
        split(grid_runs(), share)


def test_one_budget_cannot_be_split() -> None:
    n = np.array([1e7, 2e7, 4e7])
    with pytest.raises(ScalingError, match="of one budget"):
        split(make_runs(n, 1e17 / n, np.array([3.0, 2.9, 3.1])))


def test_errors_are_those_of_the_formula() -> None:
    less, more = split(grid_runs(noise=0.0))
    exact = held_out(FULL, TRUTH, less, more)
    assert exact.error < 1e-12 and exact.largest < 1e-12
    assert exact.from_c == more.c.min() and exact.reach == more.c.max() / less.c.max()
    theta = TRUTH + np.array([np.log(1.01)] * 3 + [0.0] * 3)  # every prediction is 1% higher
    higher = held_out(FULL, theta, less, more)
    assert (higher.error, higher.largest, higher.bias) == pytest.approx((0.01, 0.01, 0.01))
    assert higher.lowest_error == pytest.approx(np.median(np.abs(less.loss.min() / more.loss - 1)))
    logs = np.polyfit(np.log(less.c), np.log(less.loss), 1)
    assert higher.power_error == pytest.approx(
        np.median(np.abs(np.exp(np.polyval(logs, np.log(more.c))) / more.loss - 1))
    )


def test_a_law_with_noise_extrapolates_within_it_and_far_better_than_no_law() -> None:
    less, more = split(grid_runs(noise=0.003))
    found = held_out(FULL, solve(FULL, less).theta, less, more)
    assert found.error < 0.006 and found.power_error > 5 * found.error and found.lowest_error > 5 * found.error
    assert not held_out_finding(found).warning


def finding(**changed: float) -> Finding:
    found = HeldOut(90, 1, 1e20, 8.0, 0.01, 0.03, -0.002, 0.04, 0.05)
    return held_out_finding(replace(found, **changed))


def test_a_law_that_no_law_outdoes_is_a_note_and_else_a_warning() -> None:
    assert finding().text.startswith("held out, 1 loss from 1e+20 FLOPs on, up to 8 times the compute of the fit")
    assert not finding().warning
    assert finding(power_error=0.009).warning and finding(lowest_error=0.009).warning


def test_the_command_fits_the_lower_part_and_reports_the_upper(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = grid_runs()
    dense = runs.take(runs.g == 1)
    table = write_csv(tmp_path / "runs.csv", {"N": dense.n, "D": dense.d, "loss": dense.loss})
    less, more = split(dense, 0.3)
    expected = held_out(DENSE, solve(DENSE, less).theta, less, more)
    command = [str(table), "--hold-out", "0.3", "--bootstraps", "0", "--out", str(tmp_path / "law.json")]
    main([*command, "--json"])
    summary = json.loads(capsys.readouterr().out)
    assert summary["data"]["runs"] == len(less) == expected.fitted
    assert summary["held_out"]["error"] == pytest.approx(expected.error)
    main(command)
    text = held_out_finding(expected).text
    assert text in capsys.readouterr().out
    assert text in [f.text for f in load_law(tmp_path / "law.json").findings]


def test_without_the_flag_nothing_is_held_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = grid_runs()
    table = write_csv(tmp_path / "runs.csv", {"N": runs.n, "D": runs.d, "G": runs.g, "loss": runs.loss})
    main([str(table), "--bootstraps", "0", "--json"])
    summary = json.loads(capsys.readouterr().out)
    assert summary["data"]["runs"] == len(runs) and "held_out" not in summary


def test_a_share_out_of_range_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = grid_runs()
    table = write_csv(tmp_path / "runs.csv", {"N": runs.n, "D": runs.d, "loss": runs.loss})
    with pytest.raises(SystemExit) as left:
        main([str(table), "--hold-out", "25"])
    assert left.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].endswith("lies between 0 and 1, got 25")


def test_the_chinchilla_points_of_most_compute_are_told_within_one_percent(capsys: pytest.CaptureFixture[str]) -> None:
    points = str(real("epoch-chinchilla/svg_extracted_data.csv"))
    main([points, "--drop-highest", "5", "--hold-out", "0.25", "--bootstraps", "0", "--json"])
    found = json.loads(capsys.readouterr().out)["held_out"]
    assert (found["fitted"], found["predicted"]) == (180, 60)
    assert found["error"] < 0.01 and found["power_error"] > 0.03
