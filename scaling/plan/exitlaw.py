"""The law as the planner reads it: the loss of one exit, by N, D, its layer and its own size.

A law of exits (`M0` to `M3`) says it itself. A law of dense models is read as M0: an exit is a dense model of its own
size that saw the same tokens. That counts the truncation and not the interference of other exits. A law of a family's
mean loss (`full`, `reducible`) says nothing of one exit, and is refused.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path

import numpy as np

from scaling.errors import ScalingError
from scaling.findings import Finding, note, warning
from scaling.forms import M0, Form
from scaling.intervals import theta_draws
from scaling.law import FittedLaw
from scaling.lawfile import load_law
from scaling.runs import FloatArray, Params, make_runs

SHIPPED = ("sweep-exits", "chinchilla-dense")
"""Laws that come with the planner, by name: exits of this project's own sweep (N from 68 thousand to 0.94 million), and
dense models from the points of Hoffmann et al. (N from 57 million to 16 billion)."""
EDGE = 1.01
"""So far beyond what a law was fitted to still counts as inside: runs end at a whole step."""
ALPHA = 3
"""Place of alpha in the parameters of `tied`."""


@dataclass(frozen=True, eq=False)
class ExitLaw:
    """A fitted law, read for one exit at a time."""

    name: str
    law: FittedLaw
    form: Form
    """`M0` to `M3`."""
    theta: FloatArray
    """(1, p), of `form`."""
    draws: FloatArray
    """(S, p)"""
    findings: tuple[Finding, ...]
    """What speaks against the law, or against reading it so."""

    @property
    def params(self) -> Params:
        """Which N it counts."""
        return self.law.conventions.params

    def losses(self, theta: FloatArray, n: float, d: float, g: int, depth: FloatArray, size: FloatArray) -> FloatArray:
        """Nats per token of exits (P,) of one family under θ (S, p), as (S, P).

        Args:
            theta: `self.theta` or `self.draws`.
            n: N of the family, as the law counts it.
            d: D, tokens.
            g: G.
            depth: l_g/L of each exit.
            size: N_g of each exit over N.
        """
        one = np.ones(len(depth))
        runs = make_runs(n * one, d * one, one, g)
        points = replace(runs, exit_layer=depth, n_layers=one, n_exit=n * size, exit_weight=one / g)
        with np.errstate(over="ignore"):  # far from its runs a draw may expect any loss
            terms = np.exp(np.einsum("knp,sp->ksn", self.form.design(points), theta))
        total: FloatArray = terms.sum(axis=0)
        return total

    def outside(self, n: float, d: float, g: int, c: float) -> tuple[str, ...]:
        """Which of N, D, G and C lie outside of what the law was fitted to, and how far."""
        found = []
        for name, value in (("n", n), ("d", d), ("g", float(g)), ("c", c)):
            low, high = self.law.data.ranges[name]
            if not low / EDGE <= value <= high * EDGE:
                factor = value / high if value > high else low / value
                side = "above" if value > high else "below"
                found.append(
                    f"{name.upper()} = {value:.3g} is {factor:.3g} times {side} the law's {low:.3g} to {high:.3g}"
                )
        return tuple(found)


def open_law(path: Path) -> ExitLaw:
    """The law of a file.

    Raises:
        ScalingError: as `load_law`, or it says nothing of one exit.
    """
    return exit_law(load_law(path), path.stem)


def shipped_law(compute: float) -> ExitLaw:
    """Of the laws that come with the planner, the one whose runs are nearest to a budget."""
    laws = [shipped(name) for name in SHIPPED]
    return min(laws, key=lambda law: _distance(compute, law.law.data.ranges["c"]))


def shipped(name: str) -> ExitLaw:
    """A law that comes with the planner."""
    path = files("scaling.plan").joinpath("laws", f"{name}.json")
    return exit_law(load_law(Path(str(path))), name)


def _distance(value: float, ends: Sequence[float]) -> float:
    """How far a number lies outside of a range, in log."""
    low, high = np.log(ends)
    return float(max(low - np.log(value), np.log(value) - high, 0.0))


def exit_law(law: FittedLaw, name: str) -> ExitLaw:
    """A law as one of exits. Raises `ScalingError` if it says nothing of one exit, or not how sure it is."""
    theta, draws = law.theta[None], theta_draws(law)
    found = [finding for finding in law.findings if finding.warning]
    form = law.form
    if form.name == "tied":
        theta, draws = (np.concatenate([x, x[:, [ALPHA]]], axis=1) for x in (theta, draws))
    if form.name in ("dense", "tied"):
        form = M0
        text = (
            "a law of dense models: each exit is read as one of its own size; what exits cost each other is not in it"
        )
        found.append(warning("dense-law", text))
    elif not form.needs:
        raise ScalingError(
            f"{name}: the form {form.name} is of the mean over exits and says nothing of one exit's loss; fit one of "
            "exits: fit-law RUNS --exits --out law.json"
        )
    found.append(note("precision", "losses are those of f32 weights; what quantization costs is measured on a bundle"))
    return ExitLaw(name, law, form, theta, draws, tuple(found))
