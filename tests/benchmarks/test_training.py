"""The benchmark of training counts what it says, and its figures are there."""

import json
import sys

import pytest
import torch

from benchmarks import report, training
from benchmarks.tensors import peak_tensor_bytes

TINY = training.Size(n_layers=4, d_model=32, d_ff=48, n_heads=2, vocab_size=64, windows=2, window=16, rounds=1)


def test_tensors_are_counted_while_they_live() -> None:
    kept = torch.zeros(1000)
    base = peak_tensor_bytes(lambda: None)

    def work() -> None:
        doubled = kept * 2
        del doubled
        doubled = kept * 2
        doubled.view(10, 100).add_(1)
        doubled + doubled

    assert peak_tensor_bytes(work) - base == 2 * kept.nbytes


def test_a_family_is_measured_against_a_dense_model(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["training", "--json"])
    report.main("training", training.__doc__, lambda: training.measure(TINY), training.table)
    result = json.loads(capsys.readouterr().out)
    memory = result["memory"]
    assert result["memory_ratio_g4"] == pytest.approx(
        memory["block"]["tensor_mib"] / memory["dense"]["tensor_mib"], 0.05
    )
    assert 1 < result["g4_over_g1"]["norm"]["flops"] < result["g4_over_g1"]["block"]["flops"]
    assert result["step_overhead_vs_flops_g4"] > 0
    assert "| block |" in training.table(result)
