"""Which law the exits obey: M0 to M3 compared by what they say of runs, layers and budgets that they did not see.

The forms (`scaling.forms`) are fitted to rows of (run, exit). Each split leaves out parts in turn, all parts of a split
are fitted at once as weights of 0, and the score is the median absolute log error of the rows left out, with the
standard error that a bootstrap of the runs gives it. Of the forms, the one with the fewest parameters whose score is
within one standard error of the best is chosen (Breiman et al., Classification and Regression Trees, 1984, 3.4.3).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scaling.bootstrap import resampled
from scaling.check import check_runs
from scaling.coordinates import centred
from scaling.errors import ScalingError
from scaling.forms import M0, M1, M2, M3, Form
from scaling.newton import descend
from scaling.runs import FloatArray, IntArray, Runs
from scaling.solve import Solution, objective_of, solve

FOLDS = 10
"""Of the split by runs, fewer where there are fewer runs."""
SAME_BUDGET = 1.05
"""C within this factor of the highest is the top budget."""
RESAMPLES = 1000
"""Of the runs, for a score's standard error."""
OVERALL = "overall"
"""The mean of the splits' scores."""


@dataclass(frozen=True, eq=False)
class Split:
    """One way of leaving rows out."""

    name: str
    parts: NDArray[np.bool_]
    """(F, n): which rows each of the F fits does not see. No row is in two."""


@dataclass(frozen=True)
class Score:
    """How well a form predicts what it did not see."""

    split: str
    form: str
    error: float
    """Median absolute error of log L."""
    standard_error: float
    chosen: bool
    """By the one-standard-error rule among the forms, on this split."""


@dataclass(frozen=True, eq=False)
class Comparison:
    """Forms of the law per exit on one set of rows."""

    fits: Mapping[str, Solution]
    """By form, the fit to all rows."""
    left_out: Mapping[str, str]
    """By form that these rows cannot tell from one with fewer parameters, why."""
    scores: tuple[Score, ...]
    """Split by split, each in the forms' order, and last `OVERALL`."""

    @property
    def chosen(self) -> str:
        """The form chosen overall."""
        return next(score.form for score in self.scores if score.split == OVERALL and score.chosen)


def compare(runs: Runs, forms: Sequence[Form] = (M0, M1, M2, M3), seed: int = 0) -> Comparison:
    """Fit forms to rows of (run, exit) and compare them by what they were not fitted to.

    Args:
        runs: rows of exits.
        forms: in the order in which they are shown; the first always is, the others where the rows can tell their
            parameters.
        seed: of the folds of runs and of the resampling.

    Raises:
        ScalingError: the first form cannot be fitted, or there are too few runs to leave any out.
    """
    check_runs(runs, forms[0])
    left_out = {form.name: why for form in forms[1:] if (why := _refusal(runs, form))}
    forms = [form for form in forms if form.name not in left_out]
    fits = {form.name: solve(form, runs) for form in forms}
    ways = splits(runs, seed)
    counts = np.concatenate([np.ones((1, len(runs))), resampled(runs.cluster, RESAMPLES, seed)])  # first each row once
    scores: list[Score] = []
    totals = np.zeros((len(forms), 1 + RESAMPLES))
    for way in ways:
        errors = [np.abs(_unseen(form, fits[form.name].theta, runs, way)) for form in forms]
        medians = np.array([_medians(error, counts) for error in errors])  # (forms, 1 + RESAMPLES)
        totals += medians / len(ways)
        scores += _scores(way.name, forms, medians)
    return Comparison(fits, left_out, (*scores, *_scores(OVERALL, forms, totals)))


def _refusal(runs: Runs, form: Form) -> str:
    """Why a form cannot be fitted, or nothing."""
    try:
        check_runs(runs, form)
    except ScalingError as error:
        return str(error)
    return ""


def splits(runs: Runs, seed: int = 0) -> list[Split]:
    """Leaving out runs (in `FOLDS` parts), relative depths (each in turn) and the top budget, where there are others.

    Raises:
        ScalingError: there are fewer than three runs.
    """
    clusters, of_row = np.unique(runs.cluster, return_inverse=True)
    if len(clusters) < 3:
        raise ScalingError(f"forms are compared by leaving runs out; there are only {len(clusters)}: add runs")
    fold = np.random.default_rng(seed).permutation(len(clusters)) % min(FOLDS, len(clusters))
    found = [Split("runs", _each(fold[of_row]))]
    if runs.exit_layer is not None and runs.n_layers is not None:
        depth = np.round(runs.exit_layer / runs.n_layers, 9)
        if len(np.unique(depth)) > 1:
            found.append(Split("layers", _each(depth)))
    top = runs.c > runs.c.max() / SAME_BUDGET
    if not top.all():
        found.append(Split("top budget", top[None]))
    return found


def _each(value: FloatArray | IntArray) -> NDArray[np.bool_]:
    parts: NDArray[np.bool_] = np.unique(value)[:, None] == value
    return parts


def _unseen(form: Form, theta: FloatArray, runs: Runs, way: Split) -> FloatArray:
    """Residuals (n,) of fits that did not see the row; NaN for rows that no part leaves out.

    Searches start at the fit to all rows, as the bootstrap's do.
    """
    found = centred(objective_of(form, runs))
    start = np.repeat(found.phi(theta[None]), len(way.parts), axis=0)
    ends = descend(found.objective, start, (~way.parts).astype(np.float64))
    residuals = np.where(way.parts, found.objective.residuals(ends.at), 0.0).sum(axis=0)
    return np.where(way.parts.any(axis=0), residuals, np.nan)


def _medians(errors: FloatArray, counts: FloatArray) -> FloatArray:
    """Median (B,) of the errors that are there, each counted as often as `counts` (B, n) says.

    A resampling that drew none of them has the median of all.
    """
    there = np.flatnonzero(~np.isnan(errors))
    order = there[np.argsort(errors[there])]
    reached = counts[:, order].cumsum(axis=1)
    half = reached[:, -1:] / 2
    upper = errors[order][(reached > half).argmax(axis=1)]
    lower = errors[order][(reached >= half).argmax(axis=1)]
    medians: FloatArray = np.where(reached[:, -1] > 0, (lower + upper) / 2, (lower[0] + upper[0]) / 2)
    return medians


def _scores(split: str, forms: Sequence[Form], medians: FloatArray) -> list[Score]:
    """Scores of one split from medians (forms, 1 + RESAMPLES), the first of all rows."""
    errors, spread = medians[:, 0], medians[:, 1:].std(axis=1, ddof=1)
    best = int(np.argmin(errors))
    sizes = [len(form.parameters) for form in forms]
    within = [i for i in range(len(forms)) if errors[i] <= errors[best] + spread[best]]
    chosen = min(within, key=lambda i: (sizes[i], errors[i]))
    return [Score(split, form.name, float(errors[i]), float(spread[i]), i == chosen) for i, form in enumerate(forms)]
