import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from family.strict import from_json
from tests.tiny import TEXT
from training.base import LoadedBase, hash_weights
from training.checkpoint import load_family, save_family
from training.data import Source
from training.distil import distil
from training.errors import CheckpointError, DataError
from training.model import FamilyModel
from training.report import Report, load_report
from training.run import Job, train
from training.state import STATE_NAME
from training.trainer import Recipe, Trainer

RECIPE = Recipe(tokens=6_000, batch=4, window=32, lr=3e-3, seed=3)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(TEXT * 3)
    return path


@pytest.fixture
def job(family: FamilyModel, text: Path, tmp_path: Path) -> Job:
    return Job(family.spec, RECIPE, (Source(text),), (text,), 600, tmp_path / "out", 2, "train-family ...")


def test_the_written_gradient_is_the_gradient_of_the_loss() -> None:
    generator = torch.Generator().manual_seed(0)
    head, teacher = torch.randn(50, 8, generator=generator), torch.randn(21, 8, generator=generator)
    students = {g: torch.randn(21, 8, generator=generator, requires_grad=True) for g in (1, 2)}
    found = distil(head, teacher, {g: rows.detach() for g, rows in students.items()})
    for g, rows in students.items():
        log_q, log_p = functional.log_softmax(rows @ head.T, -1), functional.log_softmax(teacher @ head.T, -1)
        loss = functional.kl_div(log_q, log_p, log_target=True, reduction="batchmean")
        loss.backward()
        assert found[g].kl == pytest.approx(loss.item(), rel=1e-5)
        torch.testing.assert_close(found[g].rows_grad, rows.grad)
        assert found[g].agreement == (log_q.argmax(-1) == log_p.argmax(-1)).double().mean().item()


def test_training_lowers_every_branchs_loss_and_leaves_the_trunk(job: Job, tiny: LoadedBase) -> None:
    report = train(job, tiny)
    for branch in (0, 1):
        before, after = (sum(point.kl[branch] for point in part) for part in (report.curve[:5], report.curve[-5:]))
        assert after < 0.7 * before
    assert hash_weights(tiny.model) == tiny.weights_sha256 == load_family(job.out, tiny).spec.base.weights_sha256
    assert report.tokens_seen == report.curve[-1].tokens == RECIPE.steps * 4 * 32
    assert sorted(p.name for p in job.out.iterdir()) == [
        "branch-1.safetensors",
        "branch-2.safetensors",
        "report.json",
        "spec.json",
    ]
    assert [score.exit for score in report.held_out[0].scores.exits] == [1, 2, 3]
    assert from_json(Report, json.loads((job.out / "report.json").read_text())) == report


def test_the_number_of_threads_does_not_change_the_result(family: FamilyModel, tiny: LoadedBase) -> None:
    data = np.random.default_rng(0).integers(0, 512, (12, 32))
    losses = []
    for threads in (1, 3):
        trainer = Trainer(FamilyModel(family.spec, tiny), replace(RECIPE, tokens=12 * 32), data, threads)
        losses.append([trainer.step() for _ in range(3)])
        trainer.close()
    assert losses[0] == losses[1]


def cli(tiny_base_dir: Path, text: Path, out: Path) -> list[str]:
    options = (
        f"--base {tiny_base_dir} --layers 2,4,6 --text {text} --eval {text} --eval-tokens 300 --out {out} --threads 1"
    )
    recipe = "--tokens 6000 --batch 4 --window 32 --lr 3e-3 --seed 3"
    return [
        sys.executable,
        "-c",
        "from training.cli import main; raise SystemExit(main())",
        *f"{options} {recipe}".split(),
    ]


def test_a_killed_run_goes_on_with_the_same_losses(tiny_base_dir: Path, text: Path, tmp_path: Path) -> None:
    outs = {name: tmp_path / name / "tiny" for name in ("whole", "killed")}
    subprocess.run(cli(tiny_base_dir, text, outs["whole"]), check=True, capture_output=True)
    with subprocess.Popen(cli(tiny_base_dir, text, outs["killed"]), stderr=subprocess.PIPE, text=True) as killed:
        assert killed.stderr is not None
        assert "/5888 tokens" in killed.stderr.readline()  # printed after the first checkpoint
        killed.kill()
    assert (outs["killed"] / STATE_NAME).exists()
    assert not (outs["killed"] / "report.json").exists()
    subprocess.run(cli(tiny_base_dir, text, outs["killed"]), check=True, capture_output=True)
    reports = [json.loads((out / "report.json").read_text()) for out in outs.values()]
    assert reports[0]["curve"] == reports[1]["curve"]
    assert reports[0]["held_out"] == reports[1]["held_out"]
    for g in (1, 2):
        name = f"branch-{g}.safetensors"
        assert (outs["whole"] / name).read_bytes() == (outs["killed"] / name).read_bytes()


def test_the_state_of_another_run_is_refused(job: Job, tiny: LoadedBase, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("training.run.save_family", stop)
    with pytest.raises(KeyboardInterrupt):
        train(job, tiny)
    with pytest.raises(CheckpointError, match="the state of another run"):
        train(replace(job, recipe=replace(RECIPE, lr=1e-3)), tiny)
    (job.out / STATE_NAME).write_bytes(b"broken")
    with pytest.raises(CheckpointError, match="not readable"):
        train(job, tiny)


def test_a_finished_family_is_not_trained_again_nor_overwritten(
    job: Job, tiny: LoadedBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = train(job, tiny)
    content = {path.name: path.read_bytes() for path in job.out.iterdir()}
    monkeypatch.setattr(Trainer, "step", None)
    assert train(replace(job, command="again", threads=1), tiny) == report
    others = (replace(job, recipe=replace(RECIPE, lr=1e-3)), replace(job, eval_tokens=300))
    for other in (*others, replace(job, held_out=(*job.held_out, *job.held_out))):
        with pytest.raises(CheckpointError, match=r"finished family of another run .* give another --out"):
            train(other, tiny)
    assert {path.name: path.read_bytes() for path in job.out.iterdir()} == content
    (job.out / "report.json").unlink()
    with pytest.raises(CheckpointError, match="finished family of another run"):
        train(job, tiny)
    (job.out / "report.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"report\.json: not readable \(.*missing\); give another --out"):
        train(job, tiny)


def test_a_run_that_ended_before_its_state_was_removed_is_finished(job: Job, tiny: LoadedBase) -> None:
    report = train(job, tiny)
    (job.out / STATE_NAME).touch()
    assert train(job, tiny) == report
    assert not (job.out / STATE_NAME).exists()


def test_a_report_of_before_runs_had_a_hash_is_readable(job: Job, tiny: LoadedBase) -> None:
    report = train(job, tiny)
    path = job.out / "report.json"
    data = json.loads(path.read_text())
    del data["run"]
    path.write_text(json.dumps(data))
    assert load_report(path) == replace(report, run=None)


def test_a_run_of_less_than_a_step_is_refused(job: Job, tiny: LoadedBase) -> None:
    with pytest.raises(DataError, match="less than one step of 4 x 32"):
        train(replace(job, recipe=replace(RECIPE, tokens=100)), tiny)


def test_held_out_text_is_checked_before_training(job: Job, tiny: LoadedBase, tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("short")
    with pytest.raises(DataError, match=r"short\.txt: \d tokens, fewer than one window of 32"):
        train(replace(job, held_out=(tmp_path / "short.txt",)), tiny)
    assert not job.out.exists()


def test_saving_a_family_does_not_change_it(family: FamilyModel, tmp_path: Path) -> None:
    before = {name: p.clone() for name, p in family.trainable()}
    save_family(family, tmp_path)
    assert all(torch.equal(before[name], p) for name, p in family.trainable())
