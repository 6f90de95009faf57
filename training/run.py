"""A whole training run: data, training with checkpoints, evaluation, family folder and report."""

import copy
import gc
import hashlib
import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import PartialState
from torch import Tensor, nn
from tqdm import tqdm

from family.errors import SpecError
from family.files import sha256_file, write_atomic
from family.spec import FamilySpec
from family.strict import FieldError, canonical, dumps
from training.base import LoadedBase
from training.branches import factorise
from training.checkpoint import (
    LORA_NAME,
    REPORT_NAME,
    branch_path,
    is_whole,
    load_trained,
    rewrite_branches,
    save_trained,
)
from training.config import FamilyConfig
from training.data import Ids, Source, Windows, held_out_ids, open_windows
from training.data.sources import fingerprint
from training.errors import CheckpointError, DataError, RecipeError
from training.evaluate import evaluate, family_logits
from training.fetch import cache_folder
from training.keptrows import KeptRows
from training.modeling import FamilyForCausalLM
from training.progress import ProgressLines
from training.recipe import Recipe
from training.report import REPORT_VERSION, CurvePoint, HeldOut, Report, library_versions, load_report
from training.state import STATE_NAME, last_checkpoint
from training.trainer import FamilyTrainer, check_finite, curve, seconds_spent, training_arguments

POINTS_PER_RUN = 50
"""Points of the loss curve in a run."""
CHECKPOINTS_PER_RUN = 20
CALIBRATION_TOKENS = 1 << 14
"""Of the training text, on which low-rank branches are factorised: ten times the widest input of the default base."""


@dataclass(frozen=True)
class Job:
    """One call of `train-family`. Only what stands above `out` decides the result."""

    spec: FamilySpec
    recipe: Recipe
    text: tuple[Source, ...]
    held_out: tuple[Path, ...]
    eval_tokens: int
    """Most tokens of each held-out file."""
    start: Path | None
    """Folder of a family whose branches training begins with; None for those of `FamilyForCausalLM.from_base`."""
    out: Path
    command: str
    accumulate: int = 1
    """Forwards per optimizer step, each on that part of the batch."""
    save_every: int | None = None
    """Steps between checkpoints; None for `CHECKPOINTS_PER_RUN` of them."""
    threads: int | None = None
    """CPU threads of a process; None for an equal share of all."""
    log_dir: Path | None = None
    """Where TensorBoard's files go."""


@dataclass(frozen=True)
class _Fitted:
    """What is left of a run when its trainer is gone."""

    config: FamilyConfig
    weights: Mapping[str, Tensor]
    """The family's state dict, in the first process."""
    curve: tuple[CurvePoint, ...]
    seconds: float
    device: torch.device


def train(job: Job, base: LoadedBase) -> Report | None:
    """Train, evaluate and write the family folder; goes on where a killed run of the same job left its state.

    A job that is done already is not done again: its report is returned. Started by torchrun or accelerate, every
    process calls this, and all but the first return None.

    Raises:
        DataError: a text is missing, malformed or too short.
        RecipeError: the recipe does not fit the family.
        SpecError: nothing of the family is to be trained.
        CheckpointError: `out` holds another family, the state in it is damaged or of another run, or it is full.
    """
    check_recipe(job)
    limits = job.eval_tokens, job.recipe.window, job.spec.vocab_size
    held_out = [(path, held_out_ids(path, base.tokenizer, *limits)) for path in job.held_out]
    run = run_hash(job)
    state = job.out / STATE_NAME
    done = finished(job, run)
    if done is not None:
        shutil.rmtree(state, ignore_errors=True)
        return done if _is_first() else None
    torch.set_num_threads(job.threads or max(1, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", 1))))
    windows = _windows(job, base)
    fitted = _fit(job, base, windows, run)
    gc.collect()  # nothing may hold the processes' group, or the end of the last that does can block
    PartialState().destroy_process_group()
    if not _is_first():
        return None
    try:
        save_trained(fitted.config, fitted.weights, job.spec, job.recipe.trunk, base.tokenizer, job.out)
        trained = _in_order(job, base, windows)
        report = Report(
            schema_version=REPORT_VERSION,
            command=job.command,
            start=job.spec.base,
            branches=began_with(job.start, job.spec) if job.start else (),
            recipe=job.recipe,
            tokens_seen=fitted.curve[-1].tokens,
            seconds=round(fitted.seconds, 1),
            train=tuple(windows.uses()),
            held_out=_scores(trained, held_out, job.recipe, fitted.device),
            curve=fitted.curve,
            libraries=library_versions(),
            run=run,
        )
        write_atomic(job.out / REPORT_NAME, dumps(report))
    except OSError as error:
        raise CheckpointError(
            f"{job.out}: cannot be written ({error.strerror or error}); make room and give the same command again: "
            "the last checkpoint has the trained weights"
        ) from error
    shutil.rmtree(state)
    return report


def _fit(job: Job, base: LoadedBase, windows: Windows, run: str) -> _Fitted:
    """All steps that are left."""
    family = new_family(job.spec, job.recipe, base, calibration(windows))
    if job.start:
        family.branches.load_state_dict(load_trained(job.start, base).branches.state_dict())
    if job.recipe.passes > 1 and job.recipe.trunk == "frozen":
        family.kept_rows = KeptRows(job.out / STATE_NAME / "rows", run, len(windows) // job.recipe.passes)
    trainer = new_trainer(job, family, windows, run)
    last = last_checkpoint(job.out / STATE_NAME, run)
    if last:
        _tell(f"{job.out}: goes on from its {last.name} of {job.recipe.steps} steps")
    trainer.train(resume_from_checkpoint=str(last) if last else None)
    weights = trainer.accelerator.get_state_dict(trainer.model)
    trainer.accelerator.wait_for_everyone()
    trainer.accelerator.free_memory()
    if family.kept_rows:
        family.kept_rows.close()
    state = trainer.state
    return _Fitted(
        family.config, weights, curve(state, job.spec.granularity), seconds_spent(state), trainer.args.device
    )


def check_recipe(job: Job) -> None:
    """Refuse what cannot be trained, before any text is read."""
    recipe, spec = job.recipe, job.spec
    if spec.granularity == 1 and recipe.trunk == "frozen":
        raise SpecError(
            f"family {spec.name}: its one exit is the base itself, so there is nothing to train; give an early exit "
            f"too, for example --layers {max(1, spec.n_layers // 2)},{spec.n_layers}, or train the trunk"
        )
    if recipe.window < 2:
        raise RecipeError(f"--window {recipe.window}: a window's last token has nothing to predict; expected 2 or more")
    if recipe.window > spec.context:
        raise RecipeError(f"--window {recipe.window}: more than the family's context of {spec.context} tokens")
    if not recipe.steps:
        raise RecipeError(
            f"--tokens {recipe.tokens}: less than one step of {recipe.batch} x {recipe.window} tokens in each pass"
        )
    if (recipe.lora_rank is not None) != (recipe.trunk == "lora"):
        raise RecipeError("--lora-rank: goes with --trunk lora, and --trunk lora needs it")
    if recipe.batch % (job.accumulate * _processes()):
        raise RecipeError(
            f"--batch {recipe.batch}: cannot be shared equally by {_processes()} processes x --accumulate "
            f"{job.accumulate}"
        )
    try:
        loss = recipe.loss()
        for point in recipe.weights:
            loss.weights_at(point.share, spec.granularity)
    except FieldError as error:
        raise RecipeError(f"objective: {error}") from None


def run_hash(job: Job) -> str:
    """Hash of everything that decides a job's family and report: the same wherever its files lie.

    Raises `DataError` for a text that is not there.
    """
    for path in job.held_out:
        if not path.is_file():
            raise DataError(f"{path}: no such file")
    text = [{"file": s.name, "sha256": fingerprint(s), "weight": s.weight} for s in job.text]
    held_out = [{"file": path.name, "sha256": sha256_file(path)} for path in job.held_out]
    what = {"spec": job.spec, "recipe": job.recipe, "text": text, "held_out": held_out, "eval_tokens": job.eval_tokens}
    if job.start:
        what |= {"start": began_with(job.start, job.spec)}
    return hashlib.sha256(canonical(what)).hexdigest()


def began_with(start: Path, spec: FamilySpec) -> tuple[str, ...]:
    """SHA-256 of a family folder's branches, by exit. Raises `CheckpointError` if it cannot be gone on with."""
    paths = [branch_path(start, g) for g in range(1, spec.granularity)]
    if is_whole(start) or (start / LORA_NAME).exists():
        raise CheckpointError(f"--from {start}: its trunk was trained too, and only branches can be gone on with")
    for path in paths:
        if not path.is_file():
            raise CheckpointError(f"--from {start}: {path.name} is missing; give a family that train-family finished")
    return tuple(sha256_file(path) for path in paths)


def finished(job: Job, run: str) -> Report | None:
    """The report of this very run, if `out` has it. Raises `CheckpointError` if it has another's finished family."""
    report = load_report(job.out / REPORT_NAME)
    if report is not None and report.run == run:
        _tell(f"{job.out}: this run is finished; its report follows")
        return report
    written = is_whole(job.out) or any(branch_path(job.out, g).exists() for g in range(1, job.spec.granularity))
    if report is not None or (written and not (job.out / STATE_NAME).exists()):
        raise CheckpointError(
            f"{job.out}: holds a finished family of another run (other text, recipe, base, exits or held-out text); "
            "give another --out, or delete that folder to train anew"
        )
    return None


def new_family(spec: FamilySpec, recipe: Recipe, base: LoadedBase, text: Iterable[Tensor] = ()) -> FamilyForCausalLM:
    """The family before its first step, with gradients for what the recipe trains.

    A base whose trunk is trained as a whole is changed by that; otherwise it is copied, with matrices that stay as they
    are in the precision of their products. Low-rank branches are factorised on `text`, windows of token ids (1, T).
    """
    torch.manual_seed(recipe.seed)
    model = base.model if recipe.trunk == "full" else copy.deepcopy(base.model)
    family = FamilyForCausalLM.from_base(spec.exits, model, text)
    family.requires_grad_(recipe.trunk == "full")
    if recipe.lora_rank is not None:
        from training.lora import add_lora

        add_lora(family.model, recipe.lora_rank)
    family.branches.requires_grad_(True)
    if recipe.bf16:
        for module in family.model.layers.modules():
            if type(module) is nn.Linear and not module.weight.requires_grad:
                module.to(torch.bfloat16)
    family.objective = recipe.loss()
    return family


def new_trainer(job: Job, family: FamilyForCausalLM, windows: Windows, run: str) -> FamilyTrainer:
    """The trainer of a job, with all that tells of it."""
    recipe = job.recipe
    log_every, save_every = intervals(recipe.steps, job.save_every)
    arguments = training_arguments(
        recipe,
        job.out / STATE_NAME,
        windows_at_once=recipe.batch // (job.accumulate * _processes()),
        accumulate=job.accumulate,
        log_every=log_every,
        save_every=save_every,
    )
    trainer = FamilyTrainer(family, arguments, windows, run)
    last = job.spec.granularity - (recipe.objective == "kl")  # which has no loss then
    trainer.add_callback(ProgressLines(trainer.step_tokens, range(1, last + 1), recipe.objective != "ce"))
    if job.log_dir and _is_first():
        from torch.utils.tensorboard import SummaryWriter
        from transformers.integrations.integration_utils import TensorBoardCallback

        trainer.add_callback(TensorBoardCallback(SummaryWriter(str(job.log_dir))))  # type: ignore[no-untyped-call]
    return trainer


def intervals(steps: int, save_every: int | None) -> tuple[int, int]:
    """Steps between points of the loss curve, and between checkpoints: a multiple, so that a resumed run has the same.

    Args:
        steps: of the run.
        save_every: steps between checkpoints if the user has chosen; there may be more points then.
    """
    log_every = max(1, steps // POINTS_PER_RUN)
    if save_every is None:
        return log_every, log_every * max(1, round(steps / log_every / CHECKPOINTS_PER_RUN))
    return max(n for n in range(1, min(log_every, save_every) + 1) if save_every % n == 0), save_every


def calibration(windows: Windows) -> Iterator[Tensor]:
    """The first windows (1, T) of a run."""
    for k in range(min(len(windows), -(-CALIBRATION_TOKENS // windows.window))):
        yield torch.from_numpy(windows[k]["input_ids"]).unsqueeze(0)


def _in_order(job: Job, base: LoadedBase, windows: Windows) -> FamilyForCausalLM:
    """The family as saved, the components of its low-rank branches first put in the order of importance again."""
    ranks = {g: exit_.rank for g, exit_ in enumerate(job.spec.exits, start=1) if exit_.rank is not None}
    if ranks:
        mixed = load_trained(job.out, base)
        moments = mixed.moments(calibration(windows))
        ordered = mixed.with_branches({g: factorise(mixed.branch(g), moments[g], rank) for g, rank in ranks.items()})
        rewrite_branches(ordered, job.out)
    return load_trained(job.out, base)


def _windows(job: Job, base: LoadedBase) -> Windows:
    recipe, spec = job.recipe, job.spec
    windows = open_windows(
        job.text,
        base.tokenizer,
        cache_folder() / "tokens",
        vocab_size=spec.vocab_size,
        window=recipe.window,
        length=recipe.steps // recipe.passes * recipe.batch,
        seed=recipe.seed,
        passes=recipe.passes,
    )
    for part in windows.parts:
        longest = part.header.longest_document
        if longest > spec.context:
            _tell(
                f"{part.name}: its longest document has {longest} tokens, more than the context of {spec.context}; "
                "it is cut into windows as all are"
            )
    return windows


def _scores(
    family: FamilyForCausalLM, held_out: Sequence[tuple[Path, Ids]], recipe: Recipe, device: torch.device
) -> tuple[HeldOut, ...]:
    nn.Module.to(family, device)
    found = []
    for path, ids in held_out:
        with tqdm(total=len(ids), unit="tok", unit_scale=True, desc=f"scoring {path.name}", disable=None) as bar:
            scores = evaluate(family_logits(family), ids, recipe.window, recipe.window, progress=bar.update)
        for score in scores.exits:
            check_finite(f"loss of exit {score.exit} on {path.name}", score.cross_entropy, recipe.steps)
        found.append(HeldOut(path.name, sha256_file(path), scores))
    return tuple(found)


def _processes() -> int:
    """How many processes share the run, as torchrun and accelerate tell them."""
    return int(os.environ.get("WORLD_SIZE", 1))


def _is_first() -> bool:
    return os.environ.get("RANK", "0") == "0"


def _tell(line: str) -> None:
    """One line on stderr, from the first process."""
    if _is_first():
        print(line, file=sys.stderr, flush=True)  # noqa: T201
