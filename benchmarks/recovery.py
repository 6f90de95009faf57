"""Whether the intervals of a fit are honest: simulate runs of a known law, fit them, count what the intervals cover.

The truth is the paper's eq. 2 (arXiv 2512.23407): E 1.18, A 408.69, alpha 0.3006, B 3120.14, beta 0.3514, gamma 0.041.
Each data set has 0.3% of normal noise on its losses and is fitted as `fit-law` fits. Two designs:

- `grid`: 90 runs, six N from 1e7 to 1e10, five D from 1e9 to 1e12, each at G = 1, 2 and 4: it identifies the law;
- `paper`: the models of the paper's Tables 1 and 2 (`training.presets`: four dense, 1B to 4B, and three families), at
  eight budgets from 1e20 to 1e21 FLOPs, D from each model's exact FLOPs per token with every head counted: 56 runs.
  The paper says over 50, and not which budgets. N spans a factor of four.

`coverage` is the share of the data sets whose 90% interval holds the truth. N* is the best size for the budget in the
middle of the design, 6ND, at G = 1. Every data set is kept in `OUT/DESIGN.json`, rewritten as the work goes on: the
same command does what is left.
"""

import math
from argparse import ArgumentParser
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks import report
from family.cli import positive
from family.errors import FamilialError
from family.files import write_atomic
from family.strict import FieldError, canonical, from_json

if TYPE_CHECKING:
    from scaling.law import FittedLaw
    from scaling.runs import FloatArray, Runs

OUT = report.ROOT / "experiments" / "recovery"
TRUTH = {"E": 1.18, "A": 408.69, "B": 3120.14, "alpha": 0.3006, "beta": 0.3514, "gamma": 0.041}
"""Eq. 2."""
BUDGETS = {"grid": 1e20, "paper": 10**20.5}
"""C of N*."""
NOISE = 0.003
INTERVALS = "bias-corrected percentiles"
"""`scaling.quantiles`: data sets whose intervals were made in another way are not added to."""
CONTEXT = 4096
"""Tokens of a window in the paper's design, which it does not say."""
AT_ONCE = 20
"""Data sets between two writings of the file."""
DIGITS = 6


@dataclass(frozen=True)
class Recovery:
    """Data sets of one design, each simulated and fitted."""

    design: str
    noise: float
    """Standard deviation of log L."""
    draws: int
    """Bootstraps of each."""
    level: float
    runs: int
    """In a data set."""
    intervals: str
    """How they are made."""
    quantities: tuple[str, ...]
    truth: tuple[float, ...]
    sets: tuple[tuple[tuple[float, ...], ...], ...]
    """By data set (its number is the seed) and quantity: estimate, low, high."""


def simulated(design: str, noise: float, seed: int) -> "Runs":
    """One data set. Raises `KeyError` for another design."""
    from scaling.forms import FULL
    from scaling.runs import make_runs

    n, d, g = {"grid": _grid, "paper": _paper}[design]()
    points = make_runs(n, d, np.ones(len(n)), g)
    exact = np.exp(FULL.design(points) @ _theta()).sum(axis=0)
    return replace(points, loss=exact * np.exp(noise * np.random.default_rng(seed).standard_normal(len(n))))


def recover(task: Recovery, count: int, path: Path) -> Recovery:
    """Simulate and fit until there are `count` data sets; the file is rewritten every few."""
    if path.is_file():
        task = _resumed(task, path)
    while len(task.sets) < count:
        numbers = range(len(task.sets), min(len(task.sets) + AT_ONCE, count))
        task = replace(task, sets=(*task.sets, *(_one(task, number) for number in numbers)))
        write_atomic(path, canonical(task) + b"\n")
    return task


def summary(task: Recovery) -> dict[str, Any]:
    """By quantity: truth, median and spread of the estimates, median interval, and coverage with its standard error."""
    found = np.array(task.sets)  # (sets, quantities, 3)
    truth = np.array(task.truth)
    covered = ((found[:, :, 1] <= truth) & (truth <= found[:, :, 2])).mean(axis=0)
    medians, spread = np.median(found, axis=0), found[:, :, 0].std(axis=0)
    return {
        name: {
            "truth": task.truth[j],
            "median": float(medians[j, 0]),
            "sd": float(spread[j]),
            "median_low": float(medians[j, 1]),
            "median_high": float(medians[j, 2]),
            "coverage": round(float(covered[j]), 4),
            "coverage_se": round(math.sqrt(covered[j] * (1 - covered[j]) / len(found)), 4),
        }
        for j, name in enumerate(task.quantities)
    }


def table(result: dict[str, Any]) -> str:
    """The summary as a Markdown table."""
    lines = [
        f"{result['design']}: {result['sets']} data sets of {result['runs']} runs, noise {result['noise']:.1%}, "
        f"{result['draws']} bootstraps each, intervals of {result['level']:.0%}\n",
        "| | truth | median estimate | median interval | coverage |",
        "|---|---|---|---|---|",
    ]
    for name, of in result["quantities"].items():
        interval = f"{of['median_low']:.4g} to {of['median_high']:.4g}"
        covered = f"{of['coverage']:.1%} ± {of['coverage_se']:.1%}"
        lines.append(f"| {name} | {of['truth']:.5g} | {of['median']:.4g} | {interval} | {covered} |")
    return "\n".join(lines) + "\n"


def _resumed(task: Recovery, path: Path) -> Recovery:
    import json

    try:
        kept = from_json(Recovery, json.loads(path.read_text(encoding="utf-8")))
    except (FieldError, ValueError) as error:
        raise FamilialError(f"{path}: {error}; move it away to begin anew") from None
    if replace(kept, sets=()) != task:
        raise FamilialError(f"{path} has data sets of another kind (noise, truth, bootstraps, intervals); move it away")
    return kept


def _one(task: Recovery, number: int) -> tuple[tuple[float, ...], ...]:
    from scaling.fit import fit

    law = fit(simulated(task.design, task.noise, number), "full", bootstraps=task.draws, seed=number)
    return tuple(tuple(_short(value) for value in row) for row in _intervals(law, task))


def _intervals(law: "FittedLaw", task: Recovery) -> list[tuple[float, float, float]]:
    """Estimate, low and high of each quantity."""
    from scaling.frontier import optimum, surface
    from scaling.intervals import interval

    found = {of.name: (of.value, of.low, of.high) for of in law.estimates(task.level)}
    budget = BUDGETS[task.design]
    size = interval(law, lambda theta: optimum(surface(law.form, theta), budget).n[:, 0], task.level)
    found["N*"] = (float(size.value), float(size.low), float(size.high))
    return [found[name] for name in task.quantities]


def _short(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


def _theta() -> "FloatArray":
    scales = [math.log(TRUTH[name]) for name in ("E", "A", "B")]
    return np.array([*scales, *(TRUTH[name] for name in ("alpha", "beta", "gamma"))])


def _truth(design: str) -> dict[str, float]:
    from scaling.forms import FULL
    from scaling.frontier import optimum, surface

    best = optimum(surface(FULL, _theta()[None]), BUDGETS[design])
    return {**TRUTH, "N*": _short(float(best.n[0, 0]))}


def _grid() -> "tuple[FloatArray, FloatArray, FloatArray]":
    axes = np.meshgrid(np.geomspace(1e7, 1e10, 6), np.geomspace(1e9, 1e12, 5), np.array([1.0, 2.0, 4.0]))
    n, d, g = (axis.ravel() for axis in axes)
    return n, d, g


def _paper() -> "tuple[FloatArray, FloatArray, FloatArray]":
    from training.flops import parameters, tokens_for
    from training.presets import PRESETS

    shapes = [shape for name, shape in PRESETS.items() if name.startswith(("dense-", "family-"))]
    points = [
        (parameters(shape).total, tokens_for(budget, shape, CONTEXT), shape.granularity)
        for budget in np.geomspace(1e20, 1e21, 8)
        for shape in shapes
    ]
    n, d, g = np.array(points, float).T
    return n, d, g


def _parser() -> ArgumentParser:
    parser = report.parser("recovery", __doc__)
    parser.add_argument("--design", choices=tuple(BUDGETS), default="grid", help="which runs (default %(default)s)")
    parser.add_argument("--sets", type=positive, default=1000, help="data sets (default %(default)s)")
    parser.add_argument("--draws", type=positive, default=1000, help="bootstraps of each (default %(default)s)")
    parser.add_argument("--out", type=Path, default=OUT, metavar="DIR", help="folder (default experiments/recovery)")
    return parser


def _measure(design: str, sets: int, draws: int, out: Path) -> dict[str, Any]:
    truth = _truth(design)
    size = len(simulated(design, 0.0, 0))
    task = Recovery(
        design=design,
        noise=NOISE,
        draws=draws,
        level=0.9,
        runs=size,
        intervals=INTERVALS,
        quantities=tuple(truth),
        truth=tuple(truth.values()),
        sets=(),
    )
    done = recover(task, sets, out / f"{design}.json")
    facts = {name: value for name, value in asdict(done).items() if name not in ("quantities", "truth", "sets")}
    return {**facts, "sets": len(done.sets), "quantities": summary(done)}


if __name__ == "__main__":
    options = _parser().parse_args()
    report.publish(
        "recovery",
        options,
        lambda: _measure(options.design, options.sets, options.draws, options.out),
        table,
    )
