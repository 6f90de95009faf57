"""The certified fit: Newton from several starts, and what there is to say about where they ended.

An optimizer's success flag says that it stopped. The certificate says that this is an optimum (gradient at rounding
level, Hessian positive definite), that the runs determine it (no direction in which the predictions do not change, no
term that has vanished), and that other starts end there too, or where else they end.
"""

from dataclasses import dataclass
from itertools import product

import numpy as np

from scaling.certificate import Certificate, certify
from scaling.coordinates import centred
from scaling.forms import Form
from scaling.newton import descend
from scaling.objective import Objective
from scaling.runs import FloatArray, Runs

FIRST_EXPONENTS = (0.1, 0.25, 0.5, 1.0)
"""Of N and of D, all pairs; further exponents start at 0, where they change nothing."""
FIRST_STEPS = 5
"""From every start."""
SEARCHES = 8
"""How many then go on to their end: those with the lowest objective."""
ROUNDS = 40
"""Of the least squares that gives a start its intercepts."""


@dataclass(frozen=True, eq=False)
class Solution:
    """A fitted θ and how far it can be trusted."""

    theta: FloatArray
    """(p,)"""
    certificate: Certificate


def objective_of(form: Form, runs: Runs) -> Objective:
    """What a fit of the form to the runs minimizes."""
    return Objective(form.design(runs), np.log(runs.loss))


def solve(form: Form, runs: Runs) -> Solution:
    """Fit a form to runs: the lowest of all ends, with its certificate."""
    objective = objective_of(form, runs)
    found = centred(objective)
    begun = descend(found.objective, found.phi(starts(objective, form.decays)), most=FIRST_STEPS)
    best = np.argsort(begun.curve.value, kind="stable")[:SEARCHES]
    ends = descend(found.objective, begun.at[best])
    lowest = int(np.argmin(ends.curve.value))
    return Solution(found.theta(ends.at[[lowest]])[0], certify(form.parameters, found.objective, ends))


def starts(objective: Objective, decays: tuple[int, int]) -> FloatArray:
    """Starting points θ (S, p): exponents at the places `decays`, each with the intercepts that fit the losses best.

    Given the exponents, L̂ is linear in E, A and B: least squares of L̂ / L - 1 by multiplicative updates (Lee and Seung,
    2001), which keep them positive.
    """
    terms, _, p = objective.x.shape
    places = sorted(set(decays))
    theta = np.zeros((len(FIRST_EXPONENTS) ** len(places), p))
    theta[:, places] = list(product(FIRST_EXPONENTS, repeat=len(places)))
    logs = np.einsum("knp,sp->skn", objective.x, theta) - objective.y
    highest = logs.max(axis=2)
    basis = np.exp(logs - highest[:, :, None])
    gram = np.einsum("skn,sln->skl", basis, basis)
    wanted = basis.sum(axis=2)
    scale = 1 / (terms * basis.mean(axis=2))
    for _ in range(ROUNDS):
        scale *= wanted / np.einsum("skl,sl->sk", gram, scale)
    theta[:, :terms] = np.log(scale) - highest
    return theta
