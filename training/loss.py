"""The family loss and its gradient in one go: the mechanism behind `FamilyForCausalLM.forward(labels=...)`.

The trunk runs under autograd as usual. From the boundaries on, a few windows at a time, every branch runs on a detached
leaf, `training.headloss` makes the losses and their gradients by the branches' rows chunk by chunk, and the branches
are gone through backwards at once. What stays is d loss / d state and the parameters' gradients; a single node of the
caller's graph hands these on, scaled, when `backward()` comes. So no branch's activations and no logits outlive their
windows, no product is made twice, and Trainer, DDP and gradient accumulation see an ordinary loss.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.distributed.fsdp import FSDPModule

from training.branches import Context
from training.headloss import ChunkedHead, Term
from training.rowloss import limit

if TYPE_CHECKING:
    from training.modeling import FamilyForCausalLM

IGNORED = -100
"""Label of a position that has nothing to predict."""
GROUP_TOKENS = {"cpu": 512, "accelerator": 8192}
"""Tokens whose branches run at a time, by type of device; at least one window."""


@dataclass(frozen=True)
class FamilyLoss:
    """The family loss, with how each exit did."""

    loss: Tensor
    """A scalar in the caller's graph."""
    exit_losses: Tensor
    """L_g of every exit (G,), without gradient."""
    agreement: Tensor
    """Share of the distilled positions where exit g ranks the last exit's top-1 token first (G,); 0 without any."""


def family_loss(family: "FamilyForCausalLM", states: dict[int, Tensor], context: Context, labels: Tensor) -> FamilyLoss:
    """Loss of a batch whose trunk has run, under `family.objective` at `family.progress`.

    Args:
        family: the model; those of its parameters and of `states` that require gradients get them.
        states: rows (B, T, H) at every exit's boundary.
        context: as `FamilyForCausalLM.states` gave it.
        labels: token ids (B, T), `IGNORED` where there is nothing to predict; position p learns label p + 1.
    """
    objective, granularity = family.objective, family.config.granularity
    weights = objective.weights_at(family.progress.share, granularity, family.config.exit_weights)
    targets = torch.cat([labels[:, 1:], labels.new_full((len(labels), 1), IGNORED)], 1)
    scored = targets != IGNORED
    distilled = scored & _distilled(family, targets)
    n_scored, n_distilled = max(1, int(scored.sum())), max(1, int(distilled.sum()))
    work = _Work(family, states)
    totals = torch.zeros(2, granularity, dtype=torch.float64)
    for windows in _groups(labels):
        rows = work.forward(windows, context.part(windows))
        grads = [torch.zeros_like(r) for r in rows]
        for chosen, kl in ((distilled, 1 / n_distilled), (scored & ~distilled, 0.0)):
            index = chosen[windows].flatten().nonzero().squeeze(-1)
            terms = [
                Term(ce_share / n_scored, kl_share * kl, weight, r.requires_grad)
                for weight, (ce_share, kl_share), r in zip(weights, objective.shares(granularity), rows, strict=True)
            ]
            flat = [r.detach().flatten(0, 1)[index] for r in rows]
            found = work.head.losses(flat, targets[windows].flatten()[index], terms)
            totals += torch.stack([found.losses, found.agreement])
            for grad, rows_grad in zip(grads, found.rows_grads, strict=True):
                if rows_grad is not None:
                    grad.flatten(0, 1)[index] = rows_grad.to(grad.dtype)
        work.backward(grads)
    exit_losses, agreement = totals
    loss = exit_losses @ torch.tensor(weights, dtype=totals.dtype)
    like = states[1].new_empty((), dtype=torch.promote_types(family.head_weight.dtype, torch.float32))
    return FamilyLoss(work.attach(loss.to(like)), exit_losses.to(like), (agreement / n_distilled).to(like))


def _distilled(family: "FamilyForCausalLM", targets: Tensor) -> Tensor:
    """Which positions (B, T) carry the KL; another residue of `every` at each step, the same in every window."""
    every = family.objective.every
    positions = torch.arange(targets.shape[1], device=targets.device)
    chosen = (positions - family.progress.step) % every == 0
    return (chosen & family.objective.distils).expand_as(targets)


def _groups(labels: Tensor) -> Iterator[slice]:
    """Slices of the batch that are worked on at a time."""
    windows, length = labels.shape
    step = max(1, limit(GROUP_TOKENS, labels) // length)
    for start in range(0, windows, step):
        yield slice(start, start + step)


class _Work:
    """Forward and backward between the boundaries and the head, group by group; the gradients add up here.

    A branch that FSDP shards by itself gathers its parameters for its own forward and backward only, so going backwards
    is left to the caller's graph then, and its activations live until that does.
    """

    def __init__(self, family: "FamilyForCausalLM", states: dict[int, Tensor]) -> None:
        enabled = torch.is_grad_enabled()
        self._family = family
        self._states = states
        self._at_once = not any(isinstance(module, FSDPModule) for module in family.branches.modules())
        self._trains = {g: enabled and state.requires_grad for g, state in states.items()}
        parameters = [*family.branches.parameters(), *family.model.norm.parameters()]
        moving = [p for p in parameters if enabled and p.requires_grad and self._at_once]
        self._parameter_grads = {p: torch.zeros_like(p) for p in moving}
        trains = [g for g, trains in self._trains.items() if trains and self._at_once]
        self._state_grads = {g: torch.empty_like(states[g]) for g in trains}
        self._rows_grads: dict[Tensor, Tensor] = {}
        weight = family.head_weight
        kind = weight.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
        trains_head = enabled and weight.requires_grad
        self.head = ChunkedHead(weight.detach().to(dtype), family.objective.temperature, trains_head)

    def forward(self, windows: slice, context: Context) -> list[Tensor]:
        """Every exit's normed rows (b, T, H) of these windows, each from a leaf of its own."""
        self._windows = windows
        self._leaves = {g: state[windows] for g, state in self._states.items()}
        if self._at_once:
            self._leaves = {g: leaf.detach().requires_grad_(self._trains[g]) for g, leaf in self._leaves.items()}
        self._rows = [self._family.branch_rows(g, leaf, context) for g, leaf in self._leaves.items()]
        return self._rows

    def backward(self, grads: list[Tensor]) -> None:
        """Go backwards from the rows of the last `forward`, given their gradients, and forget them."""
        moving = {r: grad for r, grad in zip(self._rows, grads, strict=True) if r.requires_grad}
        if not self._at_once:
            self._rows_grads.update(moving)
        elif moving:
            inputs = [*(self._leaves[g] for g in self._state_grads), *self._parameter_grads]
            found = iter(torch.autograd.grad(list(moving), inputs, list(moving.values())))
            for state_grad in self._state_grads.values():
                state_grad[self._windows] = next(found)
            for parameter_grad in self._parameter_grads.values():
                parameter_grad += next(found)
        del self._rows, self._leaves

    def attach(self, loss: Tensor) -> Tensor:
        """The loss as a node of the caller's graph; the gradients found go over to it."""
        weight = self._family.head_weight
        grads = {self._states[g]: grad for g, grad in self._state_grads.items()}
        grads |= self._parameter_grads | self._rows_grads
        if self.head.grad is not None:
            grads[weight] = self.head.grad.to(weight.dtype)
        attached: Tensor = _Attach.apply(loss, list(grads.values()), *grads) if grads else loss  # type: ignore[no-untyped-call]
        return attached


class _Attach(torch.autograd.Function):
    """A loss whose gradients by some tensors are known already."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, grads: list[Tensor], *_: Tensor) -> Tensor:
        ctx.grads = grads
        return loss.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.grads is None:
            raise RuntimeError("a family loss goes backward once: its gradients are given away")
        grads, ctx.grads = ctx.grads, None  # nobody else holds them, so they become .grad uncopied
        return None, None, *[grad.mul_(grad_output) for grad in grads]
