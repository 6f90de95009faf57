"""What the planner's efficiencies were fitted to gives them again, and the errors on all else are those published."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks import plan_hardware, report
from benchmarks.published.decoding import ollama_rows
from benchmarks.published.layers import CALIBRATE, VIDUR, fit_layers
from scaling.plan.hardware import hardware
from scaling.plan.roofline import EFFICIENCY

STATED = {
    "own": (0.14, 0.45),
    "layers": (0.06, 0.15),
    "ollama": (0.10, 0.22),
    "decode": (0.10, 0.29),
    "mlperf_edge": (0.24, 0.42),
    "mlperf_datacenter": (0.11, 0.17),
}
"""Median and worst decile that the documentation states."""


@pytest.fixture
def published() -> None:
    try:
        report.data(VIDUR.format("a100", CALIBRATE[0]))
    except report.MissingInputError as missing:
        pytest.skip(str(missing))


@pytest.mark.usefixtures("published")
def test_the_efficiencies_of_gpus_are_those_that_the_layers_give() -> None:
    fitted, used = fit_layers(), EFFICIENCY["gpu"]
    assert (used.compute, used.memory, used.layer_s) == pytest.approx(
        (fitted.compute, fitted.memory, fitted.layer_s), rel=0.02
    )


@pytest.mark.usefixtures("published")
def test_the_jetsons_row_is_what_every_other_of_its_models_gives() -> None:
    rows = [(bytes_ / 1e9, layers, seconds) for _, bytes_, layers, seconds, calibrated in ollama_rows() if calibrated]
    table = np.array(rows)
    per_gb, per_layer = np.linalg.lstsq(table[:, :2] / table[:, 2:], np.ones(len(table)), rcond=None)[0]
    machine = hardware("Jetson Orin NX 8GB with Ollama")
    assert machine.bandwidth_bytes == pytest.approx(1e9 / per_gb, rel=0.01)
    assert machine.layer_s == pytest.approx(per_layer, rel=0.01)


@pytest.mark.usefixtures("published")
def test_errors_of_what_was_not_calibrated_are_those_that_are_stated() -> None:
    sets = plan_hardware.measure()["sets"]
    for name, (median, worst) in STATED.items():
        assert sets[name]["median_error"] <= median, name
        assert sets[name]["worst_decile_error"] <= worst, name
    assert sets["mlperf_edge"]["rows"] == 3 and sets["mlperf_edge"]["left_out"] == 4


def test_data_that_is_not_there_is_skipped_and_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FAMILIAL_DATA", str(tmp_path))
    result = plan_hardware.measure()
    for name in ("layers", "ollama", "mlperf_edge", "mlperf_datacenter"):
        assert "set FAMILIAL_DATA to a folder that holds hardware/" in result["sets"][name]["skipped"]
    assert result["sets"]["decode"]["rows"] == 42 and result["sets"]["own"]["rows"] > 100
    text = plan_hardware.table(result)
    assert "| layers | skipped: " in text and "| decode | 42 | " in text
