"""Of many rows of numbers, each to be small: those that no other row equals or beats in every column."""

import numpy as np
from numpy.typing import NDArray

from scaling.runs import FloatArray, IntArray

FEW = 48
"""Rows that are compared all with all."""
BLOCK = 256
"""Rows that a front is compared with at once."""


def best_rows(rows: FloatArray) -> IntArray:
    """Numbers of the rows (n, r) that no other row equals or beats in every column; of equal rows the first."""
    if len(rows) <= FEW or not rows.shape[1]:
        return np.flatnonzero(_unbeaten(rows))
    order = np.lexsort(rows.T[::-1])  # a row is beaten, or equalled, by earlier ones only
    for column in range(1, rows.shape[1]):
        order = order[~_beaten_by_least(rows[order], column)]
    kept = np.zeros(0, np.int64)
    for i in range(0, len(order), BLOCK):
        part = order[i : i + BLOCK]
        part = part[~_beaten(rows[kept], rows[part])]
        kept = np.concatenate([kept, part[_unbeaten(rows[part])]])
    return np.sort(kept)


def _beaten_by_least(rows: FloatArray, column: int) -> NDArray[np.bool_]:
    """Which rows are beaten or equalled by the one before them that is least in a column.

    Where columns rise together, that is most of all that are beaten.
    """
    values = rows[:, column]
    before = np.minimum.accumulate(values)[:-1]
    numbers = np.arange(len(values) - 1)
    falls = np.concatenate([[True], values[1:-1] < before[:-1]])
    least = np.maximum.accumulate(np.where(falls, numbers, 0))
    beaten = np.ones(len(values), bool)
    beaten[0] = False
    for other in rows.T:
        beaten[1:] &= other[least] <= other[1:]
    return beaten


def _unbeaten(rows: FloatArray) -> NDArray[np.bool_]:
    """Which rows none of the others beats in a column and equals or beats in all, or equals from further ahead."""
    below = np.ones((len(rows), len(rows)), bool)
    for column in rows.T:
        below &= column[:, None] <= column
    below &= ~(below.T & np.tri(len(rows), dtype=bool))
    return np.asarray(~below.any(axis=0))


def _beaten(front: FloatArray, rows: FloatArray) -> NDArray[np.bool_]:
    """Which rows one of the front equals or beats in every column."""
    beats = np.ones((len(front), len(rows)), bool)
    for column in range(rows.shape[1]):
        beats &= front[:, [column]] <= rows[:, column]
    return np.asarray(beats.any(axis=0))
