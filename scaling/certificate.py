"""What is known of an optimum: is it one, do the runs determine it, and where did other starts end."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from scaling.findings import Finding, listed, warning
from scaling.newton import Minima
from scaling.objective import Objective
from scaling.runs import FloatArray

LARGEST_GRADIENT = 1e-9
"""Of `Certificate.gradient`, for an optimum."""
LEAST_CURVATURE = 1e-10
"""Of `Certificate.curvature`, for a minimum that is a point."""
LEAST_IDENTIFIED = 1e-7
"""Of a singular value of the Jacobian over the largest, for a direction that the runs see."""
LEAST_SHARE = 1e-6
"""Of L̂ in some run, for a term that is there."""
IN_DIRECTION = 0.1
"""From which size on a parameter is named as part of a unit vector."""
SAME_VALUE, SAME_PLACE = 1e-9, 1e-5
"""How near another end is the same: relative in the objective, absolute in centred coordinates."""
APART = 1e-3
"""Relative, between objectives that are listed."""
MOST_ELSEWHERE = 8
ROUNDING = 1e-26
"""Of the objective, per run: all that is left where a law fits to the last digit."""


@dataclass(frozen=True)
class Certificate:
    """Facts about the best of several searches; all measured, none an optimizer's word."""

    objective: float
    """The sum of Huber losses."""
    gradient: float
    """The largest |gradient_j| over δ Σ_i |J_ij|, which it is if all runs pull one way; in centred coordinates."""
    curvature: float
    """The Hessian's smallest eigenvalue over its largest if all runs were within δ; in centred coordinates."""
    within: int
    """Runs within δ, in the quadratic zone: they hold the optimum in place, the others pull with constant force."""
    identified: float
    """The smallest singular value of the Jacobian of all runs over the largest, in centred coordinates."""
    flat: tuple[str, ...]
    """By direction in which no run's prediction changes, its parameters: `alpha`, `e a`."""
    vanished: tuple[str, ...]
    """Terms that are nothing in every run, by their intercept."""
    starts: int
    """How many searches there were."""
    agree: int
    """How many ended here."""
    ties: int
    """How many ended elsewhere with the same objective."""
    elsewhere: tuple[float, ...]
    """At which objectives the others ended: the lowest, ascending, each once."""

    @property
    def certified(self) -> bool:
        """Whether nothing speaks against the optimum."""
        return not self.problems

    @property
    def problems(self) -> tuple[Finding, ...]:
        """What speaks against it."""
        return tuple(_problems(self))


def certify(
    parameters: Sequence[str], objective: Objective, ends: Minima, others: FloatArray | None = None
) -> Certificate:
    """The certificate of the lowest of several ends, all in the same centred coordinates.

    Args:
        parameters: names.
        objective: what was minimized.
        ends: of the searches.
        others: objectives at which further searches ended, none near the lowest.
    """
    values = ends.curve.value
    best = int(np.argmin(values))
    same = values - values[best] <= SAME_VALUE * values[best] + ROUNDING * len(objective.y)
    near = np.abs(ends.at - ends.at[best]).max(axis=1) <= SAME_PLACE
    at = ends.at[[best]]
    residuals, jacobian = objective.residuals(at)[0], objective.jacobian(at)[0]
    _, singular, directions = np.linalg.svd(jacobian, full_matrices=False)
    share = objective.shares(at)[:, 0].max(axis=1)
    vanished = [name for name, most in zip(parameters, share, strict=False) if most < LEAST_SHARE]
    unseen = directions[singular <= LEAST_IDENTIFIED * singular[0]]
    return Certificate(
        objective=float(values[best]),
        gradient=_pull(objective, ends.curve.gradient[best], jacobian),
        curvature=float(np.linalg.eigvalsh(ends.curve.hessian[best])[0] / singular[0] ** 2),
        within=int((np.abs(residuals) <= objective.delta).sum()),
        identified=float(singular[-1] / singular[0]),
        flat=tuple(_names(parameters, direction) for direction in unseen),
        vanished=tuple(vanished),
        starts=len(values) + (0 if others is None else len(others)),
        agree=int((same & near).sum()),
        ties=int((same & ~near).sum()),
        elsewhere=_apart(values[~same] if others is None else np.concatenate([values[~same], others])),
    )


def _pull(objective: Objective, gradient: FloatArray, jacobian: FloatArray) -> float:
    most = objective.delta * np.abs(jacobian).sum(axis=0)
    return float((np.abs(gradient[most > 0]) / most[most > 0]).max())


def _apart(values: FloatArray) -> tuple[float, ...]:
    """The lowest values that differ."""
    kept: list[float] = []
    for value in np.sort(values[np.isfinite(values)]).tolist():
        if not kept or value - kept[-1] > APART * value:
            kept.append(value)
        if len(kept) == MOST_ELSEWHERE:
            break
    return tuple(kept)


def _names(parameters: Sequence[str], direction: FloatArray) -> str:
    return " ".join(name for name, size in zip(parameters, direction, strict=True) if abs(size) > IN_DIRECTION)


def _problems(found: Certificate) -> Iterator[Finding]:
    if found.flat:
        directions = "; ".join(f"({names})" for names in found.flat)
        yield warning(
            "flat",
            f"the runs do not determine {directions}: no prediction changes along it, so where on it the law lies is "
            "arbitrary; add runs that vary what these parameters multiply, or fit a form without them",
        )
    if found.vanished:
        text = f"the term of {listed(found.vanished)} is nothing in every run, so it and its exponent mean nothing"
        yield warning("vanished", text)
    if found.gradient > LARGEST_GRADIENT:
        text = f"the gradient is {found.gradient:.1e} of the largest that it can be: this is no optimum"
        yield warning("no-optimum", text)
    if found.flat:
        return
    if found.curvature < LEAST_CURVATURE:
        text = (
            f"the objective's curvature is {found.curvature:.1e} of what runs within δ give it, and {found.within} are "
            "within: the minimum is no point, and other laws fit as well"
        )
        yield warning("no-minimum", text)
    if found.ties:
        text = f"{found.ties} of {found.starts} starts end in another law with the same objective: the runs fit both"
        yield warning("ties", text)
    if found.elsewhere and found.agree == 1:
        text = f"only one of {found.starts} starts ends here; the next best ends at {found.elsewhere[0]:.10g}"
        yield warning("alone", text)
