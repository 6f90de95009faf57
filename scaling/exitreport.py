"""A comparison of laws per exit (`scaling.exits`) for people (`exits_table`) and for programs (`summarise_exits`)."""

from collections.abc import Mapping
from dataclasses import dataclass

from scaling.exits import Comparison, Score
from scaling.forms import FORMS

_WIDTH = 20


@dataclass(frozen=True)
class FormFit:
    """One form, fitted to all rows."""

    form: str
    formula: str
    parameters: Mapping[str, float]
    objective: float
    certified: bool


@dataclass(frozen=True)
class ExitsSummary:
    """What `fit-law --exits --json` has of the comparison."""

    chosen: str
    fits: tuple[FormFit, ...]
    left_out: Mapping[str, str]
    scores: tuple[Score, ...]


def summarise_exits(found: Comparison) -> ExitsSummary:
    """A comparison in JSON's types."""
    fits = []
    for name, fit in found.fits.items():
        form, certificate = FORMS[name], fit.certificate
        natural = dict(zip(form.natural_names, form.natural(fit.theta).tolist(), strict=True))
        fits.append(FormFit(name, form.formula, natural, certificate.objective, certificate.certified))
    return ExitsSummary(found.chosen, tuple(fits), found.left_out, found.scores)


def exits_table(found: Comparison) -> str:
    """A line for each form: what it is off by where it was not fitted, split by split."""
    splits = list(dict.fromkeys(score.split for score in found.scores))
    lines = [
        "median error of losses that a form was not fitted to, leaving out each of these in turn",
        f"{'':<6}{'parameters':<12}" + "".join(f"{split:<{_WIDTH}}" for split in splits).rstrip(),
    ]
    for name in found.fits:
        cells = (_cell(score) for score in found.scores if score.form == name)
        count = len(FORMS[name].parameters)
        lines.append((f"{name:<6}{count:<12}" + "".join(f"{cell:<{_WIDTH}}" for cell in cells)).rstrip())
    lines += [f"{name:<6}left out: {why}" for name, why in found.left_out.items()]
    rule = "* of the forms within one standard error of the best, the one with the fewest parameters; chosen: "
    return "\n".join([*lines, rule + found.chosen])


def _cell(score: Score) -> str:
    return f"{score.error:.2%} ± {score.standard_error:.2%}{' *' if score.chosen else ''}"
