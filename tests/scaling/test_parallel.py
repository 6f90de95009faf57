"""Tasks are done in order, and taken only when their turn is near."""

import os
from collections.abc import Iterator

import pytest

from scaling.parallel import each


def test_results_are_in_the_order_of_the_tasks_and_few_tasks_are_made_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    done: list[int] = []
    ahead: list[int] = []

    def tasks() -> Iterator[int]:
        for number in range(50):
            ahead.append(number - len(done))
            yield number

    def work(number: int) -> int:
        done.append(number)
        return number**2

    assert each(work, tasks()) == [number**2 for number in range(50)]
    assert max(ahead) <= 3, "two under way and one whose turn is next"


def test_the_error_of_a_task_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        each(lambda number: 1 // number, [2, 1, 0, 3])
