"""Cross-entropy and agreement of every exit on held-out text, for any source of logits.

Protocol: the ids are read in windows of `window` tokens, `stride` apart; in each, the last `stride` positions are
scored (all of them in the first window), so each is scored once, with at least `window - stride` tokens before it.
With `stride == window` the windows do not overlap. A tail that does not fill a window is left out.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from training.errors import DataError
from training.modeling import FamilyForCausalLM

K = TypeVar("K")
Logits = NDArray[np.float32]
LogitsFn = Callable[[NDArray[np.int64]], dict[int, Logits]]
"""Token ids (T,) to logits (T, vocab_size) by exit; the deepest exit is the reference of agreement."""

ROWS_AT_ONCE = 64
"""Rows scored at a time: keeps the temporaries in cache."""


@dataclass(frozen=True)
class Marks:
    """What an exit makes of N positions."""

    nats: NDArray[np.float64]
    """(N,) cross-entropy of the target."""
    top: NDArray[np.int64]
    """(N,) top-1 token."""
    confidence: NDArray[np.float64]
    """(N,) its probability."""

    def __len__(self) -> int:
        return len(self.nats)

    @property
    def cross_entropy(self) -> float:
        """Nats per position."""
        return float(self.nats.mean())


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
    found = position_marks(logits, ids, window, stride, progress)
    last = found[max(found)]
    scores = tuple(
        ExitScore(g, marks.cross_entropy, float((marks.top == last.top).mean())) for g, marks in sorted(found.items())
    )
    return Evaluation(len(last), window, stride, scores)


def position_marks(
    logits: Callable[[NDArray[np.int64]], Mapping[K, Logits]],
    ids: NDArray[np.int64],
    window: int,
    stride: int,
    progress: Callable[[int], object] | None = None,
) -> dict[K, Marks]:
    """Marks of all scored positions, by whatever `logits` is keyed by. Arguments and errors as `evaluate`."""
    found: dict[K, list[Marks]] = {}
    for chunk, scored in windows(ids, window, stride):
        targets = chunk[1:][scored]
        for key, rows in logits(chunk[:-1]).items():
            found.setdefault(key, []).append(mark(rows[scored], targets))
        if progress:
            progress(len(targets))
    if not found:
        raise DataError(f"held-out text: {len(ids)} tokens, fewer than one window of {window} and its target")
    return {key: joined(parts) for key, parts in found.items()}


def mark(logits: Logits, targets: NDArray[np.int64]) -> Marks:
    """Marks of rows of logits (N, vocab_size) and the targets (N,) they should have predicted."""
    nats, confidence = np.empty(len(targets)), np.empty(len(targets))
    top = np.empty(len(targets), np.int64)
    for start in range(0, len(targets), ROWS_AT_ONCE):
        part = slice(start, start + ROWS_AT_ONCE)
        rows, wanted = logits[part], targets[part]
        each, best = np.arange(len(rows)), rows.argmax(-1)
        peak = rows[each, best]
        normaliser = np.log(np.exp(rows - peak[:, None]).sum(-1, dtype=np.float64))
        nats[part] = normaliser - (rows[each, wanted] - peak)
        top[part], confidence[part] = best, np.exp(-normaliser)
    return Marks(nats, top, confidence)


def joined(parts: Sequence[Marks]) -> Marks:
    """Marks of several stretches of positions as one."""
    return Marks(
        np.concatenate([part.nats for part in parts]),
        np.concatenate([part.top for part in parts]),
        np.concatenate([part.confidence for part in parts]),
    )


def family_logits(model: FamilyForCausalLM) -> LogitsFn:
    """Logits of all exits of a family in float32, as `evaluate` takes them."""
    device = next(model.parameters()).device

    def logits(ids: NDArray[np.int64]) -> dict[int, Logits]:
        with torch.no_grad():
            rows = model.forward_exits(torch.from_numpy(ids).unsqueeze(0).to(device))
            return {g: model.head(row[0]).cpu().numpy() for g, row in rows.items()}

    return logits
