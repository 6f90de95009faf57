"""Rows in 8 or 4 bits: in blocks, each rotated and rounded with a step of its own. Pure.

The largest channels of a row are taken out: in every row a few are ten or a hundred times the others, at position 0
thousands of times (massive activations, arXiv 2402.17762). The rest is scaled by a power of two, and each of its
blocks is rotated by a Hadamard matrix, after which no channel stands out (arXiv 2404.00456), and rounded. The record of
a row has the same length whatever the row holds, so an outlier needs no form of its own.

A row is encoded alone and with element-wise arithmetic only (the last bits of a matrix product depend on how many rows
it has), so it has the same bytes in whatever message it travels.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from relay import bfloat
from relay.log import Rows

Array = NDArray[np.float32]
Records = NDArray[np.void]

BLOCK = 32
"""Channels that are rotated together and share a step; a row is filled up to a multiple with zeros."""
STEPS = np.array([(1 + code % 16 / 16) * 2.0 ** (code // 16 - 14) for code in range(256)], np.float32)
"""What the byte of a step stands for: sixteen to a doubling, up to 3.875. Rotated, a scaled row has values below 12."""
MOST_EXPONENT = 254
"""The byte of a row's exponent is as in f32: 127 where the largest of the rest is in 1..2. 0: the rest is zero, or so
small (a denormal number) that it is taken for zero."""
_MOST = np.finfo(np.float32).max
_ROWS_AT_ONCE = 32
"""Keeps the temporaries in cache."""


@dataclass(frozen=True)
class Form:
    """How rows are rounded."""

    bits: int
    """Of a value: 8 or 4."""
    kept: int
    """Channels that are taken out of a row, at 16 bits; what that rounds away stays in the row."""
    tried: int
    """Steps that are tried for a block: the smallest that reaches its largest value, and the next smaller ones, which
    may round the others better."""

    def record(self, width: int) -> np.dtype[np.void]:
        """The bytes of a row of `width` channels."""
        padded = -(-width // BLOCK) * BLOCK
        return np.dtype(
            [
                ("exponent", "u1"),
                ("channels", "<u2", (self.kept,)),
                ("values", "<u2", (self.kept,)),
                ("steps", "u1", (padded // BLOCK,)),
                ("codes", "u1", (padded * self.bits // 8,)),
            ]
        )


def encode(rows: Rows, form: Form) -> Records:
    """A record of each of the rows (q, width), which are finite."""
    records = np.empty(len(rows), form.record(rows.shape[1]))
    for first in range(0, len(rows), _ROWS_AT_ONCE):
        part = slice(first, first + _ROWS_AT_ONCE)
        _encode(rows[part], form, records[part])
    return records


def is_sound(records: Records, width: int) -> bool:
    """Whether the records can have been made by `encode`: exponents, channels and values are in their ranges."""
    values = records["values"] & np.uint16(0x7FFF)
    return bool(
        (records["exponent"] <= MOST_EXPONENT).all()
        and (records["channels"] < width).all()
        and (values <= bfloat.MOST).all()
    )


def decode(records: Records, form: Form, width: int) -> Rows:
    """The rows (q, width) of sound records (q,). Always finite."""
    steps = STEPS[records["steps"]]
    codes = _nibbles(records["codes"]) if form.bits == 4 else records["codes"]
    middles = codes.astype(np.float32).reshape(*steps.shape, BLOCK) - np.float32((1 << form.bits - 1) - 0.5)
    rest = _rotated((middles * steps[:, :, None]).reshape(len(records), -1))[:, :width]
    exponent = records["exponent"].astype(np.int32)[:, None]
    with np.errstate(over="ignore"):
        rows = np.where(exponent > 0, np.ldexp(rest, exponent - 127), np.float32(0)).clip(-_MOST, _MOST)
        each = np.arange(len(records))
        for channel, value in zip(records["channels"].T, bfloat.widened(records["values"]).T, strict=True):
            rows[each, channel] += value
    return rows.clip(-_MOST, _MOST)


def _encode(rows: Rows, form: Form, records: Records) -> None:
    rest, each = rows.copy(), np.arange(len(rows))
    for i in range(form.kept):
        channel = np.abs(rest).argmax(1)
        value = bfloat.rounded(rest[each, channel])
        rest[each, channel] -= bfloat.widened(value)
        records["channels"][:, i], records["values"][:, i] = channel, value
    largest = np.abs(rest).max(1)
    exponent = np.where(largest < np.finfo(np.float32).tiny, 0, np.frexp(largest)[1] + 126)
    padded = np.zeros((len(rows), records["steps"].shape[1] * BLOCK), np.float32)
    np.ldexp(rest, 127 - exponent[:, None], out=padded[:, : rows.shape[1]])
    steps, codes = _rounded(_rotated(padded).reshape(len(rows), -1, 1, BLOCK), form)
    codes = codes.reshape(len(rows), -1)
    records["exponent"], records["steps"] = exponent, steps
    records["codes"] = codes[:, ::2] | codes[:, 1::2] << 4 if form.bits == 4 else codes


def _rounded(blocks: Array, form: Form) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The steps (q, n) of the blocks (q, n, 1, BLOCK), each that of the least squared error of those tried, and the
    codes (q, n, BLOCK) that they give.

    A code c stands for the middle of the c-th of 2^bits intervals, a step wide each, that lie evenly about zero.
    """
    half = 1 << form.bits - 1
    reaches = np.searchsorted(STEPS, np.abs(blocks).max(-1) / np.float32(half - 0.5))
    tried = (reaches - np.arange(form.tried)).clip(0, len(STEPS) - 1)
    steps = STEPS[tried][..., None]
    codes = np.floor(blocks / steps).clip(-half, half - 1)
    errors = np.square((codes + np.float32(0.5)) * steps - blocks).sum(-1)
    best = errors.argmin(-1)[..., None]
    chosen = np.take_along_axis(codes, best[..., None], 2)[:, :, 0]
    return np.take_along_axis(tried, best, 2)[..., 0].astype(np.uint8), (chosen + half).astype(np.uint8)


def _rotated(rows: Array) -> Array:
    """Every block times the orthonormal Hadamard matrix, which is its own inverse."""
    blocks = rows.reshape(-1, BLOCK)
    for _ in range(BLOCK.bit_length() - 1):  # after as many shuffles the channels are in their order again
        even, odd = blocks[:, ::2], blocks[:, 1::2]
        blocks = np.concatenate((even + odd, even - odd), axis=1)
    return (blocks * np.float32(BLOCK**-0.5)).reshape(rows.shape)


def _nibbles(codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Two codes of each byte, the lower half first."""
    return np.stack((codes & 15, codes >> 4), axis=-1).reshape(len(codes), -1)
