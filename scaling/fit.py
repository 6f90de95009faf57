"""From runs to a law: checked, fitted, certified, bootstrapped."""

import numpy as np

from scaling.bootstrap import bootstrap
from scaling.certificate import LEAST_CURVATURE
from scaling.check import check_runs
from scaling.choices import BOOTSTRAPS, METHODS
from scaling.coordinates import centred
from scaling.diagnose import diagnose, robust_sigma
from scaling.errors import ScalingError
from scaling.findings import Finding, listed, warning
from scaling.forms import FORMS
from scaling.law import FittedLaw, data_of
from scaling.objective import Objective
from scaling.paper import solve_paper
from scaling.runs import FloatArray, IntArray, Runs
from scaling.solve import Solution, objective_of, solve

ENOUGH_DRAWS = 200
"""Ten beyond each end of a 90% interval."""


def fit(
    runs: Runs, form: str | None = None, method: str = "certified", bootstraps: int = BOOTSTRAPS, seed: int = 0
) -> FittedLaw:
    """Fit a form of the law to runs.

    Args:
        runs: what to fit to; `scaling.read.read_runs` or `scaling.runs.make_runs` make them.
        form: a name in `scaling.forms.FORMS`; without it `full` where G varies, else `dense`.
        method: `certified` (`scaling.solve`), or `paper`, the grid and L-BFGS of arXiv 2512.23407 (`scaling.paper`).
        bootstraps: how many times the runs are drawn again, for intervals; 0 leaves the covariance to first order. One
            alone has no spread, and is refused.
        seed: of the drawing.

    Returns:
        The law. What speaks against it is in its `findings`, and makes `trusted` false.

    Raises:
        ScalingError: the form or method is unknown, a number is impossible, or the runs cannot tell its parameters.
    """
    if form is None:
        form = "full" if len(np.unique(runs.g)) > 1 else "dense"
    if form not in FORMS:
        raise ScalingError(f"there is no form {form!r}; choose one of {listed(tuple(FORMS))}")
    if method not in METHODS:
        raise ScalingError(f"there is no method {method!r}; choose one of {listed(METHODS)}")
    if bootstraps < 0 or bootstraps == 1 or seed < 0:
        raise ScalingError(f"expected 0 or at least 2 bootstraps and a seed from 0 on, got {bootstraps} and {seed}")
    chosen = FORMS[form]
    before = check_runs(runs, chosen)
    of_method: tuple[Finding, ...] = ()
    if method == "paper":
        solution, of_method = solve_paper(chosen, runs)
    else:
        solution = solve(chosen, runs)
    objective = objective_of(chosen, runs)
    covariance = first_order(objective, solution, runs.cluster)
    draws = bootstrap(objective, solution.theta, runs.cluster, bootstraps, seed)
    return FittedLaw(
        form=chosen,
        method=method,
        theta=solution.theta,
        covariance=covariance,
        draws=draws,
        seed=seed,
        objective=solution.certificate.objective,
        sigma=robust_sigma(objective.residuals(solution.theta[None])[0]),
        conventions=runs.conventions,
        certificate=solution.certificate,
        data=data_of(runs),
        findings=(
            *runs.findings,
            *before,
            *of_method,
            *solution.certificate.problems,
            *diagnose(runs, chosen, solution.theta, covariance, draws),
            *_few_draws(bootstraps),
        ),
    )


def _few_draws(count: int) -> list[Finding]:
    if not 0 < count < ENOUGH_DRAWS:
        return []
    text = f"{count} bootstraps hold few draws beyond an interval's ends; {ENOUGH_DRAWS} or more place them"
    return [warning("few-draws", text)]


def first_order(objective: Objective, solution: Solution, cluster: IntArray) -> FloatArray | None:
    """Covariance (p, p) of θ: H⁻¹ (Σ_runs s sᵀ) H⁻¹ with s a run's gradient (Huber, 1967); None where H has no inverse.

    Only the runs within δ make H, so it is rougher than the bootstrap where these are few.
    """
    if solution.certificate.flat or solution.certificate.curvature < LEAST_CURVATURE:
        return None
    found = centred(objective)
    at = found.phi(solution.theta[None])
    pull = np.clip(found.objective.residuals(at)[0], -objective.delta, objective.delta)
    scores = pull[:, None] * found.objective.jacobian(at)[0]
    _, of_row = np.unique(cluster, return_inverse=True)
    of_run = np.zeros((of_row.max() + 1, scores.shape[1]))
    np.add.at(of_run, of_row, scores)
    spread = np.linalg.solve(found.objective.curve(at).hessian[0], of_run.T)
    covariance: FloatArray = found.to_theta @ (spread @ spread.T) @ found.to_theta.T
    return covariance
