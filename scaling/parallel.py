"""A batch in parts, on all cores: NumPy lets go of the interpreter while it works."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def in_parts(work: Callable[[slice], T], count: int, size: int) -> list[T]:
    """`work` on slices of `size` out of `count`, several at a time; results in order."""
    parts = [slice(start, min(start + size, count)) for start in range(0, count, size)]
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        return list(pool.map(work, parts))
