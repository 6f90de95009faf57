"""Cross-entropy and agreement of every exit on held-out text, for any source of logits.

Protocol: the ids are read in windows of `window` tokens, `stride` apart; in each, the last `stride` positions are
scored (all of them in the first window), so each is scored once, with at least `window - stride` tokens before it.
With `stride == window` the windows do not overlap. A tail that does not fill a window is left out.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from training.errors import DataError
from training.model import FamilyModel
from training.modeling import FamilyForCausalLM

LogitsFn = Callable[[NDArray[np.int64]], dict[int, NDArray[np.float32]]]
"""Token ids (T,) to logits (T, vocab_size) by exit; the deepest exit is the reference of agreement."""

ROWS_AT_ONCE = 64
"""Rows scored at a time: keeps the temporaries in cache."""


@dataclass(frozen=True)
class ExitScore:
    """One exit on held-out text."""

    exit: int
    cross_entropy: float
    """Nats per token."""
    agreement: float
    """Share of positions whose top-1 token is the last exit's."""


@dataclass(frozen=True)
class Evaluation:
    """Scores of all exits, with the protocol that gave them."""

    tokens: int
    """Positions scored."""
    window: int
    stride: int
    exits: tuple[ExitScore, ...]


def windows(ids: NDArray[np.int64], window: int, stride: int) -> Iterator[tuple[NDArray[np.int64], slice]]:
    """Windows of `window + 1` ids (inputs and their targets, one apart) and the positions to score in each."""
    if not 0 < stride <= window:
        raise ValueError(f"stride: expected 1..{window}, got {stride}")
    for start in range(0, len(ids) - window, stride):
        yield ids[start : start + window + 1], slice(0 if start == 0 else window - stride, window)


def evaluate(
    logits: LogitsFn, ids: NDArray[np.int64], window: int, stride: int, progress: Callable[[int], object] | None = None
) -> Evaluation:
    """Score every exit that `logits` returns on `ids`.

    Args:
        logits: token ids (window,) to logits (window, vocab_size) by exit.
        ids: token ids (N,), N > window.
        window: tokens the model sees at once.
        stride: distance of windows; `window` for windows that do not overlap.
        progress: called with the number of positions scored after each window.

    Raises:
        DataError: the text is shorter than one window.
        ValueError: the stride is not in 1..window.
    """
    losses: dict[int, float] = {}
    same: dict[int, int] = {}
    tokens = 0
    for chunk, scored in windows(ids, window, stride):
        targets = chunk[1:][scored]
        by_exit = {g: rows[scored] for g, rows in logits(chunk[:-1]).items()}
        top = by_exit[max(by_exit)].argmax(-1)
        for g, rows in by_exit.items():
            losses[g] = losses.get(g, 0.0) + float(cross_entropies(rows, targets).sum())
            same[g] = same.get(g, 0) + int((rows.argmax(-1) == top).sum())
        tokens += len(targets)
        if progress:
            progress(len(targets))
    if not tokens:
        raise DataError(f"held-out text: {len(ids)} tokens, fewer than one window of {window} and its target")
    scores = tuple(ExitScore(g, losses[g] / tokens, same[g] / tokens) for g in sorted(losses))
    return Evaluation(tokens, window, stride, scores)


def cross_entropies(logits: NDArray[np.float32], targets: NDArray[np.int64]) -> NDArray[np.float64]:
    """Nats of each target (T,) under the softmax of its row of logits (T, vocab_size)."""
    out = np.empty(len(targets))
    for start in range(0, len(targets), ROWS_AT_ONCE):
        rows, wanted = logits[start : start + ROWS_AT_ONCE], targets[start : start + ROWS_AT_ONCE]
        top = rows.max(-1, keepdims=True)
        normaliser = np.log(np.exp(rows - top).sum(-1, dtype=np.float64))
        out[start : start + len(rows)] = normaliser - (rows[np.arange(len(rows)), wanted] - top[:, 0])
    return out


def family_logits(model: FamilyModel | FamilyForCausalLM) -> LogitsFn:
    """Logits of all exits of a family in float32, as `evaluate` takes them."""
    device = next(model.parameters()).device

    def logits(ids: NDArray[np.int64]) -> dict[int, NDArray[np.float32]]:
        with torch.no_grad():
            rows = model.forward_exits(torch.from_numpy(ids).unsqueeze(0).to(device))
            return {g: model.head(row[0]).cpu().numpy() for g, row in rows.items()}

    return logits
