"""A whole training run: data, steps with progress and checkpoints, evaluation, family folder and report."""

import hashlib
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from family.errors import SpecError
from family.files import sha256_file, write_atomic
from family.spec import FamilySpec
from family.strict import canonical, dumps
from training.base import LoadedBase
from training.checkpoint import REPORT_NAME, branch_path, load_family, save_family
from training.data import Ids, Source, SourceUse, eval_ids, open_windows
from training.data.sources import fingerprint
from training.errors import CheckpointError, DataError
from training.evaluate import evaluate, family_logits
from training.fetch import cache_folder
from training.model import FamilyModel
from training.report import REPORT_VERSION, HeldOut, Report, library_versions, load_report
from training.state import STATE_NAME, CurvePoint, Progress, load_state, save_state
from training.trainer import LOSS_EVERY, Recipe, StepLoss, Trainer, mean_losses

REPORTS_PER_RUN = 50
"""Points of the loss curve, and checkpoints, in a run."""
LOSS = f"KL from the last exit over the full vocabulary, temperature 1, at every {LOSS_EVERY}nd position; trunk frozen"


@dataclass(frozen=True)
class Job:
    """One call of `train-family`."""

    spec: FamilySpec
    recipe: Recipe
    text: tuple[Source, ...]
    held_out: tuple[Path, ...]
    eval_tokens: int
    """Most tokens of each held-out file."""
    out: Path
    threads: int
    command: str


def train(job: Job, base: LoadedBase) -> Report:
    """Train, evaluate and write the family folder; goes on where a killed run of the same job left its state.

    A job that is done already is not done again: its report is returned.

    Raises:
        DataError: a file is missing, malformed or too short, or the recipe does not fit the family.
        SpecError: the family has no early exit.
        CheckpointError: `out` holds another family, or the state in it is damaged or of another run.
    """
    check_recipe(job)
    held_out = [(path, eval_ids(path, base.tokenizer, job.eval_tokens)) for path in job.held_out]
    for path, ids in held_out:
        if len(ids) <= job.recipe.window:
            raise DataError(f"{path}: {len(ids)} tokens, fewer than one window of {job.recipe.window} and its target")
    run = run_hash(job)
    state = job.out / STATE_NAME
    done = finished(job, run)
    if done is not None:
        state.unlink(missing_ok=True)
        return done
    data = open_windows(
        job.text,
        base.tokenizer,
        cache_folder() / "tokens",
        vocab_size=job.spec.vocab_size,
        window=job.recipe.window,
        length=job.recipe.steps * job.recipe.batch,
        seed=job.recipe.seed,
    )
    windows = np.stack([data[k]["input_ids"] for k in range(len(data))])
    uses = data.uses()
    progress = _train(job, FamilyModel(job.spec, base), windows, uses)
    torch.set_num_threads(job.threads)
    report = Report(
        schema_version=REPORT_VERSION,
        command=job.command,
        recipe=job.recipe,
        loss=LOSS,
        tokens_seen=progress.step * job.recipe.batch * job.recipe.window,
        seconds=round(progress.seconds, 1),
        train=tuple(uses),
        held_out=tuple(_score(load_family(job.out, base), path, ids, job.recipe.window) for path, ids in held_out),
        curve=progress.curve,
        libraries=library_versions(),
        run=run,
    )
    write_atomic(job.out / REPORT_NAME, dumps(report))
    state.unlink()
    return report


def check_recipe(job: Job) -> None:
    """Refuse what cannot be trained, before any text is read."""
    recipe, spec = job.recipe, job.spec
    if spec.granularity == 1:
        raise SpecError(
            f"family {spec.name}: its one exit is the base itself, so there is nothing to train; give an early exit "
            f"too, for example --layers {max(1, spec.n_layers // 2)},{spec.n_layers}"
        )
    if recipe.window > spec.context:
        raise DataError(f"--window {recipe.window}: more than the family's context of {spec.context} tokens")
    if not recipe.steps:
        raise DataError(f"--tokens {recipe.tokens}: less than one step of {recipe.batch} x {recipe.window} tokens")


def run_hash(job: Job) -> str:
    """Hash of everything that decides a job's family and report: the same wherever its files lie.

    Raises `DataError` for a text file that is not there.
    """
    for path in job.held_out:
        if not path.is_file():
            raise DataError(f"{path}: no such file")
    text = [{"file": s.name, "sha256": fingerprint(s), "weight": s.weight} for s in job.text]
    held_out = [{"file": path.name, "sha256": sha256_file(path)} for path in job.held_out]
    what = {"spec": job.spec, "recipe": job.recipe, "text": text, "held_out": held_out, "eval_tokens": job.eval_tokens}
    return hashlib.sha256(canonical(what)).hexdigest()


def finished(job: Job, run: str) -> Report | None:
    """The report of this very run, if `out` has it. Raises `CheckpointError` if it has another's finished family."""
    report = load_report(job.out / REPORT_NAME)
    if report is not None and report.run == run:
        print(f"{job.out}: this run is finished; its report follows", file=sys.stderr)  # noqa: T201
        return report
    files = [branch_path(job.out, g) for g in range(1, job.spec.granularity)]
    if report is not None or (any(path.exists() for path in files) and not (job.out / STATE_NAME).exists()):
        raise CheckpointError(
            f"{job.out}: holds a finished family of another run (other text, recipe, base, exits or held-out text); "
            "give another --out, or delete that folder to train anew"
        )
    return None


def _train(job: Job, model: FamilyModel, windows: Ids, uses: Sequence[SourceUse]) -> Progress:
    """All steps that are left, and the family folder without its report."""
    trainer = Trainer(model, job.recipe, windows, job.threads)
    identity = hashlib.sha256(canonical({"spec": job.spec, "recipe": job.recipe, "text": list(uses)})).hexdigest()
    path = job.out / STATE_NAME
    progress = load_state(path, trainer, identity) if path.exists() else Progress(identity, 0, 0.0, ())
    step_tokens = job.recipe.batch * job.recipe.window
    every = max(1, job.recipe.steps // REPORTS_PER_RUN)
    recent: list[dict[int, StepLoss]] = []
    last = time.monotonic()
    total = job.recipe.steps * step_tokens
    try:
        with tqdm(total=total, initial=progress.step * step_tokens, unit="tok", unit_scale=True, disable=None) as bar:
            while trainer.step_index < job.recipe.steps:
                recent.append(trainer.step())
                bar.update(step_tokens)
                if trainer.step_index % every and trainer.step_index < job.recipe.steps:
                    continue
                mean, recent = mean_losses(recent), []
                now = time.monotonic()
                progress = _advance(progress, trainer.step_index, step_tokens, mean, now - last)
                last = now
                save_state(path, trainer, progress)
                bar.set_postfix_str(_losses(mean))
                if bar.disable:
                    done, rate = progress.curve[-1].tokens, progress.curve[-1].tokens / progress.seconds
                    print(f"{done}/{total} tokens, {rate:.0f}/s, {_losses(mean)}", file=sys.stderr, flush=True)  # noqa: T201
    finally:
        trainer.close()
    save_family(model, job.out)
    return progress


def _advance(progress: Progress, step: int, step_tokens: int, mean: dict[int, StepLoss], seconds: float) -> Progress:
    point = CurvePoint(
        tokens=step * step_tokens,
        kl=tuple(round(mean[g].kl, 4) for g in sorted(mean)),
        agreement=tuple(round(mean[g].agreement, 4) for g in sorted(mean)),
    )
    return Progress(progress.run, step, progress.seconds + seconds, (*progress.curve, point))


def _losses(mean: dict[int, StepLoss]) -> str:
    return ", ".join(f"exit {g}: kl {loss.kl:.3f} agree {loss.agreement:.1%}" for g, loss in mean.items())


def _score(model: FamilyModel, path: Path, ids: Ids, window: int) -> HeldOut:
    with tqdm(total=len(ids), unit="tok", unit_scale=True, desc=f"scoring {path.name}", disable=None) as bar:
        scores = evaluate(family_logits(model), ids, window, window, progress=bar.update)
    return HeldOut(path.name, sha256_file(path), scores)
