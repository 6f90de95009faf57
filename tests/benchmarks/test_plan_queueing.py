"""The benchmark of shared tiers: its grid, its errors, and real traffic on one of the machines that were planned."""

import json
from pathlib import Path

import pytest

from benchmarks import plan_queueing, report


def test_formulas_and_play_agree_on_a_small_grid(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FAMILIAL_DATA", str(tmp_path))
    monkeypatch.setattr(plan_queueing, "TIERS", plan_queueing.TIERS[:1])
    monkeypatch.setattr(plan_queueing, "LENGTHS", ((50, 30),))
    monkeypatch.setattr(plan_queueing, "LOADS", (0.3, 0.5))
    small = plan_queueing.grid((0.3, 0.5), 400)
    monkeypatch.setattr(plan_queueing, "grid", lambda: small)
    result = plan_queueing.measure()
    assert result["points"] == 4
    assert result["tpot_s"]["worst_decile_error"] < 0.15
    assert result["busy"]["worst_decile_error"] < 0.15
    assert result["ttft_p95_s"]["worst_decile_error"] < 0.35
    assert all("set FAMILIAL_DATA" in found["skipped"] for found in result["traces"].values())
    text = plan_queueing.table(result)
    assert "| tpot_p95_s | " in text and "azure_code: skipped: " in text


def test_times_planned_for_a_traces_peak_hold_in_its_busiest_minutes() -> None:
    try:
        report.data(plan_queueing.TRACES["azure_code"])
    except report.MissingInputError as missing:
        pytest.skip(str(missing))
    found = plan_queueing.trace("azure_code")
    assert found["machines"] > 10 and found["peak"] > 2
    assert found["ttft_p95_s_in_busy_minutes"] < found["planned_at_peak"]["ttft_p95_s"]
    assert found["played"]["tpot_s"] < found["planned_at_peak"]["tpot_s"]
    assert found["played"]["busy"] < found["planned_at_peak"]["busy"]


def test_the_stored_run_is_one_of_todays_formulas() -> None:
    """Played once by `python -m benchmarks.plan_queueing --json`; the formulas still say what stands beside it."""
    from scaling.plan.queueing import Demand, sizing

    stored = json.loads((report.ROOT / "experiments" / "plan" / "queueing.json").read_text())
    first = dict(plan_queueing.TIERS)
    for row in stored["rows"]:
        demand = Demand(row["rate"], row["prompt"], row["output"], plan_queueing.PROMPT_CV, away_s=row["away_s"])
        found = sizing(plan_queueing.tier(row["machine"], first[row["machine"]]), demand, machines=1)
        for name, value in plan_queueing.planned(found).items():
            assert value == pytest.approx(row["formula"][name], rel=0.02), (row["machine"], name)
    assert stored["tpot_s"]["median_error"] <= 0.05 and stored["ttft_p95_s"]["median_error"] <= 0.10
