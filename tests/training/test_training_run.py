import json
import math
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from family.files import sha256_file
from family.spec import SPEC_NAME, load_spec
from family.strict import from_json
from tests.tiny import TEXT
from tests.training.disk import room
from training.base import LoadedBase, hash_weights, load_base
from training.checkpoint import LORA_NAME, load_trained, open_family, save_family, save_trained
from training.cli import main
from training.data import Source
from training.errors import CheckpointError, DataError, RecipeError, TrainingError
from training.loaded import LoadedFamily
from training.recipe import OBJECTIVES, Recipe, WeightPoint
from training.report import CurvePoint, Report, load_report
from training.run import Job, intervals, new_family, train
from training.state import NOTE_NAME, STATE_NAME, mark_whole
from training.trainer import FamilyTrainer

RECIPE = Recipe(tokens=2_000, batch=4, window=32, lr=3e-3, seed=3)
IDS = torch.tensor([[5, 99, 300, 42]])


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAMILIAL_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(TEXT * 3)
    return path


@pytest.fixture
def job(family: LoadedFamily, text: Path, tmp_path: Path) -> Job:
    return Job(
        family.spec, RECIPE, (Source(str(text)),), (text,), 600, None, tmp_path / "out", "train-family ...", threads=1
    )


def done(job: Job, base: LoadedBase) -> Report:
    report = train(job, base)
    assert report is not None
    return report


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix == ".safetensors"}


def test_training_lowers_every_branchs_loss_and_leaves_the_trunk(job: Job, tiny: LoadedBase) -> None:
    report = done(replace(job, recipe=replace(RECIPE, tokens=6000)), tiny)
    for branch in (0, 1):
        before, after = (sum(p.loss[branch] for p in part) for part in (report.curve[:5], report.curve[-5:]))
        assert after < 0.7 * before
    assert hash_weights(tiny.model) == tiny.weights_sha256 == load_spec(job.out / SPEC_NAME).base.weights_sha256
    assert report.tokens_seen == report.curve[-1].tokens == 46 * 4 * 32
    assert report.curve[-1].loss[2] == 0 and report.curve[-1].agreement[1] > report.curve[-1].agreement[0] > 0
    assert sorted(p.name for p in job.out.iterdir()) == [
        "branch-1.safetensors",
        "branch-2.safetensors",
        "report.json",
        "spec.json",
    ]
    assert [score.exit for score in report.held_out[0].scores.exits] == [1, 2, 3]
    assert report.start == job.spec.base and report.train[0].tokens == report.tokens_seen
    assert report.train[0].unique_tokens < report.tokens_seen and report.train[0].passes > 1
    assert from_json(Report, json.loads((job.out / "report.json").read_text())) == report


def test_deltas_of_the_trunk_are_a_small_file_and_merged_when_read(job: Job, tiny: LoadedBase) -> None:
    recipe = replace(RECIPE, trunk="lora", lora_rank=4, objective="ce+kl")
    report = done(replace(job, recipe=recipe), tiny)
    assert report.curve[-1].loss[2] < report.curve[0].loss[2]  # the last exit learns too
    assert (job.out / LORA_NAME).stat().st_size < 80_000
    assert hash_weights(tiny.model) == tiny.weights_sha256 == load_spec(job.out / SPEC_NAME).base.weights_sha256
    family, view = load_trained(job.out, tiny), open_family(job.out, str(tiny.model.name_or_path))
    last = family.submodel(3)
    assert view.base.weights_sha256 == hash_weights(last) != tiny.weights_sha256
    with torch.no_grad():
        for g, rows in family.forward_exits(IDS).items():
            assert torch.equal(view.model.forward_exits(IDS)[g], rows)
            assert torch.equal(view.submodel(g)(IDS).logits, family.head(rows))


def test_a_trunk_that_is_trained_is_written_with_its_exits_and_needs_no_base(
    job: Job, tiny_base_dir: Path, tmp_path: Path
) -> None:
    base = load_base(str(tiny_base_dir))  # which training changes
    report = done(replace(job, recipe=replace(RECIPE, trunk="full", objective="ce")), base)
    assert report.curve[-1].loss[2] < report.curve[0].loss[2]
    view, spec = open_family(job.out), load_spec(job.out / SPEC_NAME)
    assert (spec.base.id, spec.base.weights_sha256) == (spec.name, hash_weights(view.base.model))
    assert view.base.tokenizer.get_vocab() == base.tokenizer.get_vocab()
    assert view.base.model.model is view.model.model and view.base.model.lm_head is view.model.lm_head
    trained = load_trained(job.out, None)
    with torch.no_grad():
        assert torch.equal(view.model.forward_exits(IDS)[1], trained.forward_exits(IDS)[1])
        assert not torch.equal(trained.model.layers[0].mlp.up_proj.weight, tiny_up_proj(tiny_base_dir))
    again = done(replace(job, recipe=replace(RECIPE, trunk="full", objective="ce")), load_base(str(tiny_base_dir)))
    assert again == report
    with pytest.raises(CheckpointError, match="finished family of another run"):
        train(job, load_base(str(tiny_base_dir)))


def tiny_up_proj(folder: Path) -> torch.Tensor:
    weight: torch.Tensor = load_base(str(folder)).model.model.layers[0].mlp.up_proj.weight
    return weight


def test_what_is_not_trained_has_no_gradient_and_no_place_in_a_checkpoint(job: Job, tiny: LoadedBase) -> None:
    frozen = new_family(job.spec, replace(RECIPE, bf16=True), tiny)
    assert {name.split(".")[0] for name, p in frozen.named_parameters() if p.requires_grad} == {"branches"}
    assert frozen.model.layers[0].mlp.up_proj.weight.dtype == torch.bfloat16
    assert {p.dtype for p in frozen.branches.parameters()} == {torch.float32}
    deltas = new_family(job.spec, replace(RECIPE, trunk="lora", lora_rank=2), tiny)
    trained = [name for name, p in deltas.named_parameters() if p.requires_grad]
    assert all(name.startswith("branches.") or ".lora_" in name for name in trained) and ".lora_" in str(trained)
    assert tiny.model.model.layers[0].mlp.up_proj.weight.dtype == torch.float32


def command(tiny_base_dir: Path, text: Path, out: Path) -> list[str]:
    options = (
        f"--base {tiny_base_dir} --layers 2,4,6 --text {text} --eval {text} --eval-tokens 300 --out {out} --threads 1"
    )
    recipe = "--tokens 6000 --batch 4 --window 32 --lr 3e-3 --seed 3 --no-bf16 --save-every 2"
    return [sys.executable, "-m", "training.cli", *f"{options} {recipe}".split()]


def test_a_killed_run_goes_on_with_the_same_losses(tiny_base_dir: Path, text: Path, tmp_path: Path) -> None:
    outs = {name: tmp_path / name / "tiny" for name in ("whole", "killed")}
    with subprocess.Popen(command(tiny_base_dir, text, outs["killed"]), stderr=subprocess.PIPE, text=True) as killed:
        assert killed.stderr is not None
        while "agree" not in killed.stderr.readline():
            pass
        for _ in range(4):  # lines are printed before the checkpoint of the same step
            assert "/5888 tokens" in killed.stderr.readline()
        killed.kill()
    assert list((outs["killed"] / STATE_NAME).glob(f"*/{NOTE_NAME}"))
    assert not (outs["killed"] / "report.json").exists()
    for out in outs.values():
        main(command(tiny_base_dir, text, out)[3:])
    reports = [json.loads((out / "report.json").read_text()) for out in outs.values()]
    assert len(reports[0]["curve"]) == 46
    assert reports[0]["curve"] == reports[1]["curve"]
    assert reports[0]["held_out"] == reports[1]["held_out"]
    assert files(outs["whole"]) == files(outs["killed"])


def test_a_run_goes_on_with_the_branches_of_another_family(tiny: LoadedBase, job: Job) -> None:
    first = done(job, tiny)
    on = replace(job, start=job.out, out=job.out.with_name("on"), recipe=replace(RECIPE, lr=1e-9, seed=1))
    second = done(on, tiny)
    for before, after in zip(first.held_out[0].scores.exits, second.held_out[0].scores.exits, strict=True):
        assert after.cross_entropy == pytest.approx(before.cross_entropy, abs=1e-3)
    assert second.branches == tuple(sha256_file(job.out / f"branch-{g}.safetensors") for g in (1, 2))
    assert first.branches == () and first.run != second.run


def test_a_family_whose_trunk_was_trained_is_not_gone_on_with(tiny: LoadedBase, job: Job) -> None:
    done(replace(job, recipe=replace(RECIPE, tokens=512, trunk="lora", lora_rank=2, objective="ce+kl")), tiny)
    with pytest.raises(CheckpointError, match="its trunk was trained too"):
        train(replace(job, start=job.out, out=job.out.with_name("on")), tiny)


def test_kept_rows_change_nothing_even_where_a_run_was_stopped(
    tiny: LoadedBase, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run of two passes, stopped in the second, in which the trunk does not run."""
    again = replace(job, recipe=replace(RECIPE, passes=2), save_every=9)
    kept = done(again, tiny)
    assert not (job.out / STATE_NAME).exists()
    other = replace(again, out=job.out.with_name("stopped"))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stopped_after_a_checkpoint(patch, interrupt)
        train(other, tiny)
    assert close(done(other, tiny).curve, kept.curve)
    monkeypatch.setattr("training.keptrows.KeptRows.states", lambda _, family, ids: family.states(ids))
    assert close(done(replace(again, out=job.out.with_name("without")), tiny).curve, kept.curve)


FSDP = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_TRANSFORMER_CLS_TO_WRAP": "LlamaDecoderLayer",
    "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT",
}
"""What `accelerate launch --use_fsdp` puts into the environment."""


@pytest.mark.parametrize(
    ("trunk", "passes", "settings"), [("frozen", 2, {}), ("full", 1, FSDP)], ids=["DDP, kept rows", "FSDP"]
)
def test_two_processes_give_the_losses_of_one(
    trunk: str, passes: int, settings: dict[str, str], tiny_base_dir: Path, text: Path, job: Job
) -> None:
    """Within 2e-4 nats of about 3: only the order in which gradients are added up differs."""
    python, *two = command(tiny_base_dir, text, job.out.with_name("two"))
    torchrun = [python, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", **settings}
    recipe = ["--trunk", trunk, "--passes", str(passes)]
    subprocess.run([*torchrun, *two, *recipe], check=True, capture_output=True, env=environment, timeout=300)
    shared = load_report(job.out.with_name("two") / "report.json")
    other = replace(RECIPE, tokens=6000, trunk=trunk, objective=OBJECTIVES[trunk], passes=passes)
    same = replace(job, recipe=other, save_every=2)
    alone = done(same, load_base(str(tiny_base_dir)))
    parts = done(replace(same, accumulate=2, out=job.out.with_name("parts")), load_base(str(tiny_base_dir)))
    assert shared is not None and close(shared.curve, alone.curve) and close(parts.curve, alone.curve)


def close(found: tuple[CurvePoint, ...], expected: tuple[CurvePoint, ...]) -> bool:
    pairs = zip(found, expected, strict=True)
    return all(a == pytest.approx(b, abs=2e-4) for p, q in pairs for a, b in zip(p.loss, q.loss, strict=True))


def stopped_after_a_checkpoint(monkeypatch: pytest.MonkeyPatch, action: Callable[[], None]) -> None:
    """Do something after the first whole checkpoint."""

    def mark(folder: Path, step: int, run: str) -> None:
        mark_whole(folder, step, run)
        action()

    monkeypatch.setattr("training.trainer.mark_whole", mark)


def interrupt() -> None:
    raise KeyboardInterrupt


def test_the_state_of_another_run_is_refused(job: Job, tiny: LoadedBase, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stopped_after_a_checkpoint(patch, interrupt)
        train(job, tiny)
    with pytest.raises(CheckpointError, match="the state of another run"):
        train(replace(job, recipe=replace(RECIPE, lr=1e-3)), tiny)
    (note,) = (job.out / STATE_NAME).glob(f"*/{NOTE_NAME}")
    note.write_text("{}")
    with pytest.raises(CheckpointError, match=r"run\.json: not readable .* delete .* to start anew"):
        train(job, tiny)


def test_a_checkpoint_that_is_not_whole_is_as_if_it_were_not_there(
    job: Job, tiny: LoadedBase, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = done(replace(job, out=job.out.with_name("whole")), tiny)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stopped_after_a_checkpoint(patch, interrupt)
        train(job, tiny)
    (kept,) = (job.out / STATE_NAME).iterdir()
    torn = kept.with_name("checkpoint-9")
    shutil.copytree(kept, torn)
    (torn / NOTE_NAME).unlink()
    (torn / "model.safetensors").write_bytes(b"half")
    assert "goes on" not in capsys.readouterr().err
    assert done(job, tiny).curve == whole.curve
    assert "out: goes on from its checkpoint-1 of 15 steps\n" in capsys.readouterr().err


def test_a_damaged_checkpoint_is_refused_and_named(job: Job, tiny: LoadedBase, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stopped_after_a_checkpoint(patch, interrupt)
        train(job, tiny)
    (kept,) = (job.out / STATE_NAME).iterdir()
    for name in ("optimizer.pt", "model.safetensors", "trainer_state.json"):
        whole = (kept / name).read_bytes()
        (kept / name).write_bytes(whole[:100])
        with pytest.raises(CheckpointError, match=rf"{name}: not as it was written; delete .* to start anew"):
            train(job, tiny)
        (kept / name).unlink()
        with pytest.raises(CheckpointError, match=rf"{name}: not as it was written; delete .* to start anew"):
            train(job, tiny)
        (kept / name).write_bytes(whole)
    assert done(job, tiny).curve[-1].tokens == RECIPE.steps * 4 * 32


def test_a_full_disk_while_saving_is_told_and_the_last_checkpoint_is_whole(
    job: Job, tiny: LoadedBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = done(replace(job, out=job.out.with_name("whole")), tiny)
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))

    with monkeypatch.context() as patch, room(resource.RLIM_INFINITY):  # which gives the room back
        stopped_after_a_checkpoint(patch, fill)
        with pytest.raises(CheckpointError, match=r"step 2 cannot be saved \(.+; \d+\.\d MB were left\); make room"):
            train(job, tiny)
    (kept,) = (job.out / STATE_NAME).iterdir()
    assert (kept.name, (kept / NOTE_NAME).exists()) == ("checkpoint-1", True)
    assert done(job, tiny).curve == whole.curve
    assert files(job.out) == files(job.out.with_name("whole"))


def test_a_full_disk_while_writing_the_family_is_told(
    job: Job, tiny: LoadedBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crowded(*arguments: Any) -> None:
        with room(1000):
            save_trained(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr("training.run.save_trained", crowded)
        with pytest.raises(CheckpointError, match=r"cannot be written \(File too large\); make room"):
            train(job, tiny)
    assert done(job, tiny).curve[-1].tokens == RECIPE.steps * 4 * 32


def test_a_finished_family_is_not_trained_again_nor_overwritten(
    job: Job, tiny: LoadedBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = done(job, tiny)
    content = {path.name: path.read_bytes() for path in job.out.iterdir()}
    monkeypatch.setattr(FamilyTrainer, "train", None)
    assert train(replace(job, command="again", threads=2, accumulate=2), tiny) == report
    others = (replace(job, recipe=replace(RECIPE, lr=1e-3)), replace(job, eval_tokens=300))
    for other in (*others, replace(job, held_out=(*job.held_out, *job.held_out))):
        with pytest.raises(CheckpointError, match=r"finished family of another run .* give another --out"):
            train(other, tiny)
    assert {path.name: path.read_bytes() for path in job.out.iterdir()} == content
    (job.out / STATE_NAME).mkdir()  # ended before its state was removed
    assert train(job, tiny) == report
    assert not (job.out / STATE_NAME).exists()
    (job.out / "report.json").unlink()
    with pytest.raises(CheckpointError, match="finished family of another run"):
        train(job, tiny)
    (job.out / "report.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"report\.json: not readable \(.*missing\); give another --out"):
        train(job, tiny)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"tokens": 100}, "--tokens 100: less than one step of 4 x 32"),
        ({"window": 1}, "--window 1: a window's last token has nothing to predict"),
        ({"window": 257}, "--window 257: more than the family's context of 256"),
        ({"trunk": "lora"}, "--lora-rank: goes with --trunk lora"),
        ({"lora_rank": 8}, "--lora-rank: goes with --trunk lora"),
        ({"weights": (WeightPoint(0, (1, 2)),)}, "objective: weights: expected one per exit, 3; got 2"),
        ({"weights": (WeightPoint(0, (1, 1, 1)), WeightPoint(0, (1, 1, 1)))}, "objective: schedule: shares must rise"),
        ({"temperature": 0.0}, "objective: temperature"),
    ],
)
def test_a_recipe_that_does_not_fit_is_refused(
    job: Job, tiny: LoadedBase, changes: dict[str, object], problem: str
) -> None:
    with pytest.raises(RecipeError, match=problem):
        train(replace(job, recipe=replace(RECIPE, **changes)), tiny)  # type: ignore[arg-type]


def test_a_batch_that_cannot_be_shared_is_refused(job: Job, tiny: LoadedBase, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RecipeError, match="--batch 4: cannot be shared equally by 2 processes x --accumulate 4"):
        train(replace(job, accumulate=4), tiny)


def test_held_out_text_is_checked_before_training(job: Job, tiny: LoadedBase, tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("short")
    with pytest.raises(DataError, match=r"short\.txt: \d tokens, fewer than one window of 32"):
        train(replace(job, held_out=(tmp_path / "short.txt",)), tiny)
    with pytest.raises(DataError, match=r"text\.txt: its token id \d+ is outside the model's vocabulary of 100"):
        train(replace(job, spec=replace(job.spec, vocab_size=100)), tiny)
    assert not job.out.exists()


def test_a_document_over_the_context_is_told_of_and_trained_on(
    job: Job, tiny: LoadedBase, capsys: pytest.CaptureFixture[str]
) -> None:
    done(replace(job, spec=replace(job.spec, context=64)), tiny)
    assert "more than the context of 64; it is cut into windows" in capsys.readouterr().err


def test_losses_that_are_no_numbers_end_the_run(job: Job, tiny: LoadedBase) -> None:
    with pytest.raises(TrainingError, match=r"the loss is nan after \d+ steps; lower --lr"):
        train(replace(job, recipe=replace(RECIPE, lr=1e30)), tiny)


def test_weights_that_the_last_step_ruins_are_no_finished_family(
    job: Job, tiny: LoadedBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    two = replace(job, recipe=replace(RECIPE, tokens=256, lr=1e39))  # the first step of a warm-up moves nothing
    with pytest.raises(TrainingError, match=r"the loss of exit 1 on text\.txt is \w+ after 2 steps; lower --lr"):
        train(two, tiny)
    assert not (job.out / "report.json").exists()
    step = FamilyTrainer.training_step

    def ruined(self: FamilyTrainer, *arguments: object) -> torch.Tensor:
        loss: torch.Tensor = step(self, *arguments)  # type: ignore[arg-type]
        next(self.family.branches.parameters()).grad.fill_(torch.nan)
        return loss

    monkeypatch.setattr(FamilyTrainer, "training_step", ruined)
    with pytest.raises(TrainingError, match=r"the gradient's norm is nan after 1 steps; lower --lr"):
        train(replace(two, out=job.out.with_name("ruined")), tiny)
    assert not list((job.out.with_name("ruined") / STATE_NAME).glob("checkpoint-*"))


@pytest.mark.parametrize("schedule", ["cosine", "wsd"])
def test_the_learning_rate_rises_and_falls(
    schedule: str, job: Job, tiny: LoadedBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates: list[float] = []
    log = FamilyTrainer.log

    def note(self: FamilyTrainer, logs: dict[str, float], start_time: float | None = None) -> None:
        rates.extend([logs["learning_rate"]] if "learning_rate" in logs else [])
        log(self, logs, start_time)

    monkeypatch.setattr(FamilyTrainer, "log", note)
    done(replace(job, recipe=replace(RECIPE, tokens=2560, warmup=0.2, schedule=schedule)), tiny)
    assert len(rates) == 20 and rates[0] < rates[1] < rates[2] < rates[4] == pytest.approx(3e-3)
    if schedule == "wsd":
        assert rates[4:16] == pytest.approx([3e-3] * 12) and rates[16:] == sorted(rates[16:], reverse=True)
    else:
        middle = 3e-3 * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi / 2)))
        assert rates[4:] == sorted(rates[4:], reverse=True) and rates[12] == pytest.approx(middle)
    assert rates[-1] < 0.3 * 3e-3


def test_the_weights_of_the_exits_follow_their_schedule(
    job: Job, tiny: LoadedBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = (WeightPoint(0.0, (0.0, 1.0, 0.0)), WeightPoint(0.5, (0.0, 1.0, 0.0)), WeightPoint(0.6, (1.0, 0.0, 0.0)))
    seen: dict[int, bool] = {}
    step = FamilyTrainer.training_step

    def watch(self: FamilyTrainer, *arguments: object) -> torch.Tensor:
        loss: torch.Tensor = step(self, *arguments)  # type: ignore[arg-type]
        grads = [p.grad for p in self.family.branches["1"].parameters()]
        seen[self.state.global_step] = any(grad is not None and bool(grad.any()) for grad in grads)
        return loss

    monkeypatch.setattr(FamilyTrainer, "training_step", watch)
    done(replace(job, recipe=replace(RECIPE, tokens=1280, weights=points)), tiny)
    assert [step for step, learns in seen.items() if learns] == [6, 7, 8, 9]


def test_tensorboard_gets_every_exits_losses(job: Job, tiny: LoadedBase, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    report = done(replace(job, log_dir=tmp_path / "logs"), tiny)
    events = EventAccumulator(str(tmp_path / "logs"))
    events.Reload()
    losses = [event.value for event in events.Scalars("train/loss_exit_2")]
    assert losses == pytest.approx([point.loss[1] for point in report.curve], abs=1e-4)
    assert {"train/agreement_exit_1", "train/learning_rate", "train/grad_norm"} <= set(events.Tags()["scalars"])


@pytest.mark.parametrize("steps", [1, 19, 53, 1000, 1060, 2929, 100_003])
def test_a_curve_has_some_fifty_points_and_a_run_some_twenty_checkpoints_that_end_at_points(steps: int) -> None:
    log_every, save_every = intervals(steps, None)
    assert save_every % log_every == 0
    assert min(steps, 50) <= steps // log_every < 100 and min(steps, 13) <= steps // save_every <= 25
    assert intervals(steps, 30)[1] == 30 and 30 % intervals(steps, 30)[0] == 0


def test_only_the_last_whole_checkpoint_is_kept(job: Job, tiny: LoadedBase, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[list[str]] = []

    def look() -> None:
        found.append([path.name for path in (job.out / STATE_NAME).iterdir()])

    stopped_after_a_checkpoint(monkeypatch, look)
    done(replace(job, save_every=5), tiny)
    assert found == [["checkpoint-5"], ["checkpoint-10"], ["checkpoint-15"]]


def test_saving_a_family_does_not_change_it(family: LoadedFamily, tmp_path: Path) -> None:
    before = {name: p.clone() for name, p in family.model.named_parameters()}
    save_family(family, tmp_path)
    assert all(torch.equal(before[name], p) for name, p in family.model.named_parameters())
