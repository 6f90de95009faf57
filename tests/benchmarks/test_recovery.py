"""Parameter recovery: simulated as said, resumed where it stopped, and counted right."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import recovery
from family.errors import FamilialError
from scaling.forms import FULL
from scaling.solve import solve

TASK = recovery.Recovery(
    design="grid",
    noise=0.003,
    draws=20,
    level=0.9,
    runs=90,
    intervals=recovery.INTERVALS,
    quantities=("gamma", "E"),
    truth=(0.041, 1.18),
    sets=(),
)


@pytest.mark.parametrize(("design", "runs", "sizes"), [("grid", 90, 6), ("paper", 56, 7)])
def test_the_law_of_the_paper_comes_back_from_runs_without_noise(design: str, runs: int, sizes: int) -> None:
    made = recovery.simulated(design, 0.0, 0)
    assert len(made) == runs and len(set(made.n)) == sizes
    natural = dict(zip(FULL.natural_names, FULL.natural(solve(FULL, made).theta), strict=True))
    assert natural == pytest.approx(recovery.TRUTH, rel=1e-6)


def test_the_design_of_the_paper_spends_its_budgets_heads_included() -> None:
    made = recovery.simulated("paper", 0.0, 0)
    assert set(made.g) == {1, 2, 3, 4}
    one_budget = made.take(np.arange(7))
    assert (one_budget.c < 1e20).all()  # 6ND counts neither attention nor early heads
    same_trunk = np.isclose(one_budget.n, one_budget.n[1], rtol=1e-3)
    assert (np.diff(one_budget.d[same_trunk]) < 0).all()  # a further head leaves fewer tokens


def test_noise_is_normal_and_of_the_size_said() -> None:
    residual = np.log(recovery.simulated("grid", 0.003, 1).loss / recovery.simulated("grid", 0.0, 1).loss)
    assert residual.std() == pytest.approx(0.003, rel=0.25) and abs(residual.mean()) < 0.001


def test_a_stopped_run_goes_on_to_the_same_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovery, "AT_ONCE", 2)
    whole = recovery.recover(TASK, 5, tmp_path / "whole.json")
    recovery.recover(TASK, 3, tmp_path / "parts.json")
    assert recovery.recover(TASK, 5, tmp_path / "parts.json") == whole
    assert (tmp_path / "parts.json").read_bytes() == (tmp_path / "whole.json").read_bytes()
    with pytest.raises(FamilialError, match="of another kind"):
        recovery.recover(replace(TASK, draws=30), 5, tmp_path / "parts.json")


def test_coverage_is_the_share_of_intervals_that_hold_the_truth() -> None:
    sets = (
        ((0.04, 0.03, 0.05), (1.2, 1.19, 1.3)),
        ((0.05, 0.045, 0.06), (1.2, 1.1, 1.3)),
        ((0.04, 0.039, 0.05), (1.1, 1.0, 1.17)),
        ((0.04, 0.02, 0.041), (1.2, 1.1, 1.3)),
    )
    found = recovery.summary(replace(TASK, sets=sets))
    assert [found[name]["coverage"] for name in ("gamma", "E")] == [0.75, 0.5]
    assert found["gamma"]["coverage_se"] == pytest.approx(0.2165, abs=1e-4)
    result = {**{name: getattr(TASK, name) for name in ("design", "runs", "noise", "draws", "level")}, "sets": 4}
    assert "| gamma | 0.041 | 0.04 | 0.0345 to 0.05 | 75.0% ± 21.6% |" in recovery.table(
        {**result, "quantities": found}
    )
