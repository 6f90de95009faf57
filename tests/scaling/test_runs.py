"""Runs from arrays: whatever NumPy takes, or an error that says what does not fit."""

from typing import Any

import numpy as np
import pytest

from scaling.errors import ScalingError
from scaling.runs import Conventions, make_runs

N, D, LOSS = [1e6, 2e6, 4e6], [1e9, 2e9, 3e9], [3.0, 2.5, 2.25]


def test_lists_and_single_numbers_are_arrays_of_all_runs() -> None:
    runs = make_runs(N, 1e9, LOSS, g=2)
    assert runs.n.tolist() == N and runs.d.tolist() == [1e9] * 3 and runs.g.tolist() == [2] * 3
    assert runs.c.tolist() == [6e9 * n for n in N] and runs.conventions == Conventions("total", "6ND")
    given = make_runs(1e6, 1e9, 3.0, c=7e15)
    assert len(given) == 1 and given.c.tolist() == [7e15] and given.conventions.compute == "given"


def test_arrays_are_copied() -> None:
    n = np.array(N)
    runs = make_runs(n, D, LOSS)
    n[0] = 7
    assert runs.n.tolist() == N


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"d": D[:2]}, r"arrays of one length: .*\(3,\).*\(2,\)"),
        ({"loss": LOSS[:2]}, "arrays of one length"),
        ({"g": [1, 2]}, "arrays of one length"),
        ({"c": [1e15, 1e16]}, "arrays of one length"),
        ({"n": ["a", "b", "c"]}, "expected numbers, .*could not convert string to float: 'a'"),
        ({"n": [N], "d": [D], "loss": [LOSS]}, r"one number for each run, got the shape \(1, 3\)"),
    ],
)
def test_what_is_no_run_for_each_number_is_refused(arguments: dict[str, Any], problem: str) -> None:
    with pytest.raises(ScalingError, match=problem):
        make_runs(**{"n": N, "d": D, "loss": LOSS, **arguments})


def test_there_are_no_other_conventions() -> None:
    with pytest.raises(ScalingError, match="params is one of total, non-embedding, compute one of given, 6ND"):
        Conventions("all")  # type: ignore[arg-type]
