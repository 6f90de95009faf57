"""bf16: the upper half of an f32, rounded to nearest, ties to even. Pure."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

MOST = np.uint32(0x7F7F)
"""The bits of the largest number, about 3.39e38; larger ones of f32 become this, not infinite."""
_SIGN = np.uint32(0x8000)


def rounded(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """The bits of finite numbers, of any shape."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    upper = (bits + (np.uint32(0x7FFF) + (bits >> 16 & 1))) >> 16
    within: NDArray[np.uint32] = np.minimum(upper & ~_SIGN, MOST) | upper & _SIGN
    return within.astype(np.uint16)


def widened(bits: NDArray[Any]) -> NDArray[np.float32]:
    """The numbers that the bits stand for."""
    return (bits.astype(np.uint32) << 16).view(np.float32)
