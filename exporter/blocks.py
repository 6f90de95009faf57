"""Matrices in blocks of 32 weights along the input: weight = scale * (q - middle) + offset.

q has 4 or 8 bits, `middle` is half their range, and an offset per block is there where the grid is not symmetric. This
is what GGUF calls Q4_1 (scale d, minimum m: offset = m + 8 d), Q4_0 and Q8_0 (no offset), so a base that was stored in
one of them is kept to the bit, and found to be one from its f32 weights alone: no file format is read here.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from exporter.errors import ExportError

F32 = npt.NDArray[np.float32]
U8 = npt.NDArray[np.uint8]

BLOCK = 32
"""Weights of a block, as in GGUF."""
EXACT = 1e-6
"""Relative to a block's largest weight: what f32 rounding may differ by."""


@dataclass(frozen=True)
class Blocks:
    """A matrix [out, in] in blocks."""

    bits: int
    """4 or 8."""
    q: U8
    """[out, in / 32, 32], one value a byte."""
    scales: F32
    """[out, in / 32]."""
    offsets: F32 | None = None
    """[out, in / 32]; none where all are 0."""

    @property
    def middle(self) -> int:
        """The q of weight 0 where there is no offset."""
        return 1 << (self.bits - 1)

    def matrix(self) -> F32:
        """The weights, [out, in]."""
        found = (self.q.astype(np.float32) - self.middle) * self.scales[..., None]
        if self.offsets is not None:
            found += self.offsets[..., None]
        return found.reshape(len(self.q), -1)

    def packed(self) -> U8:
        """The values as `MatMulNBits` reads them, [out, in / 32, 4 * bits]: two of 4 bits a byte, low half first."""
        if self.bits == 8:
            return self.q
        return self.q[..., ::2] | np.left_shift(self.q[..., 1::2], np.uint8(4))


def unpacked(packed: U8, bits: int) -> U8:
    """`Blocks.q` of `Blocks.packed`, any shape: the last dimension doubles at 4 bits."""
    if bits == 8:
        return packed
    return np.stack([packed & 15, packed >> 4], axis=-1).reshape(*packed.shape[:-1], -1)


def in_blocks(matrix: F32) -> F32:
    """A view [out, in / 32, 32] of a matrix. Raises `ExportError` where its rows are not whole blocks."""
    if matrix.shape[1] % BLOCK:
        raise ExportError(
            f"a matrix has {matrix.shape[1]} inputs, and quantization needs a multiple of {BLOCK}; "
            "export at --precision f32, or give another base"
        )
    return matrix.reshape(len(matrix), -1, BLOCK)


def eight_bits(matrix: F32) -> Blocks:
    """Round to 8 symmetric bits. Exact where the weights are those of a Q8_0 matrix."""
    blocks = in_blocks(matrix)
    scales = np.abs(blocks).max(-1) / np.float32(127)
    halves = scales.astype(np.float16).astype(np.float32)
    found = [_on_grid(blocks, scale, np.float32(0), -127, 127) for scale in (halves, scales)]
    exact = _is_exact(found[0], blocks, halves, np.float32(0))
    scales = np.where(exact, halves, scales)
    q = np.where(exact[..., None], *found)
    return Blocks(8, (q + 128).astype(np.uint8), scales)


def exact_four_bits(matrix: F32) -> Blocks | None:
    """The blocks of a matrix whose weights lie on 4-bit grids, as those of Q4_0 and Q4_1; none if one does not.

    A block's grid is searched by the number of steps between its least and its largest weight.
    """
    blocks = in_blocks(matrix)
    least = blocks.min(-1)
    spread = blocks.max(-1) - least
    scales, left = np.zeros_like(least), np.ones(least.shape, bool)
    for steps in range(15, 0, -1):
        step = (spread[left] / steps).astype(np.float16).astype(np.float32)
        q = _on_grid(blocks[left], step, least[left], 0, 15)
        exact = _is_exact(q, blocks[left], step, least[left])
        where = np.flatnonzero(left)[exact]
        scales.flat[where] = step[exact]
        left.flat[where] = False
        if not left.any():
            return _with_offsets(blocks, scales, least)
    return None


def four_bits(matrix: F32) -> Blocks:
    """Round to 4 bits between the least and the largest weight of each block."""
    blocks = in_blocks(matrix)
    least = blocks.min(-1)
    return _with_offsets(blocks, (blocks.max(-1) - least) / np.float32(15), least)


def _with_offsets(blocks: F32, scales: F32, least: F32) -> Blocks:
    q = _on_grid(blocks, scales, least, 0, 15).astype(np.uint8)
    offsets = least + 8 * scales
    return Blocks(4, q, scales, offsets if offsets.any() else None)


def _on_grid(blocks: F32, scales: F32, least: F32 | np.float32, low: int, high: int) -> F32:
    """The nearest whole numbers of steps above `least`; 0 where a block has no spread."""
    steps = np.where(scales == 0, np.float32(1), scales)[..., None]
    found: F32 = np.rint((blocks - np.asarray(least)[..., None]) / steps).clip(low, high)
    return found


def _is_exact(q: F32, blocks: F32, scales: F32, least: F32 | np.float32) -> npt.NDArray[np.bool_]:
    """Which blocks these numbers of steps give, to f32 rounding."""
    off = np.abs(q * scales[..., None] + np.asarray(least)[..., None] - blocks).max(-1)
    exact: npt.NDArray[np.bool_] = off <= EXACT * np.abs(blocks).max(-1)
    return exact
