"""`--method paper`: the fitting procedure of arXiv 2512.23407, section 3.2, as printed.

Log-domain law, Huber loss with δ = 1e-3 on residuals of log loss, L-BFGS from every point of a grid, the lowest end
wins, and it should not lie at the grid's boundary. The grid is alpha, beta in {0, 0.5, .., 2}, e in {-1, -0.5, .., 1},
a, b in {0.5, .., 25}; the steps of a and b are not printed, half a unit makes 312,500 starts. gamma, which the printed
grid does not have, starts at 0, and so does any other exponent.

Every start is searched from on its own, none is left out or merged with another. A search that gains less than 1e-10
of the objective in a step has ended (`scaling.lbfgs`). Ends whose objective is near the lowest are then taken to the
optimum itself by Newton steps, so that the fit has the same certificate as `scaling.solve`'s. Most other ends lie where
a term has vanished from all runs, from where no gradient leads back.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from scaling.certificate import certify
from scaling.coordinates import centred
from scaling.findings import Finding, listed, note, warning
from scaling.forms import Form
from scaling.lbfgs import MOST_STEPS, Ends
from scaling.newton import descend
from scaling.runs import FloatArray, Runs
from scaling.solve import Solution, objective_of
from scaling.worker import search

STEP = 0.5
"""Of all parameters in the grid."""
LIMITS = {"e": (-1.0, 1.0), "a": (0.5, 25.0), "b": (0.5, 25.0), "alpha": (0.0, 2.0), "beta": (0.0, 2.0)}
"""Of the grid, both included. Parameters that are not here start at 0."""
EXPONENT_UNIT = 0.1
"""What L-BFGS calls 1 in alpha, beta and further exponents. They stand beside logarithms of 20, and its first step
knows no curvature: parameters that matter alike save a third of the steps.
"""
NEAR = 1e-3
"""Relative distance from the lowest objective of the ends that may be the same optimum."""


def grid(form: Form, scale_step: float = STEP) -> FloatArray:
    """Starting points θ (S, p).

    Args:
        form: of the law.
        scale_step: of a and b.
    """
    axes = []
    for name in form.parameters:
        low, high = LIMITS.get(name, (0.0, 0.0))
        step = scale_step if name in ("a", "b") else STEP
        axes.append(low + step * np.arange(int((high - low) / step + 1.5)))
    points: FloatArray = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(axes))
    return points


def solve_paper(form: Form, runs: Runs, scale_step: float = STEP) -> tuple[Solution, tuple[Finding, ...]]:
    """Fit a form to runs as the paper does; with what is to be said of starts and boundary."""
    objective = objective_of(form, runs)
    unit = np.where(np.isin(form.parameters, form.exponents), EXPONENT_UNIT, 1.0)
    ends = search(replace(objective, x=objective.x * unit), grid(form, scale_step) / unit)
    near = ends.value <= (1 + NEAR) * np.nanmin(ends.value)
    found = centred(objective)
    polished = descend(found.objective, found.phi(ends.at[near] * unit))
    theta = found.theta(polished.at[[int(np.argmin(polished.curve.value))]])[0]
    certificate = certify(form.parameters, found.objective, polished, ends.value[~near])
    return Solution(theta, certificate), (_ended(ends, near), *_boundary(form, theta))


def _ended(ends: Ends, near: NDArray[np.bool_]) -> Finding:
    unfinished = int((ends.steps == MOST_STEPS).sum())
    text = f"L-BFGS from {len(near):,} starts: {near.mean():.1%} ended within {NEAR:.1%} of the lowest objective"
    if unfinished:
        text += f", {unfinished:,} were still gaining after {MOST_STEPS} steps"
    return note("paper-starts", text)


def _boundary(form: Form, theta: FloatArray) -> list[Finding]:
    outside = [
        f"{name} = {value:.4g} ({low:g} to {high:g})"
        for name, value in zip(form.parameters, theta.tolist(), strict=True)
        if name in LIMITS
        for low, high in [LIMITS[name]]
        if not low < value < high
    ]
    if not outside:
        return [note("paper-boundary", "the optimum lies inside the grid of starts")]
    text = f"the optimum lies at or beyond the boundary of the grid of starts: {listed(outside)}"
    return [warning("paper-boundary", text)]
