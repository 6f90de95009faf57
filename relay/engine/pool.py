"""Keys and values of a graph's sessions: one slot for each, side by side, so that one call reads those of many.

Address space is reserved for all slots at the start; memory is taken by the system only where a position was written,
and given back when a slot is free.
"""

import heapq
import math
import mmap
import sys
import weakref
from functools import lru_cache

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from family.graphs import past_names, present_names
from family.spec import FamilySpec
from relay.batch import MOST_ROWS
from relay.errors import BusyError

F32 = np.dtype(np.float32)
CPU = "cpu"
_RANGES = 128
"""Bindings that are kept; those of one session alone are used again for each of its tokens."""


def position_bytes(kv_layers: int, spec: FamilySpec) -> int:
    """Memory of one position's keys and values."""
    return kv_layers * 2 * spec.kv_heads * spec.head_dim * F32.itemsize


class KvPool:
    """The slots of one graph. A slot holds the context, a call's rows beyond it, and the dummy."""

    def __init__(self, session: ort.InferenceSession, kv_layers: int, spec: FamilySpec, slots: int) -> None:
        self._session = session
        self._free = list(range(slots))
        positions = spec.context + MOST_ROWS + 1
        positions += -positions % (mmap.PAGESIZE // F32.itemsize)  # a slot begins at a page
        self._shape = (spec.kv_heads, positions, spec.head_dim)
        count = kv_layers * 2 * slots * math.prod(self._shape)
        self._pages = _reserve(count * F32.itemsize) if count else None
        """Kept: bindings hold pointers into it."""
        self._buffers: NDArray[np.float32] = np.frombuffer(self._pages or b"", F32).reshape(
            kv_layers, 2, slots, *self._shape
        )
        self.binding = lru_cache(_RANGES)(self._bind)
        """The graph bound to the keys and values of the slots first..stop - 1."""

    def take(self, owner: object) -> int:
        """The lowest free slot, until `owner` is gone. Low ones lie close together, and a call binds all between."""
        if not self._free:
            raise BusyError("every slot for keys and values is taken; try again later, or raise --max-sessions")
        slot = heapq.heappop(self._free)
        weakref.finalize(owner, self._release, slot).atexit = False
        return slot

    def _release(self, slot: int) -> None:
        if self._pages is not None and hasattr(mmap, "MADV_DONTNEED"):
            layers, sides, slots, *_ = self._buffers.shape
            size = math.prod(self._shape) * F32.itemsize
            for i in range(layers * sides):
                self._pages.madvise(mmap.MADV_DONTNEED, (i * slots + slot) * size, size)
        heapq.heappush(self._free, slot)

    def _bind(self, first: int, stop: int) -> ort.IOBinding:
        binding = self._session.io_binding()
        shape = (stop - first, *self._shape)
        for layer, sides in enumerate(self._buffers):
            for past, present, buffer in zip(past_names(layer), present_names(layer), sides, strict=True):
                pointer = buffer[first].ctypes.data
                binding.bind_input(past, CPU, 0, np.float32, shape, pointer)
                binding.bind_output(present, CPU, 0, np.float32, shape, pointer)
        return binding


def _reserve(size: int) -> mmap.mmap:
    """Address space without memory. Not `np.empty`, which asks for huge pages: one position of every head would then
    cost two megabytes.
    """
    if not hasattr(mmap, "MAP_ANONYMOUS"):
        return mmap.mmap(-1, size)
    unreserved = 0x4000 if sys.platform == "linux" else 0  # MAP_NORESERVE, which Python names from 3.13 on
    pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | unreserved)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        pages.madvise(mmap.MADV_NOHUGEPAGE)
    return pages
