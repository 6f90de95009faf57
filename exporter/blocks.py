"""Matrices in blocks of 32 weights along the input: weight = scale * (q - zero) + offset.

q and zero are whole numbers of 4 or 8 bits. This is what GGUF calls Q4_1 (scale d, minimum m: offset = m + zero * d),
Q4_0 and Q8_0 (no offset), so a base that was stored in one of them is kept to the bit, and found to be one from its f32
weights alone: no file format is read here.

The kernel knows no offsets. They become columns of the matrix, for further inputs that hold the sums of x over the
blocks: a column has an offset's digit to the base of 16, and so many digits that the offsets are exact.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from exporter.errors import ExportError

F32 = npt.NDArray[np.float32]
U8 = npt.NDArray[np.uint8]

BLOCK = 32
"""Weights of a block, as in GGUF."""
WIDE_BLOCK = 64
"""Of weights in 8 bits that no file had in blocks: fewer scales to read and apply."""
EXACT = 1e-6
"""Relative to a block's largest weight: what f32 rounding may differ by."""


@dataclass(frozen=True)
class Blocks:
    """A matrix [out, in] in blocks."""

    bits: int
    """4 or 8."""
    q: U8
    """[out, in / size, size], one value a byte."""
    scales: F32
    """[out, in / size]."""
    zeros: U8 | None = None
    """[out, in / size]; none where all are half the range of q."""
    offsets: F32 | None = None
    """[out, in / size]; none where all are 0."""

    @property
    def size(self) -> int:
        """Weights of a block."""
        size: int = self.q.shape[-1]
        return size

    def matrix(self) -> F32:
        """The weights, [out, in]."""
        zeros = np.float32(1 << (self.bits - 1)) if self.zeros is None else self.zeros[..., None].astype(np.float32)
        found = (self.q.astype(np.float32) - zeros) * self.scales[..., None]
        if self.offsets is not None:
            found += self.offsets[..., None]
        return found.reshape(len(self.q), -1)


def packed(values: U8, bits: int) -> U8:
    """Values of `bits` bits along the last dimension, as `MatMulNBits` reads them: two of 4 a byte, low half first."""
    if bits == 8:
        return values
    even = np.pad(values, [(0, 0)] * (values.ndim - 1) + [(0, values.shape[-1] % 2)])
    return even[..., ::2] | np.left_shift(even[..., 1::2], np.uint8(4))


def unpacked(values: U8, bits: int) -> U8:
    """What `packed` packed, an even number of values."""
    if bits == 8:
        return values
    return np.stack([values & 15, values >> 4], axis=-1).reshape(*values.shape[:-1], -1)


def in_blocks(matrix: F32, size: int = BLOCK) -> F32:
    """A view [out, in / size, size] of a matrix. Raises `ExportError` where its rows are not whole blocks of 32."""
    if matrix.shape[1] % BLOCK:
        raise ExportError(
            f"a matrix has {matrix.shape[1]} inputs, and quantization needs a multiple of {BLOCK}; "
            "export at --precision f32, or give another base"
        )
    return matrix.reshape(len(matrix), -1, size)


def eight_bits(matrix: F32) -> Blocks:
    """Blocks of 32, exact, where the weights are those of a Q8_0 matrix; else rounded, to wide blocks if they fit."""
    blocks = in_blocks(matrix)
    scales = (np.abs(blocks).max(-1) / np.float32(127)).astype(np.float16).astype(np.float32)
    q = _on_grid(blocks, scales, np.float32(0), -127, 127)
    if not _is_exact(q, blocks, scales, np.float32(0), EXACT * np.abs(blocks).max(-1)).all():
        blocks = in_blocks(matrix, BLOCK if matrix.shape[1] % WIDE_BLOCK else WIDE_BLOCK)
        scales = np.abs(blocks).max(-1) / np.float32(127)
        q = _on_grid(blocks, scales, np.float32(0), -127, 127)
    return Blocks(8, (q + 128).astype(np.uint8), scales)


def four_bits(matrix: F32) -> Blocks:
    """Exact for every block whose weights lie on a 4-bit grid, as those of Q4_0 and Q4_1; others are rounded.

    These to 4 bits between their least and their largest weight, 0 among them.
    """
    blocks = in_blocks(matrix)
    steps, exact = grids(blocks)
    least = np.where(exact, blocks.min(-1), np.minimum(blocks.min(-1), 0))
    scales = np.where(exact, steps, (np.maximum(blocks.max(-1), 0) - least) / np.float32(15))
    zeros = _on_grid(-least[..., None], scales, np.float32(0), 0, 15)[..., 0]
    offsets = np.where(exact, least + zeros * scales, np.float32(0))
    q = _on_grid(blocks, scales, np.where(exact, least, -zeros * scales), 0, 15)
    return Blocks(
        4,
        q.astype(np.uint8),
        scales,
        None if (zeros == 8).all() else zeros.astype(np.uint8),
        offsets if offsets.any() else None,
    )


def grids(blocks: F32) -> tuple[F32, npt.NDArray[np.bool_]]:
    """The 4-bit grid of every block [..., 32] that lies on one: (its step, whether there is one), [...] each.

    The grid begins at the block's least weight; its step is searched by the number of steps to the largest.
    """
    flat = blocks.reshape(-1, BLOCK)
    tolerance = EXACT * np.abs(flat).max(-1)
    least, largest = flat.min(-1), flat.max(-1)
    scales, left = np.zeros_like(least), np.ones(least.shape, bool)
    for steps in range(15, 0, -1):
        step = ((largest - least) / steps).astype(np.float16).astype(np.float32)
        found = np.flatnonzero(left)
        for part in (slice(4), slice(BLOCK)):  # a few weights rule most blocks out
            q = _on_grid(flat[found, part], step[found], least[found], 0, 15)
            found = found[_is_exact(q, flat[found, part], step[found], least[found], tolerance[found])]
        scales[found], left[found] = step[found], False
        if not left.any():
            break
    return scales.reshape(blocks.shape[:-1]), ~left.reshape(blocks.shape[:-1])


def digits(offsets: F32) -> list[tuple[U8, F32]]:
    """Offsets [out, n] as a sum of digits, the lowest first: (digit + 8 as q [out, b, 32], scale [out, b]) each.

    b is the number of blocks that n sums fill. A row's block is counted in a unit of its own, a power of two, that all
    of its offsets are multiples of, or that is 2^-40 of the largest.
    """
    out, n = offsets.shape
    exact = np.pad(offsets.astype(np.float64), ((0, 0), (0, -n % BLOCK))).reshape(out, -1, BLOCK)
    fraction, exponent = np.frexp(exact)
    whole = np.ldexp(fraction, 53).astype(np.int64)
    lowest = np.where(whole == 0, 1 << 62, whole & -whole)
    finest = (exponent - 53 + np.log2(lowest.astype(np.float64)).astype(np.int64)).min(-1)
    unit = np.maximum(finest, np.where(whole == 0, -1100, exponent).max(-1) - 40)
    left = np.rint(np.ldexp(exact, -unit[..., None])).astype(np.int64)
    found: list[tuple[U8, F32]] = []
    while left.any():
        scale = np.ldexp(1.0, unit + 4 * len(found)).astype(np.float32)
        found.append((((left + 8) % 16).astype(np.uint8), scale))
        left = (left + 8) // 16
    return found


def with_columns(blocks: Blocks, number: int) -> Blocks:
    """The matrix without offsets, and with columns for `number` copies of the sums of x, each filled up to blocks.

    Raises `ValueError` where the offsets have more digits.
    """
    assert blocks.offsets is not None
    found = digits(blocks.offsets)
    if len(found) > number:
        raise ValueError(f"offsets of {len(found)} digits in {number} columns each")
    out, n = blocks.scales.shape
    filled = -(-n // BLOCK)
    nothing = (np.full((out, filled, BLOCK), 8, np.uint8), np.ones((out, filled), np.float32))
    found += [nothing] * (number - len(found))
    zeros = np.full((out, n + number * filled), 8, np.uint8)
    if blocks.zeros is not None:
        zeros[:, :n] = blocks.zeros
    q = np.concatenate([blocks.q, *(digit for digit, _ in found)], axis=1)
    return Blocks(4, q, np.concatenate([blocks.scales, *(scale for _, scale in found)], axis=1), zeros)


def _on_grid(blocks: F32, scales: F32, least: F32 | np.float32, low: int, high: int) -> F32:
    """The nearest whole numbers of steps above `least`; 0 where a block has no spread."""
    steps = np.where(scales == 0, np.float32(1), scales)[..., None]
    found: F32 = np.rint((blocks - np.asarray(least)[..., None]) / steps).clip(low, high)
    return found


def _is_exact(q: F32, blocks: F32, scales: F32, least: F32 | np.float32, tolerance: F32) -> npt.NDArray[np.bool_]:
    """Which blocks these numbers of steps give."""
    off = np.abs(q * scales[..., None] + np.asarray(least)[..., None] - blocks).max(-1)
    exact: npt.NDArray[np.bool_] = off <= tolerance
    return exact
