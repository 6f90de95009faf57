"""`FamilyTrainer`: `transformers.Trainer` on a family, so that torchrun, DDP, FSDP, accelerate are the user's choice.

Here is only what a family has besides an ordinary model: a loss for every exit, weights that may change in the course
of a run, and parts that are not trained, which no checkpoint needs to hold.
"""

import math
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.utils import SAFE_WEIGHTS_NAME

from training.data import Windows
from training.errors import CheckpointError, TrainingError
from training.modeling import FamilyForCausalLM, FamilyOutput
from training.objective import Progress
from training.recipe import DECAY_SHARE, FINAL_LR_SHARE, Recipe
from training.report import CurvePoint
from training.state import checkpoint_path, mark_whole

BETAS = (0.9, 0.95)
MAX_GRAD_NORM = 1.0
LOSS, AGREEMENT, SECONDS, TOKENS = "loss_exit_", "agreement_exit_", "seconds", "tokens"
"""Names of what is logged besides the Trainer's own figures; the first two with the exit's number."""


def training_arguments(
    recipe: Recipe, folder: Path, *, windows_at_once: int, accumulate: int, log_every: int, save_every: int
) -> TrainingArguments:
    """A recipe in the Trainer's words.

    Args:
        recipe: what to do.
        folder: where checkpoints go.
        windows_at_once: windows of one process in one forward.
        accumulate: forwards per optimizer step.
        log_every: steps between points of the loss curve.
        save_every: steps between checkpoints; a multiple of `log_every`, so that a resumed run has the same curve.
    """
    warmup = max(1, round(recipe.warmup * recipe.steps))
    if recipe.schedule == "wsd":
        decay = max(1, round(DECAY_SHARE * recipe.steps))
        schedule, options = "warmup_stable_decay", {"num_decay_steps": decay, "min_lr_ratio": FINAL_LR_SHARE}
    else:
        schedule, options = "cosine_with_min_lr", {"min_lr_rate": FINAL_LR_SHARE}
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=recipe.steps,
        per_device_train_batch_size=windows_at_once,
        gradient_accumulation_steps=accumulate,
        learning_rate=recipe.lr,
        lr_scheduler_type=schedule,
        lr_scheduler_kwargs=options,
        warmup_steps=warmup,
        weight_decay=recipe.weight_decay,
        adam_beta1=BETAS[0],
        adam_beta2=BETAS[1],
        max_grad_norm=MAX_GRAD_NORM,
        bf16=recipe.bf16,
        use_cpu=not torch.accelerator.is_available(),
        seed=recipe.seed,
        train_sampling_strategy="sequential",  # the data set has the order
        remove_unused_columns=False,
        dataloader_pin_memory=torch.accelerator.is_available(),
        ddp_find_unused_parameters=False,
        logging_steps=log_every,
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=save_every,
        report_to=[],
        disable_tqdm=True,
        log_level="error",
    )
    arguments._n_gpu = 1  # a process has one device; for several, the user starts several processes
    return arguments


class _LastPoint(TrainerCallback):
    """The curve ends with the run, not with the last whole interval between its points."""

    def on_step_end(
        self,
        args: TrainingArguments,  # noqa: ARG002
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,  # noqa: ARG002
    ) -> None:
        control.should_log |= state.global_step >= state.max_steps


class FamilyTrainer(Trainer):
    """Trains what of a family requires gradients.

    Args:
        model: the family; its `objective` is what is trained for.
        args: as `training_arguments` gives them.
        windows: the data, in order.
        run: hash of everything that decides the result, noted in every checkpoint.
    """

    def __init__(self, model: FamilyForCausalLM, args: TrainingArguments, windows: Windows, run: str) -> None:
        self.run = run
        self.trained = frozenset(name for name, parameter in model.named_parameters() if parameter.requires_grad)
        self.family = model
        self.granularity = model.config.granularity
        self._exit_sums = torch.zeros(2, self.granularity)
        self._forwards = 0
        self._last_log: float | None = None
        super().__init__(model=model, args=args, train_dataset=windows, callbacks=[_LastPoint()])
        self.remove_callback(PrinterCallback)
        self.step_tokens = args.train_batch_size * args.gradient_accumulation_steps * args.world_size * windows.window

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,  # noqa: ARG002  (windows are equally long)
    ) -> Tensor | tuple[Tensor, FamilyOutput]:
        """The family loss of a batch of windows."""
        if self._last_log is None:
            self._last_log = time.monotonic()
        family: Any = self.accelerator.unwrap_model(model)
        family.progress = Progress(self.state.global_step, self.state.global_step / self.state.max_steps)
        output: FamilyOutput = model(input_ids=inputs["input_ids"], labels=inputs["input_ids"])
        assert output.loss is not None and output.exit_losses is not None and output.agreement is not None
        self._exit_sums = self._exit_sums.to(output.loss.device) + torch.stack([output.exit_losses, output.agreement])
        self._forwards += 1
        return (output.loss, output) if return_outputs else output.loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the exits' losses and agreement since the log before, tokens, and seconds over all starts of the run."""
        if "loss" in logs:
            for name, value in (("loss", logs["loss"]), ("gradient's norm", logs.get("grad_norm", 0.0))):
                check_finite(name, value, self.state.global_step)  # so no checkpoint has weights that are no numbers
            losses, agreement = self.accelerator.reduce(self._exit_sums / self._forwards, "mean").tolist()
            self._exit_sums, self._forwards = torch.zeros(2, self.granularity), 0
            now = time.monotonic()
            logs |= {f"{LOSS}{g}": value for g, value in enumerate(losses, 1)}
            logs |= {f"{AGREEMENT}{g}": value for g, value in enumerate(agreement[:-1], 1)}
            logs[TOKENS] = self.state.global_step * self.step_tokens
            logs[SECONDS] = seconds_spent(self.state) + now - (self._last_log or now)
            self._last_log = now
        super().log(logs, start_time)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Whole or not at all: a folder without its note does not count, and those before go only after it is there."""
        folder, step = Path(str(self.args.output_dir)), self.state.global_step
        try:
            super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                mark_whole(folder, step, self.run)
        except (OSError, RuntimeError, SafetensorError) as error:  # torch and safetensors hide a full disk in their own
            free = shutil.disk_usage(folder).free
            shutil.rmtree(checkpoint_path(folder, step), ignore_errors=True)
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise CheckpointError(
                f"{folder}: the checkpoint of step {step} cannot be saved ({reason}; {free / 1e6:.1f} MB were left); "
                "make room and give the same command again: it goes on from the last whole checkpoint, if there was one"
            ) from error

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        """Only what is trained: the base has the rest, and `transformers.Trainer` loads what is there."""
        if self.args.should_save:
            folder = Path(str(output_dir or self.args.output_dir))
            folder.mkdir(parents=True, exist_ok=True)
            state: Mapping[str, Tensor] = self.family.state_dict() if state_dict is None else state_dict
            kept = {name: tensor.contiguous() for name, tensor in state.items() if name in self.trained}
            save_file(kept, folder / SAFE_WEIGHTS_NAME, metadata={"format": "pt"})


def check_finite(name: str, value: float, steps: int) -> None:
    """Raise `TrainingError` if what training has come to is no number."""
    if not math.isfinite(value):
        raise TrainingError(f"the {name} is {value} after {steps} steps; lower --lr, or raise --warmup")


def seconds_spent(state: TrainerState) -> float:
    """Seconds of training up to the last log, over all starts of the run."""
    return next((float(entry[SECONDS]) for entry in reversed(state.log_history) if SECONDS in entry), 0.0)


def curve(state: TrainerState, granularity: int) -> tuple[CurvePoint, ...]:
    """The loss curve of a run."""
    exits = range(1, granularity + 1)
    return tuple(
        CurvePoint(
            tokens=int(entry[TOKENS]),
            loss=tuple(round(entry[f"{LOSS}{g}"], 4) for g in exits),
            agreement=tuple(round(entry[f"{AGREEMENT}{g}"], 4) for g in exits[:-1]),
        )
        for entry in state.log_history
        if TOKENS in entry
    )


def has_fast_bf16() -> bool:
    """Whether products in bfloat16 are surely faster here than in float32: on a CPU, where it has AMX.

    AVX512-BF16 alone does not say so. On an Intel Xeon that has it without AMX every product of a run is slower, both
    ways: 80 GFLOP/s on one thread against 150 in float32, for the trunk's (1024 x 576 x 1536) as for the head's
    (512 x 576 x 49152).
    """
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    flags: Mapping[str, Any] = torch.cpu.get_capabilities()
    return bool(flags.get("amx_bf16"))
