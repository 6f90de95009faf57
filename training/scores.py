"""Figures of an exit from what it made of every position: quality, agreement, and what it may decide by itself."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.evaluate import Marks
from training.ranks import Reading

DISAGREEMENTS = (0.05, 0.10)
"""Shares of all positions at which coverage is reported."""


@dataclass(frozen=True)
class Coverage:
    """What an exit may decide at most, if that is to cost so much agreement."""

    disagreement: float
    """The most positions that are decided otherwise than by the last exit, as a share of all."""
    share: float
    """Positions that the exit decides, as a share of all."""
    threshold: float | None
    """The confidence from which on it decides; None where it may decide nothing."""


@dataclass(frozen=True)
class ReadingScore:
    """One exit at one rank."""

    exit: int
    rank: int | None
    """Of its low-rank branch, cut to that; None where it has none."""
    cross_entropy: float
    """Nats per token."""
    perplexity: float
    """e to that."""
    agreement: float
    """Share of positions whose top-1 token is the last exit's."""
    coverage: tuple[Coverage, ...]


def coverage(confidence: NDArray[np.float64], differs: NDArray[np.bool_], disagreement: float) -> Coverage:
    """The largest share of positions that an exit may decide at a given disagreement.

    An exit decides every position whose confidence (probability of its top-1 token) is at or above one threshold, the
    same for all, and leaves the others to the last exit. Of N positions it then decides E = {i: confidence_i >= t}. Its
    coverage is |E| / N, and its disagreement |{i in E: differs_i}| / N: over all positions, decided or not, so it is
    the share of the whole text that comes out otherwise. Among all t with a disagreement of at most `disagreement`,
    this is the one of the largest coverage. Both grow as t falls, so it is the lowest such t. Each position is judged
    after the text as it stands: what a differing token does to those after it is not counted.

    Args:
        confidence: (N,), N > 0.
        differs: (N,), whether the exit's top-1 token is another than the last exit's.
        disagreement: from 0 to 1.
    """
    order = np.argsort(-confidence, kind="stable")
    sure = confidence[order]
    ends = np.flatnonzero(np.append(sure[1:] != sure[:-1], True))  # equals are decided all or not at all
    allowed = ends[np.cumsum(differs[order])[ends] <= disagreement * len(sure) + 1e-9]
    if not len(allowed):
        return Coverage(disagreement, 0.0, None)
    return Coverage(disagreement, float(allowed[-1] + 1) / len(sure), float(sure[allowed[-1]]))


def reading_scores(found: Mapping[Reading, Marks]) -> tuple[ReadingScore, ...]:
    """Scores of all readings of a text; the deepest exit is the reference of agreement."""
    last = found[max(found, key=lambda reading: reading[0])]
    return tuple(_score(reading, marks, last) for reading, marks in found.items())


def _score(reading: Reading, marks: Marks, last: Marks) -> ReadingScore:
    differs = marks.top != last.top
    return ReadingScore(
        *reading,
        cross_entropy=marks.cross_entropy,
        perplexity=math.exp(marks.cross_entropy),
        agreement=float(1 - differs.mean()),
        coverage=tuple(coverage(marks.confidence, differs, most) for most in DISAGREEMENTS),
    )
