"""One run of a sweep: a family trained from scratch on its D tokens, then measured on held-out text.

A loop of its own beside `FamilyTrainer`, of which a sweep needs nothing: no checkpoints (a run is short, and is done
again if it was killed), no processes, no folder. So a run is a function of its plan, which any worker anywhere can
call. It is not there for speed: on a CPU the Trainer takes as long per step. The losses are `FamilyForCausalLM`'s, with
equal weights (eq. 3 of arXiv 2512.23407).
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from training.data.documents import Ids
from training.flops import FamilyShape
from training.modeling import FamilyForCausalLM
from training.objective import Progress
from training.presets import family_config
from training.sweep.corpus import Corpus, batch_of
from training.sweep.plan import Plan, Run

BETAS = (0.9, 0.95)
WEIGHT_DECAY = 0.1
"""On matrices, the embedding among them; norms have none."""
MAX_GRAD_NORM = 1.0
WARMUP_SHARE = 0.05
INIT = 0.5
"""Standard deviation of fresh matrices times √d_model. Hugging Face's 0.02, made for d_model near 1,000, costs a trunk
of width 32 a tenth of its loss at 5e11 FLOPs."""
EVAL_WINDOWS = 32
"""Windows per forward on held-out text."""


@dataclass(frozen=True)
class Outcome:
    """What a run gave."""

    held_out: tuple[tuple[float, ...], ...]
    """Loss of each exit, nats per token, by held-out text; empty if the run diverged."""
    seconds: float
    """Of training, without measuring."""
    diverged: bool


def train_run(plan: Plan, run: Run, corpus: Corpus, device: str) -> Outcome:
    """Train and measure one run: a pure function of the plan, the texts and the kind of machine."""
    recipe = plan.design.recipe
    torch.manual_seed(run.seed)
    family = _family(plan.shape(run), recipe.window, device)
    optimizer = _optimizer(family, run.lr)
    steps = run.tokens // recipe.step_tokens
    windows = corpus.windows(recipe.window, steps * recipe.batch, run.seed)
    bfloat16 = recipe.precision == "bfloat16"
    started = time.monotonic()
    for step in range(steps):
        ids = batch_of(windows, step, recipe.batch).to(device)
        family.progress = Progress(step, step / steps)
        with torch.autocast(device, torch.bfloat16, enabled=bfloat16):
            loss = family(ids, labels=ids).loss
        loss.backward()
        norm = nn.utils.clip_grad_norm_(family.parameters(), MAX_GRAD_NORM)
        if not torch.isfinite(norm):
            return Outcome((), time.monotonic() - started, diverged=True)
        for group in optimizer.param_groups:
            group["lr"] = run.lr * lr_share(step, steps)
        optimizer.step()
        optimizer.zero_grad()
    seconds = time.monotonic() - started
    family.train(False)
    with torch.autocast(device, torch.bfloat16, enabled=bfloat16):
        losses = tuple(held_out_losses(family, ids, recipe.window) for ids in corpus.held_out)
    finite = all(math.isfinite(loss) for text in losses for loss in text)
    return Outcome(losses if finite else (), seconds, diverged=not finite)


def lr_share(step: int, steps: int) -> float:
    """Learning rate of a step, counted from 0, over the peak: linear warm-up, then a cosine that ends at zero."""
    warmup = max(1, round(WARMUP_SHARE * steps))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup + 1) / (steps - warmup + 1)))


@torch.no_grad()
def held_out_losses(family: FamilyForCausalLM, ids: Ids, window: int) -> tuple[float, ...]:
    """Mean loss of each exit, nats per token, over windows one after another; what does not fill one is left out."""
    rows = torch.from_numpy(ids[: len(ids) // window * window]).view(-1, window).to(family.device)
    total = torch.zeros(family.config.granularity, dtype=torch.float64)
    for start in range(0, len(rows), EVAL_WINDOWS):
        part = rows[start : start + EVAL_WINDOWS]
        losses: Tensor = family(part, labels=part).exit_losses
        total += len(part) * losses.double().cpu()
    return tuple((total / len(rows)).tolist())


def _family(shape: FamilyShape, window: int, device: str) -> FamilyForCausalLM:
    model: Any = FamilyForCausalLM(family_config(shape, window, initializer_range=INIT / shape.d_model**0.5))
    family: FamilyForCausalLM = model.to(device).train()
    return family


def _optimizer(family: nn.Module, lr: float) -> torch.optim.Optimizer:
    """AdamW; the fused form is the one with the least overhead per step."""
    matrices: Sequence[nn.Parameter] = [p for p in family.parameters() if p.ndim > 1]
    vectors = [p for p in family.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=lr, betas=BETAS, fused=True)
