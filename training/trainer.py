"""Recipe one: the trunk frozen, every branch distilled from the last exit.

A step's windows are independent work: each is one thread's, with the trunk run once and every branch fed from it, and
their gradients are added in window order. So threads never wait for each other inside a step, and the result does
not depend on how many there are. Nothing is drawn at random after the data's order, which the seed decides: a step is a
pure function of the state before it, so a run that was killed goes on as if it had not been.
"""

import copy
import math
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from training.distil import distil
from training.model import FamilyModel, trunk_states

WARMUP_SHARE = 0.03
FINAL_LR_SHARE = 0.05
BETAS = (0.9, 0.95)
WEIGHT_DECAY = 0.01
MAX_GRAD_NORM = 1.0
LOSS_EVERY = 2
"""Every how many positions carry the loss. Neighbours teach nearly the same, and the head is half of a step's cost."""


@dataclass(frozen=True)
class Recipe:
    """What decides a run's result, besides the family, the base and the text."""

    tokens: int
    """Training tokens, rounded down to whole steps of batch x window."""
    batch: int
    """Windows per step."""
    window: int
    """Tokens per window."""
    lr: float
    """Peak learning rate of AdamW; warm-up, then cosine."""
    seed: int

    @property
    def steps(self) -> int:
        return self.tokens // (self.batch * self.window)

    def lr_at(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        warmup = max(1, round(WARMUP_SHARE * self.steps))
        if step < warmup:
            return self.lr * (step + 1) / warmup
        done = (step - warmup) / max(1, self.steps - warmup)
        return self.lr * (FINAL_LR_SHARE + (1 - FINAL_LR_SHARE) * 0.5 * (1 + math.cos(math.pi * done)))


@dataclass(frozen=True)
class StepLoss:
    """One early exit's distance from the last one on a step's tokens."""

    kl: float
    """Nats per position."""
    agreement: float
    """Share of positions with the same top-1 token."""


class Trainer:
    """The branches of a family in training. `step()` is all that changes them."""

    def __init__(self, model: FamilyModel, recipe: Recipe, windows: NDArray[np.int64], threads: int) -> None:
        self.model = model
        self.recipe = recipe
        self.step_index = 0
        self._windows = windows
        self._pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
        self._dtype = torch.bfloat16 if has_fast_bf16() else torch.float32
        self._decoder = _in_dtype(model.base.model.model, self._dtype)
        self._head = model.base.model.lm_head.weight.detach().to(self._dtype)
        self._groups = {g: list(model.branches[str(g)].parameters()) for g in range(1, model.spec.granularity)}
        self._parameters = [p for group in self._groups.values() for p in group]
        self.optimizer = torch.optim.AdamW(
            self._parameters, lr=recipe.lr, betas=BETAS, weight_decay=WEIGHT_DECAY, foreach=False
        )

    def step(self) -> dict[int, StepLoss]:
        """Train on the next batch; the losses before the update, by exit."""
        first = self.step_index * self.recipe.batch
        done = list(self._pool.map(self._window, range(first, first + self.recipe.batch)))
        for parameter, *grads in zip(self._parameters, *(grads for grads, _ in done), strict=True):
            parameter.grad = torch.stack(grads).mean(0)
        for group in self._groups.values():
            nn.utils.clip_grad_norm_(group, MAX_GRAD_NORM)
        for options in self.optimizer.param_groups:
            options["lr"] = self.recipe.lr_at(self.step_index)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step_index += 1
        return mean_losses([losses for _, losses in done])

    def close(self) -> None:
        """Free the threads."""
        self._pool.shutdown()

    def _window(self, index: int) -> tuple[tuple[Tensor, ...], dict[int, StepLoss]]:
        """Gradients of all branch parameters, and losses, on window `index` of the data."""
        model, last = self.model, self.model.spec.granularity
        ids = torch.from_numpy(self._windows[index]).unsqueeze(0)
        scored = slice(index % LOSS_EVERY, None, LOSS_EVERY)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self._dtype == torch.bfloat16):
            states, context = trunk_states(model.spec, self._decoder, ids)
            with torch.no_grad():
                teacher = model.branch_rows(last, states[last], context)[0, scored]
            with torch.enable_grad():
                rows = {g: model.branch_rows(g, states[g], context)[0, scored] for g in self._groups}
        found = distil(self._head, teacher, {g: row.detach() for g, row in rows.items()})
        outputs = [rows[g] for g in self._groups]
        grads = torch.autograd.grad(outputs, self._parameters, [found[g].rows_grad.to(rows[g].dtype) for g in found])
        return grads, {g: StepLoss(d.kl, d.agreement) for g, d in found.items()}


def mean_losses(losses: list[dict[int, StepLoss]]) -> dict[int, StepLoss]:
    """Mean over windows or steps, by exit."""
    n = len(losses)
    return {g: StepLoss(sum(x[g].kl for x in losses) / n, sum(x[g].agreement for x in losses) / n) for g in losses[0]}


def has_fast_bf16() -> bool:
    """Whether this CPU multiplies bfloat16 in hardware (AVX512-BF16 or AMX); elsewhere float32 is faster."""
    flags: Mapping[str, Any] = torch.cpu.get_capabilities()
    return bool(flags.get("avx512_bf16") or flags.get("amx_bf16"))


def _in_dtype(decoder: nn.Module, dtype: torch.dtype) -> nn.Module:
    """The trunk with its matrices in `dtype` (embedding and norms stay float32); a copy unless it is float32."""
    if dtype == torch.float32:
        return decoder
    copied = copy.deepcopy(decoder)
    for module in copied.modules():
        if isinstance(module, nn.Linear):
            module.to(dtype)
    return copied
