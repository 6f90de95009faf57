"""`sweep-family` for real, on a few runs of seconds in all."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from family.strict import dumps
from tests.training.sweeps import BUDGET, SMALL, design, rows_of, write_texts
from training.modeling import FamilyForCausalLM
from training.presets import family_config, norm_exits, small_shape
from training.sweep import cli
from training.sweep.cluster import do_runs_on_ray
from training.sweep.design import Grid, RateRule
from training.sweep.errors import SweepError
from training.sweep.loop import held_out_losses, lr_share, train_run
from training.sweep.plan import Plan, load_plan
from training.sweep.work import Effort, Place, claim, open_corpus, unfinished, work

GRID = Grid((BUDGET, 1.5 * BUDGET), (SMALL,), (1, 2), ("even", "late"))
TIMES = {"seconds", "finished"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A planned sweep of six runs, its texts beside it."""
    monkeypatch.setenv("FAMILIAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("FAMILIAL_DATA", str(tmp_path))
    write_texts(tmp_path)
    sweep = tmp_path / "sweep"
    sweep.mkdir()
    (sweep / "design.json").write_text(dumps(design(GRID)))
    cli.main(["plan", str(sweep)])
    return sweep


def place_of(folder: Path) -> Place:
    return Place(folder, folder.parent, folder.parent / "cache" / "tokens")


def one_worker(folder: Path, plan: Plan, **effort: float) -> None:
    limit, budget_s = effort.get("limit"), effort.get("budget_s")
    done = Effort(1, 1, "cpu", None if limit is None else int(limit), budget_s)
    work(place_of(folder), plan, open_corpus(place_of(folder), plan), done)


def results(folder: Path) -> dict[str, dict[str, object]]:
    """Rows by id, without what differs from time to time."""
    return {row["id"]: {k: v for k, v in row.items() if k not in TIMES} for row in rows_of(folder)}


def test_every_run_of_a_plan_is_done_once_and_reported(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = load_plan(folder)
    cli.main(["run", str(folder), "--json"])
    captured = capsys.readouterr()
    assert captured.err.count(" s\n") == len(plan.runs) == 6 and "exits 3,6 (even)" in captured.err
    status = json.loads(captured.out[captured.out.index("{") :])
    assert (status["runs"], status["done"], status["flops_left"]) == (6, 6, 0)
    rows = rows_of(folder)
    assert sorted(row["id"] for row in rows) == sorted(run.id for run in plan.runs)
    assert all(2 < loss < 5.5 for row in rows for loss in row["exit_losses"])
    before = (folder / "rows.jsonl").read_bytes()
    cli.main(["run", str(folder), "--workers", "2"])
    assert (folder / "rows.jsonl").read_bytes() == before


def test_two_workers_give_the_rows_of_one(folder: Path) -> None:
    cli.main(["run", str(folder), "--workers", "2"])
    together = results(folder)
    (folder / "rows.jsonl").unlink()
    one_worker(folder, load_plan(folder))
    assert together == results(folder) and len(rows_of(folder)) == 6


def test_a_killed_sweep_goes_on_without_doing_a_finished_run_again(folder: Path) -> None:
    command = [sys.executable, "-m", "training.sweep.cli", "run", str(folder)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as killed:
        assert killed.stderr is not None
        while not (line := killed.stderr.readline()).startswith("[1/6]"):
            assert line, "ended without a run"
        killed.kill()
    before = (folder / "rows.jsonl").read_text()
    plan = load_plan(folder)
    assert 1 <= before.count("\n") < 6
    one_worker(folder, plan)
    assert (folder / "rows.jsonl").read_text().startswith(before)
    assert sorted(row["id"] for row in rows_of(folder)) == sorted(run.id for run in plan.runs)


def test_a_run_that_another_worker_has_is_left_to_it(folder: Path) -> None:
    plan = load_plan(folder)
    with claim(folder, plan.runs[0]) as mine, claim(folder, plan.runs[0]) as twice:
        assert mine and not twice
        one_worker(folder, plan, limit=2)
    assert [row["id"] for row in rows_of(folder)] == [plan.runs[1].id]
    with claim(folder, plan.runs[0]) as mine:
        assert mine


def test_limit_is_the_plans_beginning_and_no_run_begins_late(folder: Path) -> None:
    plan = load_plan(folder)
    one_worker(folder, plan, budget_s=1e-9)
    assert not (folder / "rows.jsonl").exists()
    one_worker(folder, plan, limit=1)
    one_worker(folder, plan, limit=1)
    assert [row["id"] for row in rows_of(folder)] == [plan.runs[0].id]
    assert [run.id for run in unfinished(plan, folder, 3)] == [run.id for run in plan.runs[1:3]]


def test_other_texts_than_the_plans_are_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (folder.parent / "train.txt").open("a") as file:
        file.write("More.\n")
    with pytest.raises(SystemExit) as caught:
        cli.main(["run", str(folder)])
    assert caught.value.code == 2
    assert "other texts than the plan was made with" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_there_is_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["run", str(folder), "--device", "cuda"])
    assert caught.value.code == 2 and "error: --device cuda: PyTorch finds no GPU" in capsys.readouterr().err


def test_a_run_is_a_pure_function_of_its_plan_and_a_family_sees_its_dense_partners_windows(folder: Path) -> None:
    plan = load_plan(folder)
    corpus = open_corpus(place_of(folder), plan)
    run = next(r for r in plan.runs if r.granularity == 2)
    torch.manual_seed(99)
    assert train_run(plan, run, corpus, "cpu").held_out == train_run(plan, run, corpus, "cpu").held_out
    other = train_run(plan, replace(run, seed=1), corpus, "cpu")
    assert other.held_out != train_run(plan, run, corpus, "cpu").held_out
    longer, shorter = corpus.windows(16, 200, 0), corpus.windows(16, 100, 0)
    assert all((longer[k]["input_ids"] == shorter[k]["input_ids"]).all() for k in range(100))


def test_branches_of_other_kinds_are_swept_too(folder: Path) -> None:
    grids = (Grid((BUDGET,), (SMALL,), (2,), branch="block"), Grid((BUDGET,), (SMALL,), (2,), branch="lowrank", rank=4))
    (folder / "design.json").write_text(dumps(design(*grids)))
    cli.main(["plan", str(folder)])
    one_worker(folder, load_plan(folder))
    rows = sorted(rows_of(folder), key=lambda row: row["parameters"])
    assert [(row["branch"], row.get("rank")) for row in rows] == [("norm", None), ("lowrank", 4), ("block", None)]
    assert all(len(row["exit_losses"]) == row["granularity"] for row in rows)


def test_a_rate_that_is_far_too_high_ends_as_a_diverged_row(folder: Path) -> None:
    (folder / "design.json").write_text(dumps(design(Grid((BUDGET,), (SMALL,), (1,)), rate=RateRule(1, 1e30, 0))))
    cli.main(["plan", str(folder)])
    one_worker(folder, load_plan(folder))
    (row,) = rows_of(folder)
    assert "loss" not in row and row["exit_losses"] == []


def test_a_run_that_diverges_in_its_last_step_has_no_losses_either(folder: Path) -> None:
    plan = load_plan(folder)
    run = replace(plan.runs[0], tokens=plan.design.recipe.step_tokens, lr=1e39)
    outcome = train_run(plan, run, open_corpus(place_of(folder), plan), "cpu")
    assert outcome.diverged and outcome.held_out == ()


def test_the_learning_rate_warms_up_and_ends_at_zero() -> None:
    shares = [lr_share(step, 100) for step in range(100)]
    assert shares[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0]) and max(shares) == 1
    assert shares[4:] == sorted(shares[4:], reverse=True) and 0 < shares[-1] < 1e-3


def test_held_out_losses_are_each_exits_cross_entropy() -> None:
    family = FamilyForCausalLM(family_config(small_shape(32, 4, 2, 257, norm_exits(1, 4)), 16))
    ids = torch.randint(0, 257, (16 * 70 + 5,))
    rows = ids[: 16 * 70].view(70, 16)
    found = held_out_losses(family, ids.numpy(), 16)
    with torch.no_grad():
        exits = family.forward_exits(rows)
    for g, row in exits.items():
        logits = family.head(row[:, :-1]).detach().flatten(0, 1)
        assert found[g - 1] == pytest.approx(float(functional.cross_entropy(logits, rows[:, 1:].flatten())), abs=1e-5)


def test_ray_does_the_same_runs_on_other_processes(folder: Path) -> None:
    pytest.importorskip("ray", reason="the extra `ray` is not installed")
    cli.main(["run", str(folder), "--ray", "local"])
    on_ray = results(folder)
    (folder / "rows.jsonl").unlink()
    one_worker(folder, load_plan(folder))
    assert on_ray == results(folder) and len(on_ray) == 6


def test_on_ray_nothing_begins_late_and_what_fails_is_told(folder: Path) -> None:
    pytest.importorskip("ray", reason="the extra `ray` is not installed")
    plan = load_plan(folder)
    do_runs_on_ray(place_of(folder), plan, Effort(1, 1, "cpu", budget_s=1e-9), "local")
    with pytest.raises(SweepError, match=r"2 of 2 runs failed, the first of them .* FLOPs, .*; finished rows are kept"):
        do_runs_on_ray(place_of(folder), plan, Effort(1, 1, "no such device", limit=2), "local")
    with pytest.raises(SweepError, match="--ray local: no machine there has 9999 CPUs for a run"):
        do_runs_on_ray(place_of(folder), plan, Effort(1, 9999, "cpu"), "local")
    assert not (folder / "rows.jsonl").exists()


def test_without_ray_the_extra_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SystemExit):
        cli.main(["run", str(folder), "--ray", "local"])
    assert "pip install 'familial[ray]'" in capsys.readouterr().err


def test_rate_and_plot_read_the_rows(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["rate", str(folder)])
    assert "needs at least two dense sizes" in capsys.readouterr().err
    one_worker(folder, load_plan(folder), limit=2)
    cli.main(["plot", str(folder)])
    assert "profiles.png" in capsys.readouterr().out


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from training.sweep.cli import main\n"
        "try: main(['run', '--help'])\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'transformers', 'numpy', 'matplotlib'} & set(sys.modules)"
    )
    assert (
        "--workers" in subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    )
