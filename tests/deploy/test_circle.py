import json
import subprocess
import sys
from pathlib import Path

import pytest

from family.spec import load_spec


@pytest.mark.slow
def test_the_circle_closes_from_a_plan_to_a_plan(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "deploy.circle", str(tmp_path), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = json.loads(done.stdout)
    planned = json.loads((tmp_path / "plan" / "plan.json").read_text())["best"]
    assert [row["exit"] for row in rows] == [1, 2, 3]
    for row in rows:
        for predicted, measured in (row["ttft_ms"], row["tpot_ms"]):
            assert predicted > 0 and measured > 0
    trained = load_spec(tmp_path / "family" / "spec.json")
    assert [e.layer for e in trained.exits] == [tier["exit_layer"] for tier in planned["tiers"]]
    again = json.loads((tmp_path / "again" / "plan.json").read_text())["best"]
    assert all(node["basis"] == "profile" for node in again["nodes"]) and again["misses"] == []
