"""A fitted law for people (`law_table`) and for programs (`summarise`)."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from scaling.certificate import Certificate
from scaling.exitreport import ExitsSummary
from scaling.findings import Finding
from scaling.holdout import HeldOut
from scaling.law import LEVEL, OPTIMAL_SIZE, Data, Estimate, FittedLaw
from scaling.runs import Conventions
from scaling.sidereport import ExponentSummary, ProfileSummary

_NAMES = {OPTIMAL_SIZE: "N* ~ C^a, a"}
NORMAL_WIDTH = 3.29
"""Standard deviations between the ends of a normal distribution's 90% interval."""
MOST_DECIMALS = 6
LARGE = 1e6
"""From here on numbers have an exponent."""
_RANGES = {"n": "N", "d": "D", "g": "G", "c": "C", "loss": "loss"}


@dataclass(frozen=True)
class Summary:
    """What `fit-law --json` prints: the law without its draws."""

    form: str
    formula: str
    method: str
    estimates: tuple[Mapping[str, str | float], ...]
    """`Estimate`s, without what is not finite."""
    level: float
    """Of the estimates' intervals."""
    bootstraps: int
    seed: int
    objective: float
    sigma: float
    conventions: Conventions
    certificate: Certificate
    data: Data
    findings: tuple[Finding, ...]
    held_out: HeldOut | None = None
    """Of runs that the law was not fitted to, where some were held out."""
    exits: ExitsSummary | None = None
    """How the laws per exit compare, where this was asked for."""
    profiles: tuple[ProfileSummary, ...] | None = None
    approaches: tuple[ExponentSummary, ...] | None = None


def summarise(
    law: FittedLaw,
    held_out: HeldOut | None = None,
    exits: ExitsSummary | None = None,
    profiles: tuple[ProfileSummary, ...] | None = None,
    approaches: tuple[ExponentSummary, ...] | None = None,
) -> Summary:
    """A law without its draws, and what else was asked for."""
    return Summary(
        form=law.form.name,
        formula=law.form.formula,
        method=law.method,
        estimates=tuple(_known(estimate) for estimate in law.estimates()),
        level=LEVEL,
        bootstraps=len(law.draws),
        seed=law.seed,
        objective=law.objective,
        sigma=law.sigma,
        conventions=law.conventions,
        certificate=law.certificate,
        data=law.data,
        findings=law.findings,
        held_out=held_out,
        exits=exits,
        profiles=profiles,
        approaches=approaches,
    )


def _known(estimate: Estimate) -> dict[str, str | float]:
    """What is known of an estimate, in JSON's numbers."""
    return {
        name: value for name, value in asdict(estimate).items() if not isinstance(value, float) or math.isfinite(value)
    }


def law_table(law: FittedLaw) -> str:
    """A law in some lines of text: parameters, how good the fit is, and everything that was found on the way."""
    source = f"{law.data.source.file}: " if law.data.source else ""
    ranges = ", ".join(f"{_RANGES[name]} {_span(*ends)}" for name, ends in law.data.ranges.items())
    sure = f"{len(law.draws):,} bootstraps of the runs, seed {law.seed}" if len(law.draws) else "to first order"
    return "\n".join(
        [
            f"{source}{_counted(law)}, {ranges}",
            f"L = {law.form.formula} ({law.form.name}; {_conventions(law)})",
            "",
            f"{'':<14}{'estimate':>12}{'std. error':>12}   {LEVEL:.0%} interval ({sure})",
            *(_line(estimate) for estimate in law.estimates()),
            "",
            f"objective {law.objective:.9g}; a run is {law.sigma:.2%} from the law (robust standard deviation)",
            _certificate(law.certificate),
            *(str(finding) for finding in sorted(law.findings, key=lambda finding: finding.warning)),
        ]
    )


def _counted(law: FittedLaw) -> str:
    runs, losses = law.data.runs, law.data.observations
    return f"{runs} runs" if runs == losses else f"{losses} losses of {runs} runs"


def _span(low: float, high: float) -> str:
    return f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g}"


def _conventions(law: FittedLaw) -> str:
    """What N and C are; heads only where N does not have them all."""
    known = law.conventions
    text = f"N {known.params}, C {known.compute}"
    if known.params == "total" and law.data.ranges["g"][1] == 1:
        return text
    return f"{text} {'with' if known.heads else 'without'} the heads that are not in N"


def _certificate(found: Certificate) -> str:
    """Facts on the optimum; what speaks against it is among the findings."""
    word = "certified" if found.certified else "NOT certified"
    return (
        f"{word}: gradient {found.gradient:.0e} of its largest, curvature {found.curvature:.0e}, {found.agree} of "
        f"{found.starts} starts end here"
    )


def _line(estimate: Estimate) -> str:
    """A standard error wider than the interval is that of a few draws in a heavy tail, and says nothing."""
    heavy = estimate.error > estimate.high - estimate.low
    numbers = (estimate.value, math.nan if heavy else estimate.error, estimate.low, estimate.high)
    value, error, low, high = (_number(number, _scale(estimate)) for number in numbers)
    return f"{_NAMES.get(estimate.name, estimate.name):<14}{value:>12}{error:>12}   {low} to {high}"


def _scale(estimate: Estimate) -> float | None:
    """How sure it is: its standard error, or that of a normal distribution with its interval if this is smaller."""
    known = [s for s in (estimate.error, (estimate.high - estimate.low) / NORMAL_WIDTH) if 0 < s < math.inf]
    return min(known, default=None)


def _number(value: float, scale: float | None) -> str:
    """A number to two digits of `scale`."""
    if not math.isfinite(value):
        return "-"
    if scale is None or abs(value) >= LARGE:
        return f"{value:.4g}"
    return f"{value:.{min(max(0, 1 - math.floor(math.log10(scale))), MOST_DECIMALS)}f}"
