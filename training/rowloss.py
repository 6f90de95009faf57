"""The element-wise part of the exits' losses: a few rows of logits to losses, and to gradients in place.

For student logits s, teacher logits t and L = a CE + b τ² KL(softmax(t/τ) || softmax(s/τ)),

    dL/ds = a (softmax(s) - onehot) + b τ (softmax(s/τ) - softmax(t/τ)).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


def wide(dtype: torch.dtype) -> torch.dtype:
    """The precision that sums are made in: float32, or float64 for itself."""
    return torch.promote_types(dtype, torch.float32)


def limit(limits: Mapping[str, int], tensor: Tensor) -> int:
    """The entry of `limits` for a tensor's device, `cpu` or `accelerator`."""
    return limits["cpu" if tensor.device.type == "cpu" else "accelerator"]


@dataclass(frozen=True)
class Softmax:
    """A softmax over rows of logits (R, V)."""

    p: Tensor
    """Probabilities (R, V), float32 at least."""
    logits: Tensor
    """(R, V), float32 at least, divided by the temperature."""
    highest: Tensor
    """Each row's highest logit (R,)."""
    log_z: Tensor
    """Log normalisers (R,)."""

    @classmethod
    def of(cls, logits: Tensor, temperature: float = 1.0) -> "Softmax":
        """Softmax of logits in any precision."""
        logits = logits.to(wide(logits.dtype))
        if temperature != 1:
            logits = logits / temperature
        p, highest = torch.softmax(logits, -1), logits.amax(-1)
        return cls(p, logits, highest, highest - p.amax(-1).log())  # max p >= 1/V; cheaper than a logsumexp


class Teacher:
    """The last exit's distribution over a few rows, at the temperature τ of the distillation."""

    def __init__(self, logits: Tensor, temperature: float) -> None:
        softmax = Softmax.of(logits, temperature)
        self.p = softmax.p
        self.temperature = temperature
        self._top = softmax.logits.max(-1, keepdim=True).indices  # half the time of argmax
        self._negative_entropy = (softmax.p * softmax.logits).sum(-1) - softmax.log_z

    def kl(self, student: Softmax) -> Tensor:
        """τ² KL(teacher || student) of each row (R,)."""
        kl = self._negative_entropy - (self.p * student.logits).sum(-1) + student.log_z
        return kl.mul_(self.temperature**2)

    def agrees(self, student: Softmax) -> Tensor:
        """Whether the teacher's top-1 token has the student's highest logit (R,)."""
        return student.logits.gather(-1, self._top).squeeze(-1) >= student.highest


@dataclass(frozen=True)
class RowLoss:
    """One exit's loss on a few rows."""

    losses: Tensor
    """ce x CE + kl x τ² KL of each row (R,)."""
    agrees: Tensor | None
    """As `Teacher.agrees`, where there is a teacher."""
    gradient: Tensor | None
    """By the logits (R, V), times what was asked for."""


def row_loss(
    logits: Tensor, labels: Tensor, ce: float, kl: float, teacher: Teacher | None, gradient_by: float | None
) -> RowLoss:
    """Loss and gradient of one exit's logits (R, V) against labels (R, 1) and a teacher (needed where `kl` is not 0).

    `gradient_by` is a factor for the gradient; None where none is wanted.
    """
    hard = Softmax.of(logits) if ce else None
    soft = None
    if teacher and kl:
        soft = hard if hard and teacher.temperature == 1 else Softmax.of(logits, teacher.temperature)
    losses = logits.new_zeros(len(logits), dtype=wide(logits.dtype))
    if hard:
        losses.add_(hard.log_z - hard.logits.gather(-1, labels).squeeze(-1), alpha=ce)
    if soft and teacher:
        losses.add_(teacher.kl(soft), alpha=kl)
    agrees = teacher.agrees(soft) if soft and teacher else None
    if gradient_by is None:
        return RowLoss(losses, agrees, None)
    return RowLoss(losses, agrees, _gradient(hard, soft, labels, ce * gradient_by, kl * gradient_by, teacher))


def _gradient(
    hard: Softmax | None, soft: Softmax | None, labels: Tensor, a: float, b: float, teacher: Teacher | None
) -> Tensor:
    """The gradient in the memory of the probabilities, which are used up."""
    parts = []
    if soft and teacher and soft is not hard:
        parts.append(_scaled(soft.p.sub_(teacher.p), b * teacher.temperature))
    if hard:
        gradient = _scaled(hard.p, a + b if soft is hard else a)
        if teacher and soft is hard:
            gradient.sub_(teacher.p, alpha=b)
        parts.append(gradient.scatter_add_(-1, labels, gradient.new_full(labels.shape, -a)))
    return parts[0] if len(parts) == 1 else parts[0].add_(parts[1])


def _scaled(tensor: Tensor, factor: float) -> Tensor:
    return tensor if factor == 1 else tensor.mul_(factor)
