"""The runs of a law come back from their file as they were fitted, or not at all."""

import json
from pathlib import Path

import numpy as np
import pytest

from scaling.again import both_views, runs_of
from scaling.errors import ScalingError
from scaling.fit import fit
from scaling.holdout import split
from scaling.law import FittedLaw
from scaling.lawfile import load_law, save_law
from scaling.read import read_runs
from scaling.runs import Runs
from tests.scaling.runs import ROOT, grid_runs, write_csv

SWEEP = ROOT / "experiments" / "isoflop" / "cpu-rates" / "rows.jsonl"


@pytest.fixture
def table(tmp_path: Path) -> Path:
    runs = grid_runs()
    return write_csv(tmp_path / "runs.csv", {"size": runs.n, "tokens": runs.d, "exits": runs.g, "loss": runs.loss})


def law_of(runs: Runs, folder: Path, form: str = "full") -> FittedLaw:
    """A law, through its file."""
    save_law(fit(runs, form, bootstraps=0), folder / "law.json")
    return load_law(folder / "law.json")


def test_rows_that_were_left_out_by_whatever_rule_are_left_out_again(table: Path, tmp_path: Path) -> None:
    whole = read_runs(table, columns={"n": "size", "g": "exits"})
    lower, _ = split(whole)
    for runs in (whole, whole.without_highest(3), lower.without_highest(2), whole.without(np.array([7, 0]))):
        law = law_of(runs, tmp_path)
        assert law.data.source is not None and len(law.data.source.left_out) == len(whole) - len(runs)
        again = runs_of(law, table)
        assert again.sha256 == runs.sha256 and again.loss.tolist() == runs.loss.tolist()


def test_the_law_says_which_rows_it_is_without(table: Path, tmp_path: Path) -> None:
    whole = read_runs(table, columns={"n": "size", "g": "exits"})
    highest = int(np.argmax(whole.loss))
    law_of(whole.without_highest(1), tmp_path)
    data = json.loads((tmp_path / "law.json").read_text())["data"]
    assert data["source"]["left_out"] == [f"line {highest + 2}"]  # the header is line 1


def test_other_runs_than_the_laws_are_refused(table: Path, tmp_path: Path) -> None:
    law = law_of(read_runs(table, columns={"n": "size", "g": "exits"}), tmp_path)
    lines = table.read_text().splitlines()
    table.write_text("\n".join(lines[:-1]))
    with pytest.raises(ScalingError, match="holds 119 losses, and not the 120 that the law was fitted to"):
        runs_of(law, table)
    table.write_text("\n".join([*lines[:-1], lines[-1] + "1"]))  # one more digit of one loss
    with pytest.raises(ScalingError, match=r"holds 120 losses, and not the 120 .* fit-law"):
        runs_of(law, table)


def test_both_views_of_a_sweep_are_of_the_same_runs(tmp_path: Path) -> None:
    law = law_of(read_runs(SWEEP).without_highest(4), tmp_path, "dense")
    runs, exits = both_views(law, SWEEP)
    assert runs is not None and exits is not None and len(runs) == law.data.runs == 11
    assert set(exits.cluster) == set(runs.cluster) and exits.exit_layer is not None
    law = law_of(read_runs(SWEEP, exits=True).without_highest(4), tmp_path, "M0")
    runs, exits = both_views(law, SWEEP)
    assert runs is not None and exits is not None and len(exits) == law.data.observations == 11
    assert set(runs.cluster) == set(exits.cluster) and runs.exit_layer is None


def test_a_table_has_the_view_that_it_has(table: Path, tmp_path: Path) -> None:
    law = law_of(read_runs(table, columns={"n": "size", "g": "exits"}), tmp_path)
    runs, exits = both_views(law, table)
    assert runs is not None and len(runs) == 120 and exits is None
