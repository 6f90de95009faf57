import dataclasses
import json
import typing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from family.spec import Exit
from scaling.check import check_runs
from scaling.errors import ScalingError
from scaling.forms import FULL, M1
from scaling.read import read_runs
from scaling.runs import Conventions
from scaling.sweeprows import SweepRow
from tests.scaling.runs import ROOT
from tests.training.sweeps import BUDGET, FACTS, SMALL, WIDE, design
from training.flops import parameters
from training.presets import small_shape
from training.sweep.design import Grid
from training.sweep.loop import Outcome
from training.sweep.plan import Plan, make_plan
from training.sweep.rows import Row, append_row, make_row

KINDS = {"norm": None, "block": None, "lowrank": 4}


def plan(branch: str = "norm") -> Plan:
    grid = Grid((3 * BUDGET, 6 * BUDGET), (SMALL, WIDE), (1, 2, 3), branch=branch, rank=KINDS[branch])
    return make_plan(design(grid), FACTS)


def rows_of(made: Plan) -> list[Row]:
    """Rows as a sweep writes them, each exit's loss falling with its depth."""
    return [
        make_row(made, run, Outcome((tuple(4 - 0.1 * e.layer for e in run.exits),), 2.0, diverged=False), "cpu")
        for run in made.runs
    ]


def write(folder: Path, rows: list[Row]) -> Path:
    for row in rows:
        append_row(folder, row)
    return folder / "rows.jsonl"


def test_what_is_read_of_a_row_is_what_a_sweep_writes() -> None:
    written = typing.get_type_hints(Row)
    read = typing.get_type_hints(SweepRow)
    assert read.items() <= written.items()


def test_rows_of_a_sweep_need_no_mapping(tmp_path: Path) -> None:
    rows = rows_of(plan())
    runs = read_runs(write(tmp_path, rows))
    assert runs.n.tolist() == [row.parameters for row in rows] and runs.d.tolist() == [row.tokens for row in rows]
    assert runs.g.tolist() == [row.granularity for row in rows] and runs.c.tolist() == [row.flops for row in rows]
    assert runs.loss.tolist() == pytest.approx([row.loss for row in rows])
    assert runs.conventions == Conventions("total", "given", heads=True) and not runs.findings
    assert not {"no-dense", "no-partner", "aliased-g"} & {finding.code for finding in check_runs(runs, FULL)}
    with pytest.raises(ScalingError, match="the rows of a sweep, whose columns are known; leave the mapping out"):
        read_runs(tmp_path / "rows.jsonl", columns={"n": "parameters"})


def test_the_conventions_are_applied_exactly(tmp_path: Path) -> None:
    rows = rows_of(plan())
    path = write(tmp_path, rows)
    bare = read_runs(path, params="non-embedding", compute="6ND")
    assert bare.n.tolist() == [row.non_embedding for row in rows] and bare.c.tolist() == (6 * bare.n * bare.d).tolist()
    counted = read_runs(path, params="non-embedding", compute="6ND", heads=True)
    heads = [6 * row.granularity * row.head * row.tokens for row in rows]
    assert (counted.c - bare.c).tolist() == heads
    given, less = read_runs(path), read_runs(path, heads=False)
    window = rows[0].window
    early = [6 * (row.granularity - 1) * row.head * row.tokens * (window - 1) / window for row in rows]
    assert (given.c - less.c).tolist() == pytest.approx(early)


@pytest.mark.parametrize("branch", KINDS)
def test_every_exit_may_be_an_observation_with_the_size_of_its_own_model(tmp_path: Path, branch: str) -> None:
    rows = rows_of(plan(branch))
    path = write(tmp_path, rows)
    runs = read_runs(path, exits=True)
    assert len(runs) == sum(row.granularity for row in rows)
    assert np.bincount(runs.cluster).tolist() == [row.granularity for row in rows]
    assert runs.loss.tolist() == [loss for row in rows for loss in row.exit_losses]
    assert runs.exit_layer is not None and runs.exit_layer.tolist() == [at for row in rows for at in row.exit_layers]
    assert runs.n_exit is not None and runs.exit_weight is not None and runs.n_layers is not None
    last = runs.exit_layer == runs.n_layers
    dense = [parameters(small_shape(r.d_model, 6, r.n_heads, 257, (Exit(6, "norm"),))).total for r in rows]
    assert runs.n_exit[last].tolist() == dense
    (family,) = (
        i for i, r in enumerate(rows) if r.granularity == 2 and r.d_model == 16 and r.budget_flops == 6 * BUDGET
    )
    size = parameters(small_shape(16, 3 + (branch == "block"), 1, 257, (Exit(3 + (branch == "block"), "norm"),))).total
    first = runs.n_exit[runs.cluster == family][0]
    assert first == size if branch != "lowrank" else size < first < size + 16 * 300
    assert read_runs(path, exits=True, params="non-embedding").n_exit == pytest.approx(
        runs.n_exit - [row.head for row in rows for _ in row.exit_layers]
    )
    check_runs(runs, M1)


def test_diverged_repeated_and_torn_rows_are_left_out_and_named(tmp_path: Path) -> None:
    made = plan()
    rows = rows_of(made)
    failed = make_row(made, made.runs[0], Outcome((), 1.0, diverged=True), "cpu")
    path = write(tmp_path, [failed, *rows[1:], rows[3]])
    path.write_text(path.read_text() + '{"id": "half')
    runs = read_runs(path)
    assert len(runs) == len(rows) - 1
    texts = {finding.code: finding.text for finding in runs.findings}
    assert texts.keys() == {"torn", "failed", "repeated"}
    assert texts["failed"].endswith("line 1") and texts["repeated"].endswith(f"line {len(rows) + 1}")
    assert f"line {len(rows) + 2}" in texts["torn"]


@pytest.mark.parametrize("change", [{"vocab_size": 512}, {"bytes_per_token": 2.5}, {"held_out_tokens": 7}])
def test_losses_that_cannot_be_compared_are_refused(tmp_path: Path, change: dict[str, float]) -> None:
    rows = rows_of(plan())
    path = write(tmp_path, [replace(rows[0], **change), *rows[1:]])  # type: ignore[arg-type]
    (name,) = change
    with pytest.raises(ScalingError, match=f"the rows have {name} .*; choose: --where {name}="):
        read_runs(path)
    assert len(read_runs(path, where={name: str(getattr(rows[1], name))})) == len(rows) - 1


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"precision": "bfloat16"}, "differ in precision (bfloat16, float32)"),
        ({"batch": 7}, "differ in batch (2, 7)"),
        ({"branch": "block"}, "branches of several kinds (block, norm)"),
    ],
)
def test_what_no_law_knows_of_is_named(tmp_path: Path, change: dict[str, object], named: str) -> None:
    rows = rows_of(plan())
    family = next(i for i, row in enumerate(rows) if row.granularity > 1)
    rows[family] = replace(rows[family], **change)  # type: ignore[arg-type]
    (finding,) = read_runs(write(tmp_path, rows)).findings
    assert finding.code == "mixed" and named in finding.text


def test_a_sweep_over_learning_rates_is_named_as_one() -> None:
    runs = read_runs(ROOT / "experiments" / "isoflop" / "cpu-rates" / "rows.jsonl")
    assert len(runs) == 15 and "3 sizes were run at several learning rates" in runs.findings[0].text


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"schema_version": 2}, "line 1: schema_version: expected 1, got 2"),
        ({"tokens": "many"}, 'line 1: tokens: expected an integer, got a string ("many")'),
        ({"exit_losses": [3.0, 2.0, 1.0, 0.5]}, "line 1: exit_losses: expected 1, one for each exit"),
    ],
)
def test_a_malformed_row_is_named(tmp_path: Path, change: dict[str, object], problem: str) -> None:
    row = next(row for row in rows_of(plan()) if row.granularity == 1)
    data = dataclasses.asdict(row) | change
    (tmp_path / "rows.jsonl").write_text(json.dumps(data) + "\n")
    with pytest.raises(ScalingError) as refused:
        read_runs(tmp_path / "rows.jsonl")
    assert problem in str(refused.value)
