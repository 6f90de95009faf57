"""Runs that a law made, files of them, and the public data sets where they are there."""

import csv
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scaling.forms import FULL
from scaling.runs import FloatArray, Runs, make_runs

ROOT = Path(__file__).resolve().parents[2]
TRUTH = np.array([np.log(1.7), np.log(400.0), np.log(2000.0), 0.34, 0.36, 0.05])
"""θ of the full form: e, a, b, alpha, beta, gamma."""


def real(name: str) -> Path:
    """A file of `$FAMILIAL_DATA` or `../shared/data`; the test is skipped where it is not there."""
    path = Path(os.environ.get("FAMILIAL_DATA", ROOT.parent / "shared" / "data")) / "scaling" / name
    if not path.is_file():
        pytest.skip(f"{path} is not there; set FAMILIAL_DATA to a folder that holds scaling/{name}")
    return path


def losses(n: FloatArray, d: FloatArray, g: FloatArray, theta: FloatArray = TRUTH) -> FloatArray:
    """What the full form gives."""
    made = make_runs(n, d, np.ones(len(n)), g)
    loss: FloatArray = np.exp(FULL.design(made) @ theta).sum(axis=0)
    return loss


def grid_runs(noise: float = 0.003, seed: int = 0, theta: FloatArray = TRUTH) -> Runs:
    """120 runs on a design that identifies everything: six N, five D, G of 1, 2, 3 and 4."""
    n, d, g = (
        a.ravel() for a in np.meshgrid(np.geomspace(1e7, 3e9, 6), np.geomspace(1e9, 3e11, 5), [1.0, 2.0, 3.0, 4.0])
    )
    rng = np.random.default_rng(seed)
    return make_runs(n, d, losses(n, d, g, theta) * np.exp(noise * rng.standard_normal(len(n))), g)


def write_csv(path: Path, columns: Mapping[str, Sequence[Any] | FloatArray]) -> Path:
    """A table with these columns."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    return path
