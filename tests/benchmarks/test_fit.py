"""The benchmark of fits finds the published optimum in all three ways."""

import pytest

from benchmarks import fit
from tests.scaling.runs import real


def test_all_three_ways_end_at_the_published_optimum() -> None:
    real("epoch-chinchilla/svg_extracted_data.csv")
    result = fit.measure(fit.Size(fits=1, grid_step=12.5, draws=20, paper_step=12.25))
    assert result["certified"] and result["objective"] <= 1.01827402e-3
    assert result["paper_objective"] == pytest.approx(result["objective"], rel=1e-12)
    assert result["grid_objective"] == pytest.approx(result["objective"], rel=1e-3)
    assert result["grid_starts"] == 9 * 125 and result["paper_starts"] == 9 * 125
    assert "| one certified fit |" in fit.table(result)
