"""Work on many tasks with all cores: NumPy lets go of the interpreter while it works."""

import os
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def each(work: Callable[[T], R], tasks: Iterable[T]) -> list[R]:
    """`work` on every task, several at a time; results in order.

    A task is taken from `tasks` when its turn is near: so few are in memory, and Ctrl-C waits for few.
    """
    cores = os.cpu_count() or 1
    results: list[R] = []
    with ThreadPoolExecutor(cores) as pool:
        under_way: deque[Future[R]] = deque()
        for task in tasks:
            under_way.append(pool.submit(work, task))
            if len(under_way) > cores:
                results.append(under_way.popleft().result())
        results += [future.result() for future in under_way]
    return results
