"""The benchmark of calibrated thresholds counts what it says, on a table whose truth is known."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from benchmarks import confidence, report
from exporter.confidence.table import Header, PromptCounts, RuleTested, Table, save_table

MEANS = (0.005, 0.02, 0.06)
"""Expected risks of three rules, of which the third must not be taken for 0.05."""


@pytest.fixture
def measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Table:
    rng = np.random.default_rng(0)
    rules = tuple(RuleTested("margin", (0.9 - mean, 0.8 - mean), mean, mean) for mean in MEANS)
    header = Header(1, "f", "int4", "e", "q.jsonl", "0", 0, 80, 64, ("margin",), (0.001, 0.05), rules)
    wrong = np.stack([rng.binomial(64, rng.beta(mean * 12, (1 - mean) * 12, 400)) for mean in MEANS], axis=1)
    early = [(16 * i, 16, 48 - 16 * i) for i in range(1, 4)]
    made = Table(header, tuple(PromptCounts(i, tuple(map(int, row)), tuple(early)) for i, row in enumerate(wrong)))
    save_table(made, tmp_path / confidence.TABLE)
    shutil.copy(report.ROOT / "families" / report.FAMILY / "spec.json", (tmp_path / confidence.TABLE).parent)
    monkeypatch.setattr(report, "ROOT", tmp_path)
    return made


def test_splits_certify_the_laxest_rule_that_holds_and_its_figures_are_those_of_the_other_half(measured: Table) -> None:
    result = confidence.measure(splits=20)
    easy, hopeless = result["by_statistic"]["margin"]["0.05"], result["by_statistic"]["margin"]["0.001"]
    assert (easy["certified"], hopeless["certified"]) == (20, 0)
    assert easy["agreement"] == pytest.approx(1 - MEANS[1], abs=0.006) and easy["exits"] == [0.5, 0.25, 0.25]
    assert result["violations"] <= result["bar"] == 3
    assert [rule["epsilon"] for rule in result["certificate"]] == [0.05]
    head, rows = 2 * 576 * 49152, 6 * 2 * (2 * 576 * 64 * (9 + 3) + 3 * 576 * 1536)
    assert [point["early"] for point in result["frontier"]] == [0.5, 0.75, 1.0]
    assert result["cloud_flops_at_95"] == round((rows + head / 4) / (rows + head), 3)
    assert "| margin | 0.001 | 0 | 0 | 0 | - | - |" in confidence.table(result)


def test_a_rule_that_should_not_have_been_taken_is_a_violation(
    measured: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(confidence, "last_kept", lambda risks, epsilon, delta: 2)
    result = confidence.measure(splits=20)
    assert result["violations"] >= 18 and result["violations_of_expected"] == 20


def test_the_bar_is_the_most_that_chance_explains() -> None:
    assert (confidence.bar(100, 0.05), confidence.bar(20, 0.05), confidence.bar(10, 1.0)) == (9, 3, 10)
