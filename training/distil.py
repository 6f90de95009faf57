"""The first recipe's loss: every branch learns the last exit's distribution over the whole vocabulary.

KL(teacher || student) at temperature 1 (Hinton et al., arXiv 1503.02531), a few positions at a time and with its
gradient written out, d KL / d logits = softmax(student) - softmax(teacher): no logits of a whole batch ever exist.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

MATMUL_ROWS = 256
"""Positions per product with the head: enough to amortise reading it."""
CACHED_ROWS = 8
"""Positions per pass of the softmax and its gradient: their float32 logits stay in a core's cache."""


@dataclass(frozen=True)
class Distilled:
    """One exit's loss on a batch, and its gradient."""

    kl: float
    """Mean KL divergence from the last exit, nats per position."""
    agreement: float
    """Share of positions whose top-1 token is the last exit's."""
    rows_grad: Tensor
    """Gradient of the mean KL by the student's normed rows (N, H), float32."""


def distil(head: Tensor, teacher: Tensor, students: dict[int, Tensor]) -> dict[int, Distilled]:
    """Loss and gradient of all students at once.

    Args:
        head: the LM head's weight (vocab_size, H), in the precision of the products.
        teacher: the last exit's normed rows (N, H).
        students: each early exit's normed rows (N, H), by exit.
    """
    n = len(teacher)
    grads = {g: torch.empty(rows.shape, dtype=torch.float32) for g, rows in students.items()}
    kl = dict.fromkeys(students, 0.0)
    same = dict.fromkeys(students, 0)
    with torch.no_grad():
        for start in range(0, n, MATMUL_ROWS):
            part = slice(start, start + MATMUL_ROWS)
            wanted = teacher[part].to(head.dtype) @ head.T
            given = {g: rows[part].to(head.dtype) @ head.T for g, rows in students.items()}
            for at in range(0, len(wanted), CACHED_ROWS):
                rows_kl, rows_same = _to_gradients(
                    wanted[at : at + CACHED_ROWS], [logits[at : at + CACHED_ROWS] for logits in given.values()]
                )
                for g, one_kl, one_same in zip(given, rows_kl, rows_same, strict=True):
                    kl[g] += one_kl
                    same[g] += one_same
            for g, gradient in given.items():
                grads[g][part] = (gradient @ head).float() / n
    return {g: Distilled(kl[g] / n, same[g] / n, grads[g]) for g in students}


def _to_gradients(teacher: Tensor, students: list[Tensor]) -> tuple[list[float], list[int]]:
    """Turn the students' logits (R, V) into gradients in place; the sums of KL and of equal top-1 tokens over R."""
    p, logits, top, log_z = _softmax(teacher)
    negative_entropy = (p * logits).sum(-1) - log_z
    kl: list[float] = []
    same: list[int] = []
    for student in students:
        q, logits, own_top, log_z = _softmax(student)
        kl.append(float((negative_entropy - (p * logits).sum(-1) + log_z).sum()))
        same.append(int((own_top == top).sum()))
        student.copy_(q.sub_(p))
    return kl, same


def _softmax(logits: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Float32 probabilities and logits (R, V), top-1 ids (R,) and log normalisers (R,)."""
    logits = logits.float()
    p = torch.softmax(logits, -1)
    top_logit, top = logits.max(-1)
    return p, logits, top, top_logit - p.gather(-1, top.unsqueeze(-1)).squeeze(-1).log()
