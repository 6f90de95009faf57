"""How a run tells of itself: a bar on a terminal, a line now and then in a pipe."""

# ruff: noqa: ARG002  (the hooks have the Trainer's signatures)

import sys
from typing import Any

from tqdm import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from training.trainer import AGREEMENT, LOSS, TOKENS, seconds_spent


class ProgressLines(TrainerCallback):
    """Tokens done, speed, and each exit's loss and agreement with the last one, from the first process.

    Args:
        step_tokens: tokens of an optimizer step.
        exits: those whose losses are told.
        distils: whether there are agreements to tell.
    """

    def __init__(self, step_tokens: int, exits: range, distils: bool) -> None:
        self._step_tokens, self._exits, self._distils = step_tokens, exits, distils
        self._bar: Any = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.is_world_process_zero:
            done, total = (steps * self._step_tokens for steps in (state.global_step, state.max_steps))
            self._bar = tqdm(initial=done, total=total, unit="tok", unit_scale=True, disable=None)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self._bar is not None:
            self._bar.update(self._step_tokens)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        if self._bar is None or logs is None or TOKENS not in logs:
            return
        figures = ", ".join(self._figures(g, logs) for g in self._exits)
        self._bar.set_postfix_str(figures)
        if self._bar.disable:
            done, total = logs[TOKENS], state.max_steps * self._step_tokens
            rate = done / (seconds_spent(state) or 1.0)
            print(f"{done}/{total} tokens, {rate:.0f}/s, {figures}", file=sys.stderr, flush=True)  # noqa: T201

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def _figures(self, g: int, logs: dict[str, float]) -> str:
        name = f"{AGREEMENT}{g}"
        agreement = f" agree {logs[name]:.1%}" if self._distils and name in logs else ""
        return f"exit {g}: loss {logs[f'{LOSS}{g}']:.3f}{agreement}"
