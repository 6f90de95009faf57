"""An engine that is a hash: a row is the digest of everything its view consumed, so any wrong prefix changes it.

It stands in at the engine's seam only, for property tests of logs, views and hops over thousands of histories. What it
computes has a one-line reference on the token ids: `expected_logits`.
"""

import asyncio
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from relay.codec import carried
from relay.log import Rows
from relay.messages import Logits
from relay.names import Codec

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


class FakeSegmentView:
    def __init__(self, index: int) -> None:
        self.index, self.inputs = index, list[bytes]()

    def run(self, rows: np.ndarray, past: int) -> Rows:
        assert past <= len(self.inputs), "a gap in the cache"
        self.inputs = self.inputs[:past] + [np.float32(row).tobytes() for row in rows]
        return np.stack(_outputs(self.index, self.inputs)[past:])


class FakeExitView:
    def __init__(self, index: int, has_cache: bool) -> None:
        self.index, self.has_cache, self.rows = index, has_cache, list[bytes]()

    def run(self, rows: Rows, past: int, wanted: int) -> Logits:
        assert not self.has_cache or past <= len(self.rows), "a gap in the branch's cache"
        self.rows = (self.rows + [b""] * past)[:past] + [row.tobytes() for row in rows]
        logits = np.empty((wanted, VOCAB), np.float32)
        for i in range(wanted):
            rows_read = self.rows[: len(self.rows) - wanted + i + 1]
            logits[i] = _logits(self.index, rows_read if self.has_cache else rows_read[-1:])
        return logits


class FakeEngine:
    """Segments and exits of a three-exit family; every exit has a branch."""

    d_model = D_MODEL

    def __init__(self, segments: tuple[int, ...]) -> None:
        self.segments = segments

    def open_segment(self, index: int) -> FakeSegmentView:
        return FakeSegmentView(index)

    def open_exit(self, index: int) -> FakeExitView:
        return FakeExitView(index, has_cache=True)

    async def run(self, forward: Callable[[], T], *, short: bool) -> T:
        await asyncio.sleep(0)  # where a real engine lets others run, and a caller may be cancelled
        result = forward()
        await asyncio.sleep(0)
        return result
