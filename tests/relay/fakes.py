"""An engine that is a hash: a row is the digest of everything its view consumed, so any wrong prefix changes it.

It stands in at the engine's seam only, for property tests of logs, views and hops over thousands of histories. What it
computes has a one-line reference on the token ids: `expected_logits`.
"""

import asyncio
import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from typing import TypeVar
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

from relay import batch
from relay.batch import Batch, Task
from relay.codec import carried
from relay.log import Rows
from relay.names import Codec
from relay.views import Forward, Made, Work

T = TypeVar("T")
D_MODEL = 4
VOCAB = 64


def digest_row(prefix: bytes) -> Rows:
    """A row whose floats hold a digest exactly (24 bits each)."""
    digest = blake2b(prefix, digest_size=3 * D_MODEL).digest()
    return np.array([int.from_bytes(digest[i : i + 3], "little") for i in range(0, len(digest), 3)], np.float32)


def expected_rows(ids: Sequence[int], segment: int, codec: Codec) -> list[Rows]:
    """The rows at the boundary after `segment`, from the ids alone."""
    inputs = [np.float32(i).tobytes() for i in ids]
    for index in range(1, segment + 1):
        arrived = inputs if index == 1 else [row.tobytes() for row in _carried(inputs, codec)]
        inputs = [row.tobytes() for row in _outputs(index, arrived)]
    return [np.frombuffer(row, np.float32) for row in inputs]


def expected_logits(ids: Sequence[int], exit_: int, codec: Codec = Codec.F32) -> NDArray[np.float32]:
    """What exit g says after the prefix `ids`, (vocab,), where every segment is another node's."""
    return _logits(exit_, [row.tobytes() for row in expected_rows(ids, exit_, codec)])


def _carried(rows: list[bytes], codec: Codec) -> Rows:
    return carried(np.stack([np.frombuffer(row, np.float32) for row in rows]), codec)


def _outputs(index: int, inputs: list[bytes]) -> list[Rows]:
    return [digest_row(bytes([index]) + b"".join(inputs[: i + 1])) for i in range(len(inputs))]


def _logits(exit_: int, rows: list[bytes]) -> NDArray[np.float32]:
    """Some tokens of many are likely, and how sure the exit is differs from prefix to prefix."""
    digest = blake2b(bytes([200 + exit_]) + b"".join(rows), digest_size=VOCAB).digest()
    logits = np.frombuffer(digest, np.uint8).astype(np.float32) / 64
    logits[digest[0] % VOCAB] += digest[1] / 32
    return logits


class FakeGraph:
    """A segment or an exit; every exit has a branch."""

    def __init__(self, index: int, is_exit: bool) -> None:
        self.index, self.is_exit = index, is_exit
        self.batches = list[int]()
        """How many sessions shared each forward."""

    def run(self, batch: Sequence[Forward]) -> list[Made]:
        self.batches.append(len(batch))
        made = []
        for forward in batch:
            view = forward.view
            assert isinstance(view, FakeView) and view.graph is self
            made.append(view.run(forward.rows, forward.past, forward.wanted))
        return made


class FakeView:
    has_cache = True

    def __init__(self, graph: FakeGraph) -> None:
        self.graph, self.inputs = graph, list[bytes]()

    def run(self, rows: np.ndarray, past: int, wanted: int) -> Made:
        assert past <= len(self.inputs), "a gap in the cache"
        self.inputs = self.inputs[:past] + [np.float32(row).tobytes() for row in rows]
        if not self.graph.is_exit:
            return np.stack(_outputs(self.graph.index, self.inputs)[past:])
        ends = range(len(self.inputs) - wanted + 1, len(self.inputs) + 1)
        made = [_logits(self.graph.index, self.inputs[:end]) for end in ends]
        return np.array(made, np.float32).reshape(-1, VOCAB)


class FakeEngine:
    """Segments and exits of a three-exit family. Who waits does the work of all, in turns that only the callers' order
    decides.
    """

    d_model = D_MODEL

    def __init__(self, segments: tuple[int, ...]) -> None:
        self.segments = segments
        self._segments = {index: FakeGraph(index, is_exit=False) for index in segments}
        self._exits = {index: FakeGraph(index, is_exit=True) for index in segments}
        self.turns = 1
        """Of the event loop that a forward takes."""
        ticks = itertools.count()
        self._batch = Batch(clock=lambda: next(ticks) * 1e-3)

    def open_segment(self, index: int) -> FakeView:
        return FakeView(self._segments[index])

    def open_exit(self, index: int) -> FakeView:
        return FakeView(self._exits[index])

    @property
    def batches(self) -> list[int]:
        """How many sessions shared each forward."""
        return [n for graph in (*self._segments.values(), *self._exits.values()) for n in graph.batches]

    async def run(self, work: Work[T], owner: object, *, at_once: bool = True) -> tuple[T, float]:
        task = Task(work, owner)
        try:
            await asyncio.sleep(0)  # where a real engine lets others run, and a caller may be cancelled
            self._batch.add(task)
            while not task.is_done:
                for _ in range(self.turns):
                    await asyncio.sleep(0)
                self._batch.step()
        except asyncio.CancelledError:
            task.given_up = True
            raise
        if task.error is not None:
            raise task.error
        return task.result, task.spent_s * 1e3  # type: ignore[return-value]

    def leave(self, owner: object) -> None:
        self._batch.leave(owner)


@contextmanager
def limits(short: int, least: int, most: int) -> Iterator[None]:
    """Rows that a batch does not cut, that it cuts off at least, and that a forward has at most, for a while."""
    with (
        patch.object(batch, "SHORT_ROWS", short),
        patch.object(batch, "LEAST_ROWS", least),
        patch.object(batch, "MOST_ROWS", most),
    ):
        yield
