"""The exits' losses through the LM head, a few positions at a time, with the gradient written out.

d L / d logits = a (softmax(s) - onehot) + b τ (softmax(s/τ) - softmax(t/τ)) for student logits s, teacher logits t and
L = a CE + b τ² KL: nothing is kept for a backward pass, the logits of a whole batch never exist, and the teacher's are
made once for all students.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

MATMUL_LOGITS = {"cpu": 256 * 49152, "cuda": 2048 * 49152}
"""Logits per product with the head, by type of device: enough rows to amortise reading it."""
CACHED_LOGITS = {"cpu": 8 * 49152, "cuda": 2048 * 49152}
"""Logits per pass of the softmax and its gradient: on a CPU they stay in a core's cache."""


@dataclass(frozen=True)
class Term:
    """One exit's share in the loss at every row of a call: a CE + b KL."""

    ce: float
    kl: float
    trains: bool
    """Whether a gradient by its rows is wanted."""


@dataclass(frozen=True)
class HeadLoss:
    """Sums over the rows of a call, by exit, and the gradients of Σ_exits Σ_rows (a CE + b KL)."""

    ce: Tensor
    kl: Tensor
    agreement: Tensor
    """Rows whose top-1 token is the last exit's."""
    rows_grads: list[Tensor | None]
    """(N, H) by exit, None where it does not train."""


def head_loss(
    head: Tensor,
    rows: Sequence[Tensor],
    labels: Tensor,
    terms: Sequence[Term],
    temperature: float = 1.0,
    head_grad: Tensor | None = None,
) -> HeadLoss:
    """Losses and gradients of all exits at N positions.

    Args:
        head: the LM head's weight (V, H), in the precision of the products.
        rows: every exit's normed rows (N, H), the last exit's (the teacher's) last.
        labels: the token id that each row should predict (N,).
        terms: by exit; an exit whose term is 0 costs nothing, unless it teaches.
        temperature: τ.
        head_grad: (V, H), to which the head's gradient is added; None where the head does not train.
    """
    wide = torch.promote_types(head.dtype, torch.float32)
    sums = torch.zeros(3, len(rows), dtype=torch.float64 if head.device.type == "cpu" else wide, device=head.device)
    wanted = [term.trains and (term.ce or term.kl) for term in terms]
    grads = [torch.empty_like(r, dtype=wide) if want else None for r, want in zip(rows, wanted, strict=True)]
    distils = any(term.kl for term in terms)
    used = [g for g, term in enumerate(terms) if term.ce or term.kl or (distils and g == len(terms) - 1)]
    n_rows = max(1, MATMUL_LOGITS[head.device.type] // len(head))
    cached = max(1, CACHED_LOGITS[head.device.type] // len(head))
    for start in range(0, len(labels), n_rows):
        part = slice(start, start + n_rows)
        chunk = {g: rows[g][part].to(head.dtype) for g in used}
        logits = {g: chunk[g] @ head.T for g in used}
        for at in range(0, len(labels[part]), cached):
            few = slice(at, at + cached)
            _to_gradients({g: z[few] for g, z in logits.items()}, labels[part][few], terms, temperature, sums)
        for g in used:
            grad, scale = grads[g], terms[g].ce + terms[g].kl
            if grad is not None:
                torch.mul((logits[g] @ head).to(wide), scale, out=grad[part])
            if head_grad is not None and scale:
                _add_product(head_grad, logits[g].T, chunk[g], scale)
    return HeadLoss(sums[0], sums[1], sums[2], grads)


def _add_product(total: Tensor, a: Tensor, b: Tensor, scale: float) -> None:
    if total.dtype == a.dtype:
        total.addmm_(a, b, alpha=scale)
    else:
        total.add_(a @ b, alpha=scale)


def _to_gradients(
    logits: dict[int, Tensor], labels: Tensor, terms: Sequence[Term], temperature: float, sums: Tensor
) -> None:
    """Add to the sums, and turn logits (R, V) in place into gradients of (a CE + b KL) / (a + b)."""
    last = len(terms) - 1
    targets = labels.unsqueeze(-1)
    teacher = _softmax(logits[last], temperature) if any(term.kl for term in terms) else None
    for g, z in logits.items():
        a, b = terms[g].ce, terms[g].kl
        if not a and not b:
            continue
        gradient = None
        if a:
            q = _softmax(z)
            sums[0, g] += (q.log_z - q.logits.gather(-1, targets).squeeze(-1)).sum()
            gradient = q.p
            if b and temperature == 1:  # one softmax serves both
                assert teacher is not None
                sums[1, g] += _kl(teacher, q)
                gradient.sub_(teacher.p, alpha=b / (a + b))
                gradient.scatter_add_(-1, targets, torch.full_like(q.log_z, -a / (a + b)).unsqueeze(-1))
            else:
                gradient.scatter_add_(-1, targets, torch.full_like(q.log_z, -1.0).unsqueeze(-1))
            sums[2, g] += 0
        if b and (not a or temperature != 1):
            assert teacher is not None
            q = _softmax(z, temperature)
            sums[1, g] += temperature**2 * _kl(teacher, q)
            own = q.p.sub_(teacher.p).mul_(temperature) if temperature != 1 else q.p.sub_(teacher.p)
            gradient = own if gradient is None else gradient.mul_(a / (a + b)).add_(own, alpha=b / (a + b))
        if teacher is not None:
            sums[2, g] += (q.top == teacher.top).sum()
        assert gradient is not None
        z.copy_(gradient)


@dataclass(frozen=True)
class _Softmax:
    p: Tensor
    logits: Tensor
    top: Tensor
    log_z: Tensor

    @property
    def negative_entropy(self) -> Tensor:
        return (self.p * self.logits).sum(-1) - self.log_z


def _softmax(logits: Tensor, temperature: float = 1.0) -> _Softmax:
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if temperature != 1:
        logits = logits / temperature
    p = torch.softmax(logits, -1)
    top_logit, top = logits.max(-1)
    return _Softmax(p, logits, top, top_logit - p.gather(-1, top.unsqueeze(-1)).squeeze(-1).log())


def _kl(teacher: _Softmax, student: _Softmax) -> Tensor:
    return (teacher.negative_entropy - (teacher.p * student.logits).sum(-1) + student.log_z).sum()
