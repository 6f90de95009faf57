"""Laws of the lower budgets tell the losses of the upper ones, on every public set."""

from functools import cache
from typing import Any

import numpy as np
import pytest

from benchmarks import extrapolation, public
from scaling.forms import FULL, REDUCIBLE
from tests.scaling.runs import grid_runs, real


@cache
def result() -> dict[str, Any]:
    for name in (public.CHINCHILLA, public.KYO, public.GADRE, public.GEMSTONES, public.ROUTING, public.PORIAN):
        real(name.removeprefix("scaling/"))
    return extrapolation.measure()


def test_the_median_set_is_within_the_bar_and_far_better_than_no_law() -> None:
    assert result()["median_extrapolation_error"] <= extrapolation.BAR
    assert result()["median_extrapolation_error"] == np.median([of["error"] for of in result()["sets"].values()])
    assert result()["medians"]["power_error"] > 2 * result()["median_extrapolation_error"]
    assert result()["medians"]["lowest_error"] > 2 * result()["median_extrapolation_error"]


def test_every_set_is_there_with_all_its_parts() -> None:
    counts = {name: sum(part["set"] == name for part in result()["parts"]) for name in result()["sets"]}
    assert counts == {
        "epoch-chinchilla": 1,
        "gadre-overtraining": 3,
        "gemstones": 1,
        "kyo-chinchilla-llm": 1,
        "deepmind-routing": 3,
        "porian": 15,
    }
    rows = {part["part"]: part["fitted"] + part["predicted"] for part in result()["parts"]}
    assert (rows["S-Base"], rows["Hash"], rows["RL-R"]) == (61, 59, 62), "the base grids of the paper"
    assert all(0.15 < part["predicted"] / (part["fitted"] + part["predicted"]) < 0.35 for part in result()["parts"])


def test_our_own_sweep_stands_beside_and_is_not_counted_in() -> None:
    assert "G^gamma" in result()["own"]["form"]
    assert result()["own"]["set"] not in result()["sets"]


def test_the_table_has_a_line_for_each_part_and_each_set() -> None:
    table = extrapolation.table(result())
    assert table.count("| porian ") == 16 and "| gemstones |" in table and "| median of the sets |" in table


def test_of_two_forms_that_is_taken_that_fits_the_lower_part() -> None:
    found = extrapolation.extrapolate(grid_runs(noise=1e-5), (REDUCIBLE, FULL))
    assert found["form"] == FULL.formula
    assert found["parameters"]["gamma"] == pytest.approx(0.05, abs=1e-3)
