"""What is wrong or doubtful about runs: impossible numbers, repeated rows, and designs that cannot identify a law.

What cannot be fitted at all is a `ScalingError`; what can, but should not be believed, a `Finding` that stays with the
law. Thresholds are rules of thumb, set where a term of the law changes by less than the usual noise tells apart.
"""

from collections.abc import Mapping

import numpy as np

from scaling.errors import ScalingError
from scaling.findings import Finding, counted, listed, warning
from scaling.forms import Form
from scaling.runs import FLOPS_PER_PARAMETER, FloatArray, Runs

WIDE = 10.0
"""Expected of max/min of N and of D: an exponent of 0.3 then halves its term."""
SAME = 1.001
"""Max/min of values that are one value."""
NEAR = 1.1
"""Most that two N differ by if they are partners: a family's branches make it larger than its dense partner."""
ONE_RATIO = 1.25
"""Max/min of D/N that is one ratio."""
ALIASED = 0.99
"""Least |correlation| of log N and log D that makes one a function of the other."""
RUNS_PER_PARAMETER = 4
LARGEST_LOSS = 15.0
"""Nats per token; a uniform guess among 256,000 tokens has 12.5."""
SMALLEST_N, SMALLEST_D = 1e3, 1e4
"""Less is not counted in parameters and tokens."""
COMPUTE_FACTOR = 5.0
"""Within which C is 6ND, whatever is counted."""

_VARIES = {
    "alpha": "N",
    "beta": "D",
    "gamma": "G",
    "eta": "G·w_g",
    "delta": "l_g/L",
}
"""By exponent, what it is the exponent of."""


def check_values(runs: Runs, columns: Mapping[str, str] | None = None) -> None:
    """Refuse numbers that no run has.

    Args:
        runs: any.
        columns: by role, the column that a file had it in, for the message.

    Raises:
        ScalingError: there are no runs, the arrays have several lengths, or a number is not positive and finite; the
            text names column and rows.
    """
    arrays = {name: getattr(runs, name) for name in _POSITIVE}
    lengths = {name: len(array) for name, array in arrays.items() if array is not None}
    if len(set(lengths.values())) > 1:
        raise ScalingError(f"expected arrays of one length, got {listed([f'{k}: {v}' for k, v in lengths.items()])}")
    if not len(runs):
        raise ScalingError("there are no runs")
    for name, array in sorted(arrays.items(), key=lambda item: item[0] not in (columns or {})):  # derived ones last
        if array is None:
            continue
        if (bad := ~(np.isfinite(array) & (array > 0))).any():
            where = [f"{label} has {value:g}" for label, value in zip(runs.names(bad), array[bad], strict=True)]
            column = (columns or {}).get(name)
            raise ScalingError(
                f"{name}{f' (column {column!r})' if column else ''} is positive and finite: {listed(where)}"
            )
    if (bad := (runs.g < 1) | (runs.g % 1 != 0)).any():
        raise ScalingError(f"G counts exits, so it is a whole number from 1 on; not so in {listed(runs.names(bad))}")


_POSITIVE = ("n", "d", "loss", "g", "exit_layer", "n_layers", "exit_weight", "n_exit", "c")


def check_runs(runs: Runs, form: Form) -> tuple[Finding, ...]:
    """What is to be said of runs before a form is fitted to them.

    Raises:
        ScalingError: a number is impossible, or some parameter of the form has nothing to be told from.
    """
    check_values(runs)
    count, needed = len(np.unique(runs.cluster)), len(form.parameters)
    if count == 1:
        raise ScalingError(f"there is one run; the form {form.name} has {needed} parameters")
    if np.ptp(runs.loss) == 0:
        raise ScalingError(f"all losses are {runs.loss[0]:g}: nothing depends on N and D; is the right column mapped?")
    _check_kind(runs, form)
    x = form.design(runs)
    for index, name in enumerate(form.parameters[3:], 3):
        _check_varies(form, name, x[:, :, index])
    if len(runs) <= needed:
        raise ScalingError(f"{len(runs)} losses cannot tell {needed} parameters (form {form.name}); add runs")
    size, tokens = (-x[term, :, place] for term, place in enumerate(form.decays, 1))
    findings = [*_few(count, needed, size, tokens), *_spans(size, tokens)]
    if "gamma" in form.parameters:
        findings += _granularity(runs, size)
    return (*findings, *_units(runs), *_repeats(runs))


def _check_kind(runs: Runs, form: Form) -> None:
    """Refuse losses of early exits under a form of a run's loss, which would take each for a whole model's."""
    if form.needs or runs.exit_layer is None or runs.n_layers is None:
        return
    if (early := runs.exit_layer < runs.n_layers).any():
        raise ScalingError(
            f"{listed(runs.names(early))}: losses of early exits, and the form {form.name} is of a run's loss; fit a "
            "form of one exit's (M0 to M3), or give each run one row, without layers"
        )


def _check_varies(form: Form, name: str, slopes: FloatArray) -> None:
    """Refuse a parameter whose effect the intercepts have as well. `slopes` is (terms, n)."""
    if np.ptp(slopes, axis=1).max() < np.log(SAME):
        what = _VARIES.get(name, name)
        other = "; fit a form without it (dense)" if name == "gamma" else ""
        raise ScalingError(f"all runs have the same {what}, so {name} of the form {form.name} cannot be fitted{other}")


def _few(count: int, needed: int, size: FloatArray, tokens: FloatArray) -> list[Finding]:
    findings = []
    if count < RUNS_PER_PARAMETER * needed:
        text = f"{count} runs for {needed} parameters; {RUNS_PER_PARAMETER * needed} or more give usable intervals"
        findings.append(warning("few-runs", text))
    for name, logs in (("N", size), ("D", tokens)):
        if (distinct := 1 + int((np.diff(np.sort(logs)) > np.log(SAME)).sum())) < 3:
            text = f"{name} has {distinct} values: its exponent, its coefficient and E need at least 3 to be told apart"
            findings.append(warning(f"few-{name.lower()}", text))
    return findings


def _spans(size: FloatArray, tokens: FloatArray) -> list[Finding]:
    """Narrow ranges of log N and log D, and D that follows from N."""
    findings = []
    for name, logs in (("N", size), ("D", tokens)):
        if (span := float(np.ptp(logs))) < np.log(WIDE):
            text = f"{name} spans {np.exp(span):.1f}x; under {WIDE:g}x its exponent and E are hardly told apart"
            findings.append(warning(f"narrow-{name.lower()}", text))
    ratio = tokens - size
    if np.ptp(ratio) < np.log(ONE_RATIO):
        text = f"all runs have one D/N ({np.exp(ratio.mean()):.3g}): what N does cannot be told from what D does"
        findings.append(warning("one-ratio", text))
    elif abs(np.corrcoef(size, tokens)[0, 1]) > ALIASED:
        text = "D is a function of N in these runs: what N does cannot be told from what D does; vary D at one N"
        findings.append(warning("aliased-d", text))
    return findings


def _granularity(runs: Runs, size: FloatArray) -> list[Finding]:
    """Whether G can be told from N: some N has several G, and families have dense partners."""
    families = runs.g > 1
    dense = np.sort(size[~families])
    lone = families & ~_near(size, dense)
    findings = []
    if not len(dense):
        text = "no run has G = 1: what a family costs cannot be told against a dense model; add dense partners"
        findings.append(warning("no-dense", text))
    elif lone.any():
        text = (
            f"{lone.sum()} of {families.sum()} rows with G > 1 have no run with G = 1 within {NEAR - 1:.0%} of their N"
        )
        findings.append(warning("no-partner", text))
    partnered = any(_near(size[runs.g == value], np.sort(size[runs.g != value])).any() for value in np.unique(runs.g))
    if not partnered:
        text = "G is a function of N in these runs: its exponent cannot be told from alpha; run one N at several G"
        findings.append(warning("aliased-g", text))
    return findings


def _near(logs: FloatArray, known: FloatArray) -> np.ndarray:
    """Which values have one of the sorted `known` within `NEAR`."""
    if not len(known):
        return np.zeros(len(logs), dtype=bool)
    right = np.clip(np.searchsorted(known, logs), 0, len(known) - 1)
    gap = np.minimum(abs(known[right] - logs), abs(known[np.maximum(right - 1, 0)] - logs))
    return np.asarray(gap < np.log(NEAR))


def _units(runs: Runs) -> list[Finding]:
    """Numbers that are hardly in parameters, tokens, FLOPs and nats."""
    findings = []
    for name, array, least, unit in (("N", runs.n, SMALLEST_N, "parameters"), ("D", runs.d, SMALLEST_D, "tokens")):
        if (few := array < least).any():
            text = f"{name} is less than {least:g} in {listed(runs.names(few))}: is it in {unit}, not in millions?"
            findings.append(warning("units", text))
    if (much := runs.loss > LARGEST_LOSS).any():
        text = f"the loss is over {LARGEST_LOSS:g} in {listed(runs.names(much))}: is it nats per token, not perplexity?"
        findings.append(warning("units", text))
    ratio = runs.c / (FLOPS_PER_PARAMETER * runs.n * runs.d)
    middle = float(np.median(ratio))
    if not 1 / COMPUTE_FACTOR < middle < COMPUTE_FACTOR:
        text = f"C is {middle:.3g} times 6ND in the median: N, D and C are hardly in parameters, tokens and FLOPs"
        findings.append(warning("units", text))
    elif (far := (ratio / middle > COMPUTE_FACTOR) | (ratio / middle < 1 / COMPUTE_FACTOR)).any():
        text = f"C/(6ND) is {middle:.3g} in the median, and more than {COMPUTE_FACTOR:g} times off in "
        text += f"{listed(runs.names(far))}: are all rows in one convention?"
        findings.append(warning("mixed", text))
    return findings


def _repeats(runs: Runs) -> list[Finding]:
    """Rows that stand there twice, and runs that were made again."""
    optional = [array for array in (runs.exit_layer, runs.n_exit) if array is not None]
    where = np.stack([runs.n, runs.d, runs.g, *optional], axis=1)
    twice = _seen_before(np.column_stack([where, runs.loss]))
    again = _seen_before(where) & ~twice
    findings = []
    if twice.any():
        count = counted(twice.sum(), "repetition")
        text = f"{count} of an earlier row to the last digit, which weighs double: {listed(runs.names(twice))}"
        findings.append(warning("duplicates", text))
    if again.any():
        count = counted(again.sum(), "row")
        text = f"{count} with another loss at the N, D and G of an earlier one: {listed(runs.names(again))}"
        several = again.sum() > len(runs) / 2
        text += "; are these losses of several kinds (evaluation sets, training texts)?" if several else ""
        findings.append(Finding("replicates", bool(several), text))
    return findings


def _seen_before(rows: FloatArray) -> np.ndarray:
    """Which rows of a matrix equal an earlier one."""
    first = np.unique(rows, axis=0, return_index=True)[1]
    mask = np.ones(len(rows), dtype=bool)
    mask[first] = False
    return mask
