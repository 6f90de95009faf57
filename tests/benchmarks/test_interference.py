"""Truncation and interference, and what exits cost: on the paper's families and on the sweep's own rows."""

import json
from typing import Any

import numpy as np
import pytest

from benchmarks import interference
from scaling.runs import make_runs


@pytest.fixture(scope="module")
def result() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(json.dumps(interference.measure(draws=40)))
    return found


def test_of_the_papers_gamma_most_is_truncation_if_n_is_total_and_more_than_all_if_not(result: dict[str, Any]) -> None:
    shares = result["paper"]["truncation_share"]
    assert all(0.65 < share < 0.95 for of in shares["total"].values() for share in of)
    assert all(share > 1.3 for of in shares["non-embedding"].values() for share in of)


def test_exits_cost_compute_by_the_papers_law_and_more_with_their_heads(result: dict[str, Any]) -> None:
    compute = result["paper"]["compute"]
    assert compute["6ND"]["4"] == pytest.approx([1.865, 2.117], abs=1e-3)
    for g in ("2", "3", "4"):
        assert all(exact > plain > 1 for plain, exact in zip(compute["6ND"][g], compute["exact"][g], strict=True))


def test_every_figure_of_the_sweep_is_inside_its_interval(result: dict[str, Any]) -> None:
    found: list[dict[str, float]] = []

    def collect(value: Any) -> None:
        if isinstance(value, dict):
            if "value" in value:
                found.append(value)
            for item in value.values():
                collect(item)
        elif isinstance(value, list):
            for item in value:
                collect(item)

    collect(result["sweep"])
    assert len(found) > 80
    assert all(one["low"] <= one["value"] * 1.0001 and one["value"] <= one["high"] * 1.0001 for one in found)


def test_the_parts_of_gamma_add_up(result: dict[str, Any]) -> None:
    for split in result["sweep"]["by_law"].values():
        parts = split["truncation"]["value"] + split["interference"]["value"]
        assert parts == pytest.approx(split["gamma"]["value"], abs=1e-5)
    for family in result["sweep"]["partners"]["families"]:
        assert family["truncation"] * family["interference"] == pytest.approx(family["whole"], abs=2e-4)


def test_heads_cost_the_last_exit_even_where_the_law_knows_no_interference(result: dict[str, Any]) -> None:
    prices = {(p["law"], p["c_counts"], p["g"], p["c"]): p["last"]["value"] for p in result["sweep"]["compute"]}
    assert prices["M0", "6ND", 4, 1e12] == pytest.approx(1)
    assert prices["M0", "exact", 4, 1e12] > prices["M0", "exact", 2, 1e12] > 1.05


def test_the_table_has_every_law_and_form(result: dict[str, Any]) -> None:
    printed = interference.table(result)
    for law in ("full", "reducible", "M0", "M1", "M3"):
        assert f"| {law} | exact | 4 | 9e+12 |" in printed
    assert "| M3 | overall |" in printed and "early exits over dense partners" in printed


def test_the_mean_of_pairs_is_geometric_and_inside_its_interval() -> None:
    loss = np.array([3.0, 3.2, 3.1, 2.0, 2.1, 2.05])
    runs = make_runs(np.ones(6), np.ones(6), loss)
    apart = interference._pair_mean(runs, np.array([0, 1, 2]), np.array([3, 4, 5]), 400)
    assert apart["ratio"].value == pytest.approx(np.exp(np.log(loss[:3] / loss[3:]).mean()), rel=1e-4)
    assert apart["pairs"] == 3 and apart["ratio"].low < apart["ratio"].value < apart["ratio"].high
