"""What a fit of the law costs, beside what is usual: on the 240 Chinchilla points (arXiv 2404.10102).

All in one run, on the same points and the same sum of Huber losses, with derivatives written out everywhere:

- `fit_s`: one certified fit (`scaling.solve`), the median of many;
- `grid_s`: SciPy's L-BFGS-B from each of 4,500 starts, as is usual since Hoffmann et al. (arXiv 2203.15556, section
  D.3), with SciPy's own stopping rule; `speedup_vs_grid` is their ratio. `grid_success` is the share of starts that
  report success, `grid_near` the share that ended within 0.1% of the lowest objective;
- `bootstrap_s`: 4,000 bootstraps, each a full fit;
- `paper_grid_s`: the procedure of arXiv 2512.23407 from 312,500 starts (`scaling.paper`), every one searched from, and
  the objective that it finds.
"""

import statistics
import time
from dataclasses import asdict, dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks import public, report

if TYPE_CHECKING:
    from scaling.runs import FloatArray, Runs

NEAR = 1e-3


@dataclass(frozen=True)
class Size:
    """How much is done."""

    fits: int = 50
    grid_step: float = 5.0
    """Of log A and log B from 0 to 25 in SciPy's grid: 4,500 starts."""
    draws: int = 4000
    paper_step: float = 0.5
    """Of a and b from 0.5 to 25: 312,500 starts."""


def measure(size: Size = Size()) -> dict[str, Any]:
    """All figures."""
    from scaling.bootstrap import bootstrap
    from scaling.forms import DENSE
    from scaling.paper import grid, solve_paper
    from scaling.solve import objective_of, solve

    runs = public.chinchilla()
    fit_s, solution = _timed(lambda: solve(DENSE, runs), size.fits)
    objective = objective_of(DENSE, runs)
    bootstrap_s, draws = _timed(lambda: bootstrap(objective, solution.theta, runs.cluster, size.draws))
    paper_s, (paper, _) = _timed(lambda: solve_paper(DENSE, runs, size.paper_step))
    grid_s, usual = _timed(lambda: _scipy_grid(runs, size.grid_step))
    natural, exponents = DENSE.natural(draws), draws[:, 3:]
    errors = [*natural[:, [0, 3, 4]].std(axis=0), (exponents[:, 1] / exponents.sum(axis=1)).std()]
    return {
        "size": asdict(size),
        "numpy": np.__version__,
        "points": len(runs),
        "objective": solution.certificate.objective,
        "certified": solution.certificate.certified,
        "parameters": dict(zip(DENSE.natural_names, DENSE.natural(solution.theta).tolist(), strict=True)),
        "standard_errors": dict(zip(("E", "alpha", "beta", "beta/(alpha+beta)"), map(float, errors), strict=True)),
        "speedup_vs_grid": round(grid_s / fit_s),
        "bootstrap_s": round(bootstrap_s, 2),
        "paper_grid_s": round(paper_s, 1),
        "fit_s": round(fit_s, 5),
        "grid_s": round(grid_s, 1),
        **usual,
        "paper_starts": len(grid(DENSE, size.paper_step)),
        "paper_agree": paper.certificate.agree,
        "paper_objective": paper.certificate.objective,
    }


def table(result: dict[str, Any]) -> str:
    """The figures as a Markdown table."""
    rows = [
        ("one certified fit", result["fit_s"], result["objective"]),
        (f"SciPy's L-BFGS-B from {result['grid_starts']} starts", result["grid_s"], result["grid_objective"]),
        (f"paper's grid, {result['paper_starts']} starts", result["paper_grid_s"], result["paper_objective"]),
        (f"{result['size']['draws']} bootstraps", result["bootstrap_s"], None),
    ]
    lines = ["| | seconds | objective |", "|---|---|---|"]
    lines += [f"| {name} | {seconds} | {'' if value is None else f'{value:.13g}'} |" for name, seconds, value in rows]
    near = f"of SciPy's starts {result['grid_success']:.1%} report success and {result['grid_near']:.1%} are near it"
    return "\n".join(lines) + f"\n\na certified fit is {result['speedup_vs_grid']} times faster than the grid; {near}\n"


def _timed(work: Any, times: int = 1) -> tuple[float, Any]:
    """Median seconds, and the last result."""
    seconds, result = [], None
    for _ in range(times):
        start = time.perf_counter()
        result = work()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds), result


def _scipy_grid(runs: "Runs", step: float) -> dict[str, Any]:
    """L-BFGS-B from every start, one after the other, as its users call it."""
    from scipy.optimize import minimize

    log_n, log_d, log_loss = np.log(runs.n), np.log(runs.d), np.log(runs.loss)
    delta = 1e-3

    def objective(theta: "FloatArray") -> "tuple[float, FloatArray]":
        e, a, b, alpha, beta = theta
        of_n, of_d = a - alpha * log_n, b - beta * log_d
        top = np.maximum(np.maximum(of_n, of_d), e)
        of_e, of_n, of_d = np.exp(e - top), np.exp(of_n - top), np.exp(of_d - top)
        total = of_e + of_n + of_d
        residual = np.log(total) + top - log_loss
        pull = np.clip(residual, -delta, delta)
        value = float((pull * (residual - 0.5 * pull)).sum())
        pull /= total
        of_n *= pull
        of_d *= pull
        return value, np.array([pull @ of_e, of_n.sum(), of_d.sum(), -(of_n @ log_n), -(of_d @ log_d)])

    halves, scales = np.arange(5) / 2, np.arange(0, 25.1, step)
    starts = product(halves - 1, scales, scales, halves, halves)
    found = [minimize(objective, np.array(start), jac=True, method="L-BFGS-B") for start in starts]
    values = np.array([end.fun for end in found])
    return {
        "grid_starts": len(found),
        "grid_objective": float(values.min()),
        "grid_success": float(np.mean([bool(end.success) for end in found])),
        "grid_near": float((values <= (1 + NEAR) * values.min()).mean()),
    }


if __name__ == "__main__":
    report.main("fit", __doc__, measure, table)
