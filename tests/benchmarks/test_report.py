"""Every benchmark says what it lacks, and names the machine."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import chain, report
from tests.conftest import ROOT

BENCHMARKS = sorted(path.stem for path in (ROOT / "benchmarks").glob("*.py") if "__main__" in path.read_text())


def test_make_bench_runs_every_benchmark() -> None:
    recipe = (ROOT / "Makefile").read_text().partition("\nbench:")[2].partition("\n\n")[0]
    assert sorted(re.findall(r"-m benchmarks\.(\w+) --json", recipe)) == BENCHMARKS


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_explains_itself(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{name}", "--help"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0 and f"python -m benchmarks.{name}" in done.stdout


def test_missing_data_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FAMILIAL_DATA", str(tmp_path))
    with pytest.raises(report.MissingInputError, match="set FAMILIAL_DATA to a folder that holds text"):
        report.data("text/a.txt")


def test_a_chain_is_measured_and_the_result_is_one_json_object(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(report, "bundle", lambda precision: tiny_bundle)
    monkeypatch.setattr(report, "PRECISIONS", ("f32",))
    monkeypatch.setattr(chain, "ROUNDS", 1)
    monkeypatch.setattr(sys, "argv", ["chain", "--json"])
    report.main("chain", chain.__doc__, chain.measure, chain.table)
    result = json.loads(capsys.readouterr().out)
    assert result["machine"]["cores"] > 0
    assert result["f32"]["chain_vs_single"] > 0
    assert set(result["f32"]["rss_mb"]) == {"device", "edge", "cloud", "all"}
    assert result["f32"]["chunk_invariant"] is True
