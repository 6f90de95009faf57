"""The family loss and its gradient in one go: the mechanism behind `FamilyForCausalLM.forward(labels=...)`.

The trunk runs under autograd as usual. From each boundary's rows on, a few windows at a time, every branch runs on a
detached leaf, the head's losses and gradients are made chunk by chunk (`training.headloss`), and the branches are gone
through backwards at once. What stays is d loss / d state and the parameters' gradients; a single autograd node hands
these on, scaled, when the caller's `backward()` comes. So no exit's activations and no logits outlive their windows, no
product is made twice, and Trainer, DDP and gradient accumulation see an ordinary loss.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from training.branches import Context
from training.headloss import Term, head_loss
from training.objective import Objective, Progress

if TYPE_CHECKING:
    from training.modeling import FamilyForCausalLM

IGNORED = -100
GROUP_TOKENS = {"cpu": 512, "cuda": 8192}
"""Tokens whose branches run at a time, by type of device; at least one window."""


@dataclass(frozen=True)
class FamilyLoss:
    """The family loss (a scalar in the graph), L_g of every exit, and how often its top-1 token is the last exit's."""

    loss: Tensor
    exit_losses: Tensor
    """(G,), without gradient."""
    agreement: Tensor
    """(G,), share of the positions that carry loss; 0 where nothing is distilled."""


def family_loss(
    family: "FamilyForCausalLM",
    states: dict[int, Tensor],
    context: Context,
    labels: Tensor,
    objective: Objective,
    progress: Progress,
) -> FamilyLoss:
    """Loss of a batch whose trunk has run.

    Args:
        family: the model; its parameters and `states` that require gradients get them.
        states: rows (B, T, H) at every exit's boundary.
        context: as `FamilyForCausalLM.states` gave it.
        labels: token ids (B, T), `IGNORED` where none is to be predicted; position p learns label p + 1.
        objective: what each exit is to learn.
        progress: how far the run is.
    """
    last = family.config.granularity
    weights = objective.weights_at(progress.share, last, family.config.exit_weights)
    targets = torch.cat([labels[:, 1:], labels.new_full((len(labels), 1), IGNORED)], 1)
    carries_kl = torch.zeros_like(targets, dtype=torch.bool)
    if objective.distils:
        carries_kl[:, progress.step % objective.every :: objective.every] = True
    carries_kl &= targets != IGNORED
    n_ce, n_kl = max(1, int((targets != IGNORED).sum())), max(1, int(carries_kl.sum()))
    shares = [objective.shares(g == last) for g in states]
    gradients = _Gradients(family, states)
    sums = torch.zeros(3, last, dtype=torch.float64, device="cpu")
    for windows in _groups(labels):
        rows = gradients.rows(windows, context.part(windows))
        found = [torch.zeros_like(r) for r in rows]
        for wanted in (carries_kl[windows], (targets[windows] != IGNORED) & ~carries_kl[windows]):
            distils = wanted is not None and bool((wanted & carries_kl[windows]).any())
            terms = [
                Term(w * a / n_ce, w * b / n_kl if distils else 0.0, r.requires_grad)
                for w, (a, b), r in zip(weights, shares, rows, strict=True)
            ]
            index = wanted.reshape(-1).nonzero().squeeze(-1)
            if not len(index) or not any(t.ce or t.kl for t in terms):
                continue
            part = head_loss(
                gradients.head,
                [r.detach().reshape(-1, r.shape[-1])[index] for r in rows],
                targets[windows].reshape(-1)[index],
                terms,
                objective.temperature,
                gradients.head_grad,
            )
            sums += torch.stack([part.ce, part.kl, part.agreement]).cpu()
            for total, grad in zip(found, part.rows_grads, strict=True):
                if grad is not None:
                    total.view(-1, total.shape[-1])[index] = grad.to(total.dtype)
        gradients.add(found)
    ce, kl, same = sums
    exit_losses = torch.stack([a * c / n_ce + b * k / n_kl for (a, b), c, k in zip(shares, ce, kl, strict=True)])
    loss = (exit_losses * torch.tensor(weights, dtype=torch.float64)).sum()
    dtype = torch.promote_types(family.lm_head.weight.dtype, torch.float32)
    device = labels.device
    return FamilyLoss(
        gradients.attach(loss.to(device, dtype)), exit_losses.to(device, dtype), (same / n_kl).to(device, dtype)
    )


def _groups(labels: Tensor) -> Iterator[slice]:
    """Slices of the batch that are worked on at a time."""
    windows, length = labels.shape
    step = max(1, GROUP_TOKENS[labels.device.type] // length)
    for start in range(0, windows, step):
        yield slice(start, start + step)


class _Gradients:
    """The gradients of a batch as they add up, group by group."""

    def __init__(self, family: "FamilyForCausalLM", states: dict[int, Tensor]) -> None:
        self.family = family
        self.states = states
        enabled = torch.is_grad_enabled()
        weight = family.head_weight
        self.parameters = [p for p in family.exit_parameters() if enabled and p.requires_grad]
        self.boundaries = [state for state in states.values() if enabled and state.requires_grad]
        self.parameter_grads = [torch.zeros_like(p) for p in self.parameters]
        self.state_grads = [torch.empty_like(state) for state in self.boundaries]
        self.head = weight.detach().to(_compute_dtype(weight))
        wide = torch.promote_types(weight.dtype, torch.float32)
        self.head_grad = torch.zeros_like(weight, dtype=wide) if enabled and weight.requires_grad else None

    def rows(self, windows: slice, context: Context) -> list[Tensor]:
        """Every exit's normed rows of these windows, each on a leaf of its own."""
        self._windows = windows
        self._leaves = {
            g: state[windows].detach().requires_grad_(any(state is b for b in self.boundaries))
            for g, state in self.states.items()
        }
        self._rows = [self.family.branch_rows(g, leaf, context) for g, leaf in self._leaves.items()]
        return self._rows

    def add(self, rows_grads: Sequence[Tensor]) -> None:
        """Go backwards through the branches of the last `rows`."""
        outputs = [(r, grad) for r, grad in zip(self._rows, rows_grads, strict=True) if r.requires_grad]
        leaves = [leaf for leaf in self._leaves.values() if leaf.requires_grad]
        if outputs:
            found = torch.autograd.grad(
                [r for r, _ in outputs], [*leaves, *self.parameters], [grad for _, grad in outputs]
            )
            for total, grad in zip(self.state_grads, found[: len(leaves)], strict=True):
                total[self._windows] = grad
            for total, grad in zip(self.parameter_grads, found[len(leaves) :], strict=True):
                total += grad
        del self._rows, self._leaves

    def attach(self, loss: Tensor) -> Tensor:
        """The loss as a node of the caller's graph that owns all gradients found."""
        inputs: list[Tensor] = [*self.boundaries, *self.parameters]
        grads = [*self.state_grads, *self.parameter_grads]
        if self.head_grad is not None:
            weight = self.family.head_weight
            inputs.append(weight)
            grads.append(self.head_grad.to(weight.dtype))
        self.state_grads, self.parameter_grads, self.head_grad = [], [], None
        if not inputs:
            return loss
        attached: Tensor = _Attach.apply(loss, grads, *inputs)
        return attached


class _Attach(torch.autograd.Function):
    """A loss whose gradients by `inputs` are known already."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, grads: list[Tensor], *inputs: Tensor) -> Tensor:
        ctx.grads = grads
        return loss.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        grads, ctx.grads = ctx.grads, None
        return None, None, *[grad.mul_(grad_output) for grad in grads]


def _compute_dtype(weight: Tensor) -> torch.dtype:
    """The precision of matrix products: autocast's where it is on."""
    kind = weight.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
