"""Bytes of the tensors that are alive while something runs."""

import gc
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only


def peak_tensor_bytes(work: Callable[[], object]) -> int:
    """Most bytes of tensors alive at a time while `work()` runs, those from before included.

    Counts storages as operators return them, on the calling thread; what a kernel allocates for itself is not seen.
    """
    count = _Alive()
    gc.collect()
    for found in gc.get_objects():
        if issubclass(type(found), torch.Tensor):
            count.add(found)
    with count:
        work()
    return count.peak


class _Alive(TorchDispatchMode):
    """Watches storages come and go."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self._bytes = 0
        self._known: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def add(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key not in self._known:
            self._known[key] = weakref.ref(storage, lambda _: self._drop(key, size))
            self._bytes += size
            self.peak = max(self.peak, self._bytes)

    def _drop(self, key: int, size: int) -> None:
        del self._known[key]
        self._bytes -= size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        tree_map_only(torch.Tensor, self.add, out)
        return out
