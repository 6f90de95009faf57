"""The exits' losses through the LM head, a few positions at a time, with the gradient written out.

Nothing is kept for a backward pass and the logits of a whole batch never exist. All exits' rows go through the head in
one product, so a chunk is as large whatever their number, and the teacher's logits are made once for all students.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from training.rowloss import Teacher, limit, row_loss, wide

MATMUL_ROWS = {"cpu": 512, "accelerator": 4096}
"""Rows per product with the head, of all exits together, by type of device: enough to amortise reading it."""
CACHED_LOGITS = {"cpu": 8 * 49152, "accelerator": 1024 * 49152}
"""Logits of one exit per pass of the softmax and its gradient: on a CPU they stay in a core's cache."""


@dataclass(frozen=True)
class Term:
    """One exit's share in the loss of a row: weight x (ce x CE + kl x τ² KL)."""

    ce: float
    kl: float
    weight: float
    trains: bool
    """Whether the gradient by its rows is wanted."""

    @property
    def counts(self) -> bool:
        """Whether the exit has a loss."""
        return self.ce > 0 or self.kl > 0

    @property
    def size(self) -> float:
        """How large the gradient by its logits can be, up to a constant."""
        return self.weight * (self.ce + self.kl)


@dataclass(frozen=True)
class HeadLoss:
    """Sums over the rows by exit, (G,) in float64 on the CPU, and the gradient of the whole loss by the rows."""

    losses: Tensor
    """Of ce x CE + kl x τ² KL."""
    agreement: Tensor
    """Rows where the last exit's top-1 token has this exit's highest logit; counted where there is a KL."""
    rows_grads: list[Tensor | None]
    """(N, H) by exit, float32 at least; None where it is not wanted."""


class ChunkedHead:
    """The LM head of a batch: `losses` may be called for one part of it after another.

    Attributes:
        weight: (V, H), in the precision of the products.
        grad: the head's gradient so far, (V, H), float32 at least; None where the head does not train.
    """

    def __init__(self, weight: Tensor, temperature: float = 1.0, trains: bool = False) -> None:
        self.weight = weight
        self.grad = torch.zeros_like(weight, dtype=wide(weight.dtype)) if trains else None
        self._temperature = temperature
        self._logits = weight.new_empty(0)  # kept from chunk to chunk: fresh pages cost as much as a third of a product

    def losses(self, rows: Sequence[Tensor], labels: Tensor, terms: Sequence[Term]) -> HeadLoss:
        """Losses of all exits at N positions, and the gradient of their sum.

        Args:
            rows: every exit's normed rows (N, H); the last exit's, which teach, come last.
            labels: the token id that each row is to predict, (N,).
            terms: by exit; an exit without a loss costs nothing, unless it teaches.
        """
        sums = _Sums(len(terms))
        grads = [
            torch.zeros_like(r, dtype=wide(r.dtype)) if t.trains else None for r, t in zip(rows, terms, strict=True)
        ]
        moving = [g for g, t in enumerate(terms) if t.counts and (t.trains or self.grad is not None)]
        used = list(dict.fromkeys([*moving, *(g for g, t in enumerate(terms) if t.counts), *_teachers(terms)]))
        unit = max((terms[g].size for g in moving), default=0.0) or 1.0  # a gradient's unit is near 1 in any precision
        n_rows = max(1, limit(MATMUL_ROWS, self.weight) // max(1, len(used)))
        for start in range(0, len(labels) if used else 0, n_rows):
            part = slice(start, start + n_rows)
            stack = torch.cat([rows[g][part] for g in used]).to(self.weight.dtype)
            logits = torch.mm(stack, self.weight.T, out=self._buffer(len(stack)))
            by_exit = dict(zip(used, torch.split(logits, len(labels[part])), strict=True))
            factors = {g: terms[g].weight / unit for g in moving}
            _to_gradients(by_exit, labels[part], terms, factors, self._temperature, sums)
            if not moving:
                continue
            moved = len(moving) * len(labels[part])
            self._add(logits[:moved].T, stack[:moved], unit)
            back = logits[:moved] @ self.weight
            for g, grad in zip(moving, torch.split(back, len(labels[part])), strict=True):
                wanted = grads[g]
                if wanted is not None:
                    torch.mul(grad, unit, out=wanted[part])
        return HeadLoss(*sums.totals(), grads)

    def _buffer(self, n_rows: int) -> Tensor:
        n = n_rows * len(self.weight)
        if self._logits.numel() < n:
            self._logits = self.weight.new_empty(n)
        return self._logits[:n].view(n_rows, -1)

    def _add(self, logits_grad: Tensor, rows: Tensor, unit: float) -> None:
        if self.grad is None:
            return
        if self.grad.dtype == rows.dtype:
            self.grad.addmm_(logits_grad, rows, alpha=unit)
        else:
            self.grad.add_(logits_grad @ rows, alpha=unit)


def _teachers(terms: Sequence[Term]) -> list[int]:
    return [len(terms) - 1] if any(term.kl for term in terms) else []


def _to_gradients(
    logits: dict[int, Tensor],
    labels: Tensor,
    terms: Sequence[Term],
    factors: dict[int, float],
    temperature: float,
    sums: "_Sums",
) -> None:
    """Turn the logits (N, V) of the exits in `factors` into gradients times that, in place; note all exits' losses."""
    size = next(iter(logits.values())).shape[1]
    step = max(1, limit(CACHED_LOGITS, labels) // size)
    for at in range(0, len(labels), step):
        few = slice(at, at + step)
        teacher = None
        for last in _teachers(terms):
            teacher = Teacher(logits[last][few], temperature)
        for g, z in logits.items():
            term = terms[g]
            if not term.counts:
                continue
            found = row_loss(z[few], labels[few].unsqueeze(-1), term.ce, term.kl, teacher, factors.get(g))
            sums.note(g, found.losses, found.agrees)
            if found.gradient is not None:
                z[few].copy_(found.gradient)


class _Sums:
    """Losses and agreements as they are found; added up once, since that costs a pass as much as its arithmetic."""

    def __init__(self, granularity: int) -> None:
        self._losses: list[list[Tensor]] = [[] for _ in range(granularity)]
        self._agrees: list[list[Tensor]] = [[] for _ in range(granularity)]

    def note(self, g: int, losses: Tensor, agrees: Tensor | None) -> None:
        self._losses[g].append(losses)
        if agrees is not None:
            self._agrees[g].append(agrees)

    def totals(self) -> tuple[Tensor, Tensor]:
        """Sums (G,) of both."""
        return _sum(self._losses), _sum(self._agrees)


def _sum(noted: list[list[Tensor]]) -> Tensor:
    return torch.tensor(
        [float(torch.cat(values).sum(dtype=torch.float64)) if values else 0.0 for values in noted], dtype=torch.float64
    )
