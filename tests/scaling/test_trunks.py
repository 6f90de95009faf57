"""Trunks of several sizes: exact FLOPs and exits' sizes, between the rungs and at them."""

from pathlib import Path

import numpy as np
import pytest

from scaling.errors import ScalingError
from scaling.trunks import PAPER, even_depths, ladder, read_trunks
from tests.scaling.runs import ROOT
from tests.scaling.test_sweep_rows import plan, rows_of, write
from training.flops import parameters, training_flops
from training.presets import PRESETS

SWEEP = ROOT / "experiments" / "isoflop" / "cpu" / "rows.jsonl"


def test_a_ladder_of_the_papers_trunks_has_their_exact_cost_and_sizes() -> None:
    found = ladder(read_trunks(PAPER), even_depths(1), "total")
    dense = [PRESETS[f"dense-{size}"] for size in ("1b", "2b", "3b", "4b")]
    assert found.n.tolist() == [parameters(shape).total for shape in dense]
    assert found.flops_per_token.tolist() == [training_flops(shape, 4096).total for shape in dense]
    assert (found.depth == 1).all() and (found.size == 1).all()


def test_more_exits_cost_more_per_token_and_are_smaller() -> None:
    trunks = read_trunks(PAPER)
    two, four = (ladder(trunks, even_depths(g), "total") for g in (2, 4))
    assert (four.flops_per_token > two.flops_per_token).all()
    assert four.depth[-1].tolist() == pytest.approx([10 / 41, 21 / 41, 31 / 41, 1])
    without = ladder(trunks, even_depths(4), "non-embedding")
    assert (without.size[:, 0] < four.size[:, 0]).all()  # every exit has the embedding
    np.testing.assert_allclose(without.size, without.depth, rtol=1e-3)


def test_sizes_between_the_rungs_are_between_theirs_and_beyond_them_the_ends() -> None:
    found = ladder(read_trunks(PAPER), even_depths(2), "total")
    early = found.places(np.array([1e6, found.n[1], np.sqrt(found.n[1] * found.n[2]), 1e12]))[0]
    assert isinstance(early.size, np.ndarray)
    low, rung, middle, high = early.size.tolist()
    assert (low, rung, high) == pytest.approx((found.size[0, 0], found.size[1, 0], found.size[-1, 0]))
    assert middle == pytest.approx((found.size[1, 0] + found.size[2, 0]) / 2)


@pytest.mark.parametrize("branch", ["norm", "block", "lowrank"])
def test_a_sweeps_families_are_its_trunks_whatever_their_branches(tmp_path: Path, branch: str) -> None:
    made = plan(branch)
    rows = rows_of(made)
    found = read_trunks(str(write(tmp_path, rows)))
    assert len(found.shapes) == 2 and found.branch == branch and found.window == rows[0].window
    for row in rows:
        if row.granularity == 2 and row.exit_layers[0] * 2 == row.n_layers:
            rungs = ladder(found, even_depths(2), "total")
            at = rungs.n.tolist().index(row.parameters)
            assert rungs.flops_per_token[at] == pytest.approx(row.flops_per_token)


def test_dense_partners_of_an_exits_depth_are_no_trunks() -> None:
    found = read_trunks(str(SWEEP))
    assert {shape.n_layers for shape in found.shapes} == {8}
    assert sorted(shape.d_model for shape in found.shapes) == [24, 32, 48, 64, 96]


def test_what_has_no_trunks_is_refused(tmp_path: Path) -> None:
    table = tmp_path / "runs.csv"
    table.write_text("n,d,loss\n1e6,1e8,3\n")
    with pytest.raises(ScalingError, match=r"expected a sweep's rows\.jsonl.* or paper"):
        read_trunks(str(table))
    with pytest.raises(ScalingError, match="no such file"):
        read_trunks(str(tmp_path / "none.jsonl"))
    dense = [row for row in rows_of(plan()) if row.granularity == 1]
    with pytest.raises(ScalingError, match="there is no family"):
        read_trunks(str(write(tmp_path, dense)))


def test_exits_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ScalingError, match="do not fit 8 layers"):
        ladder(read_trunks(str(SWEEP)), even_depths(9), "total")
