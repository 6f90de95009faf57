import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from tests.training.disk import room
from tests.training.sweeps import BUDGET, FACTS, SMALL, WIDE, design
from training.flops import parameters, training_flops
from training.sweep.design import Grid
from training.sweep.errors import SweepError
from training.sweep.loop import Outcome
from training.sweep.plan import Plan, Run, make_plan
from training.sweep.plot import plot_sweep
from training.sweep.rate import best_rates, fit_rate
from training.sweep.rows import Row, append_row, make_row, read_rows
from training.sweep.status import status_table, sweep_status

GRID = Grid((3 * BUDGET, 6 * BUDGET), (SMALL, WIDE), (1, 3), ("even", "early"), depth_partners=True)
PLAN = make_plan(design(GRID), FACTS)


def outcome(run: Run) -> Outcome:
    """Losses that fall with the exit's depth."""
    return Outcome((tuple(4 - 0.1 * e.layer for e in run.exits),), 2.0, diverged=False)


def rows_for(plan: Plan, runs: Sequence[Run]) -> list[Row]:
    return [make_row(plan, run, outcome(run), "cpu") for run in runs]


def test_a_row_says_all_that_a_fit_needs() -> None:
    run = next(r for r in PLAN.runs if r.granularity == 3 and r.placement == "early" and r.size == WIDE)
    row = make_row(PLAN, run, Outcome(((4.0, 3.0, 2.0),), 2.0, False), "cpu")
    shape = PLAN.shape(run)
    assert (row.parameters, row.head) == (parameters(shape).total, 257 * 32)
    assert row.non_embedding == row.parameters - row.head  # tied
    assert row.flops == run.tokens * training_flops(shape, 16).total == row.tokens * row.flops_per_token
    assert (row.granularity, row.exit_layers, row.placement) == (3, (1, 2, 6), "early")
    assert row.loss == pytest.approx(3.0) and row.exit_losses == (4.0, 3.0, 2.0) and sum(row.weights) == 1
    assert row.held_out == {"held.txt": (4.0, 3.0, 2.0)}
    assert row.epochs == pytest.approx(row.tokens / row.unique_tokens, abs=1e-4)
    assert {"torch", "transformers"} <= row.versions.keys() and row.plan_sha256 == PLAN.sha256


def test_held_out_texts_count_by_their_tokens() -> None:
    held_out = (*FACTS.held_out, replace(FACTS.held_out[0], file="more.txt", tokens=3000, bytes_per_token=2.0))
    plan = make_plan(design(), replace(FACTS, held_out=held_out))
    row = make_row(plan, plan.runs[0], Outcome(((2.0,), (4.0,)), 1.0, False), "cpu")
    assert row.exit_losses == (3.5,) and row.held_out_tokens == 4000
    assert row.bytes_per_token == pytest.approx(1.75)


def test_a_diverged_run_is_a_row_without_losses(tmp_path: Path) -> None:
    append_row(tmp_path, make_row(PLAN, PLAN.runs[0], Outcome((), 1.0, diverged=True), "cpu"))
    (row,) = read_rows(tmp_path)
    assert row.loss is None and row.exit_losses == () and row.held_out == {}


def test_rows_are_read_as_they_were_written_and_writers_take_turns(tmp_path: Path) -> None:
    rows = rows_for(PLAN, PLAN.runs)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda row: append_row(tmp_path, row), rows))
    assert sorted(read_rows(tmp_path), key=lambda r: r.id) == sorted(rows, key=lambda r: r.id)
    assert read_rows(tmp_path / "nowhere") == []


def test_half_a_row_of_a_dead_writer_is_no_row_and_goes_with_the_next(tmp_path: Path) -> None:
    first, second = rows_for(PLAN, PLAN.runs[:2])
    append_row(tmp_path, first)
    with (tmp_path / "rows.jsonl").open("a") as file:
        file.write('{"id": "half a r')
    assert read_rows(tmp_path) == [first]
    append_row(tmp_path, second)
    assert read_rows(tmp_path) == [first, second]


def test_a_full_disk_leaves_the_rows_whole(tmp_path: Path) -> None:
    first, second = rows_for(PLAN, PLAN.runs[:2])
    append_row(tmp_path, first)
    before = (tmp_path / "rows.jsonl").read_bytes()
    with room(len(before) + 100), pytest.raises(OSError):
        append_row(tmp_path, second)
    assert (tmp_path / "rows.jsonl").read_bytes() == before


def test_a_malformed_row_is_named(tmp_path: Path) -> None:
    append_row(tmp_path, rows_for(PLAN, PLAN.runs[:1])[0])
    with (tmp_path / "rows.jsonl").open("a") as file:
        file.write('{"schema_version": "one"}\n')
    with pytest.raises(SweepError, match=r"rows\.jsonl, line 2: schema_version: expected an integer.*; mend that line"):
        read_rows(tmp_path)


def test_status_counts_what_is_done_and_guesses_the_rest_by_width() -> None:
    done = rows_for(PLAN, PLAN.runs[:5])
    status = sweep_status(PLAN, done)
    assert (status.runs, status.done) == (len(PLAN.runs), 5)
    assert sum(b.runs for b in status.budgets) == len(PLAN.runs) and sum(b.done for b in status.budgets) == 5
    assert status.flops_left == pytest.approx(sum(PLAN.flops(r) for r in PLAN.runs[5:]))
    assert status.seconds_left is not None and "minutes of one worker" in status_table(status)
    assert sweep_status(PLAN, []).seconds_left is None
    assert sweep_status(PLAN, rows_for(PLAN, PLAN.runs)).seconds_left == 0


def test_the_rate_rule_is_a_power_law_through_the_vertex_of_each_sizes_losses() -> None:
    factors = (0.25, 0.5, 1.0, 2.0, 4.0)
    plan = make_plan(design(Grid((3 * BUDGET,), (SMALL, WIDE), (1,), rate_factors=factors)), FACTS)

    def measured(run: Run) -> Row:
        row = make_row(plan, run, outcome(run), "cpu")
        best = 4e-3 * (row.parameters / 50_000) ** -0.5
        return replace(row, loss=3 + 0.2 * math.log(run.lr / best) ** 2)

    best = best_rates([measured(run) for run in plan.runs])
    assert all(b.inside for b in best)
    rule = fit_rate(best)
    assert rule.power == pytest.approx(-0.5, abs=0.02)
    assert rule.at(50_000) == pytest.approx(4e-3, rel=0.02)


def test_a_best_rate_at_the_edge_says_so_and_one_size_is_no_rule() -> None:
    plan = make_plan(design(Grid((2 * BUDGET,), (SMALL,), (1,), rate_factors=(0.5, 1.0, 2.0))), FACTS)
    rows = [replace(make_row(plan, r, outcome(r), "cpu"), loss=3 + r.lr) for r in plan.runs]
    (best,) = best_rates(rows)
    assert not best.inside and best.rate == min(r.lr for r in rows)
    with pytest.raises(SweepError, match="at least two dense sizes with 3 finished rates each"):
        fit_rate([best])


def test_plots_are_written_for_whatever_part_is_done(tmp_path: Path) -> None:
    rows = rows_for(PLAN, PLAN.runs)
    for part in (rows, [row for row in rows if row.granularity == 1 and not row.depth_of][:1]):
        assert [p.name for p in plot_sweep(part, tmp_path)] == ["profiles.png", "exits.png"]
        assert all((tmp_path / name).stat().st_size > 10_000 for name in ("profiles.png", "exits.png"))
    with pytest.raises(SweepError, match="no finished runs to plot; do some with: sweep-family run"):
        plot_sweep([], tmp_path)
