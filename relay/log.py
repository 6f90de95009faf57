"""The logs of a session at one node. Pure: no I/O, no clock, no kernels.

`History` is the node's record of which positions it has consumed: their chain values. `RowLog` holds the rows of one
boundary, in position order. Whatever reads a boundary keeps a cursor into it; going back is lowering cursors.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from relay.names import Codec

Rows = NDArray[np.float32]
"""Hidden states, shape (q, d_model)."""
Ids = NDArray[np.int64]
"""Token ids, shape (q,): the rows of boundary 0."""

_FIRST_CAPACITY = 64


@dataclass(frozen=True)
class Mark:
    """The chain value of a position, for finding where two histories part."""

    position: int
    chain: bytes


class History:
    """Chain values of positions 0..len - 1, in order."""

    def __init__(self, genesis: bytes) -> None:
        self.codec = Codec.F32
        """How the rows of these positions travel."""
        self._genesis = genesis
        self._values: list[bytes] = []

    def __len__(self) -> int:
        return len(self._values)

    def value(self, position: int) -> bytes:
        """The chain value of a position; -1 is the start."""
        return self._genesis if position < 0 else self._values[position]

    def values(self, start: int, end: int) -> list[bytes]:
        """The chain values of positions start..end - 1."""
        return self._values[start:end]

    def continues(self, base: int, anchor: bytes) -> bool:
        """Whether rows from `base` on, after the position whose value is `anchor`, continue what is here."""
        return base <= len(self) and self.value(base - 1) == anchor

    def shared(self, values: Sequence[bytes]) -> int:
        """How many leading positions agree with a history of these values."""
        least, most = 0, min(len(self), len(values))
        while least < most:  # a chain value stands for all positions up to it
            middle = (least + most + 1) // 2
            if self._values[middle - 1] == values[middle - 1]:
                least = middle
            else:
                most = middle - 1
        return least

    def truncate(self, length: int) -> None:
        """Forget positions from `length` on."""
        del self._values[length:]

    def append(self, values: Sequence[bytes]) -> None:
        """Add the values of the next positions."""
        self._values.extend(values)

    def marks(self) -> tuple[Mark, ...]:
        """Values at the end, then twice as far back each time: enough for `common` to find a shared position."""
        return tuple(Mark(position, self._values[position]) for position in _steps_back(len(self)))

    def common(self, marks: Sequence[Mark]) -> int:
        """How many leading positions surely agree with the history that `marks` came from."""
        agreed = (m.position + 1 for m in marks if m.position < len(self) and self._values[m.position] == m.chain)
        return max(agreed, default=0)


def _steps_back(length: int) -> Iterator[int]:
    step = 1
    while step <= length:
        yield length - step
        step *= 2


class RowLog:
    """The rows of one boundary: positions 0..len - 1. At boundary 0 they are the token ids."""

    def __init__(self, width: int | None) -> None:
        """Rows of so many channels; ids, if None."""
        self._buffer: Rows | Ids = (
            np.empty(_FIRST_CAPACITY, np.int64) if width is None else np.empty((_FIRST_CAPACITY, width), np.float32)
        )
        self._start = self._length = 0

    def __len__(self) -> int:
        return self._length

    def rows(self, start: int, end: int) -> Any:
        """Rows start..end - 1, a view that the next append may move: use it at once."""
        assert self._start <= start <= end <= self._length
        return self._buffer[start - self._start : end - self._start]

    def truncate(self, length: int) -> None:
        """Forget rows from `length` on."""
        self._length = min(self._length, length)
        self._start = min(self._start, length)

    def forget(self) -> None:
        """Nobody will read the rows that are here: their memory is for the next."""
        self._start = self._length

    def append(self, rows: Rows | Ids) -> None:
        """Add the rows of the next positions, shape (q, width), or their ids, (q,)."""
        held = self._length - self._start
        needed = held + len(rows)
        if needed > len(self._buffer):
            grown = np.empty((max(needed, 2 * len(self._buffer)), *self._buffer.shape[1:]), self._buffer.dtype)
            grown[:held] = self._buffer[:held]
            self._buffer = grown
        self._buffer[held:needed] = rows
        self._length += len(rows)


def pieces(start: int, end: int, most: int, last: int = 0) -> Iterator[tuple[int, int]]:
    """Cut positions start..end - 1 into runs of at most `most`, but leave the final `last` of them in one run."""
    while end - start > max(most, last):
        stop = min(start + most, end - last)
        yield start, stop
        start = stop
    if start < end:
        yield start, end
