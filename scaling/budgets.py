"""What budgets buy under a fitted law: N*, D*, L* at each G, what a G costs at equal loss, and what it saves.

Each reading is made for C = 6ND, in closed form, and where trunks are given a second time for their exact FLOPs per
token, with every branch and head. The places of a family's exits are those at the best dense size for the budget.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from scaling.costs import Cost, six_n
from scaling.errors import ScalingError
from scaling.findings import Finding, listed, warning
from scaling.forms import Form
from scaling.frontier import (
    LAST,
    Place,
    equal_loss_multiplier,
    family_surface,
    leverage,
    optimum,
    separate_leverage,
    surface,
)
from scaling.intervals import interval
from scaling.law import LEVEL, FittedLaw
from scaling.runs import Conventions, FloatArray
from scaling.trunks import Ladder, Trunks, ladder

SIX_ND = "6ND"
EXACT = "exact"
FAR = 10.0
"""Beyond this many times the law's own largest C, a budget is extrapolated to."""


@dataclass(frozen=True)
class Figure:
    """A number with its interval; only what is finite is there."""

    value: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Reading:
    """One budget at one G."""

    flops: float
    """C: of the family, and for `mean` and `last` of the dense model that it is compared with."""
    granularity: int
    n: Figure | None
    """N*; missing, as D* and L*, where there is no best size."""
    d: Figure | None
    """D*, tokens."""
    loss: Figure | None
    """L*, the mean over exits, nats per token."""
    mean: Figure | None = None
    """Compute at which the mean over exits is the dense model's best loss, over C."""
    last: Figure | None = None
    """The same of the last exit alone; missing where the law is of the mean."""
    leverage: Figure | None = None
    """What G dense models as good as the mean cost, over C."""
    separate: Figure | None = None
    """What dense models of the exits' own sizes cost for the same mean loss, over C; missing where nothing says how
    large an exit is beside the run."""


@dataclass(frozen=True)
class Exits:
    """Where a family's exits are."""

    granularity: int
    depths: tuple[float, ...]
    """l_g/L."""
    sizes: tuple[tuple[float, ...], ...] | None
    """N_g/N by budget; missing where unknown."""


@dataclass(frozen=True)
class Budgets:
    """What `read-law --json` prints."""

    form: str
    formula: str
    conventions: Conventions
    level: float
    exits: tuple[Exits, ...]
    readings: Mapping[str, tuple[Reading, ...]]
    """By what C counts: `6ND`, and with trunks `exact`."""
    findings: tuple[Finding, ...]
    """What speaks against the law, and against reading it here."""


@dataclass(frozen=True, eq=False)
class _Family:
    """A family as it is read."""

    depths: tuple[float, ...]
    places: tuple[Place, ...]
    """Of its exits, by budget; sizes are NaN where unknown."""
    ladder: Ladder | None

    @property
    def granularity(self) -> int:
        return len(self.depths)


def knows_g(form: Form) -> bool:
    """Whether a form says what exits cost."""
    return "gamma" in form.parameters or bool(form.needs)


def read_budgets(
    law: FittedLaw, c: Sequence[float], families: Sequence[Sequence[float]] = ((1.0,),), trunks: Trunks | None = None
) -> Budgets:
    """Everything that a law says of budgets.

    Args:
        law: fitted.
        c: budgets, FLOPs.
        families: each by the relative depths l_g/L of its exits, ascending, the last 1; (1,) is a dense model.
        trunks: sizes from which FLOPs per token and the sizes of exits follow.

    Raises:
        ScalingError: a budget is not positive, the law knows no G, nothing says how sure it is, or an exit's size is
            needed and unknown.
    """
    _check(law, families, trunks)
    budgets = np.array(c, float)
    if not (np.isfinite(budgets) & (budgets > 0)).all():
        raise ScalingError(f"budgets are positive numbers of FLOPs, got {listed(list(c))}")
    best = optimum(surface(law.form, law.theta[None], 1, LAST), budgets).n[0]
    made = [_family(law, depths, best, trunks) for depths in families]
    readings = {SIX_ND: _readings(law, budgets, [(family, None) for family in made])}
    if trunks:
        dense = ladder(trunks, (1.0,), law.conventions.params).cost
        readings[EXACT] = _readings(law, budgets, [(f, (dense, f.ladder.cost)) for f in made if f.ladder])
    return Budgets(
        form=law.form.name,
        formula=law.form.formula,
        conventions=law.conventions,
        level=LEVEL,
        exits=tuple(_exits(family, len(budgets)) for family in made),
        readings=readings,
        findings=(*(finding for finding in law.findings if finding.warning), *_doubts(law, budgets, readings, made)),
    )


def _check(law: FittedLaw, families: Sequence[Sequence[float]], trunks: Trunks | None) -> None:
    if all(len(depths) == 1 for depths in families):
        return
    if not knows_g(law.form):
        raise ScalingError(
            f"a law of the form {law.form.name} says nothing of G; ask it for G = 1 only, or fit one that does: "
            "fit-law RUNS --form full"
        )
    if "n_exit" in law.form.needs and law.conventions.params == "total" and trunks is None:
        raise ScalingError(
            f"the form {law.form.name} needs the sizes of the exits, and N counts the embedding, whose share depends "
            "on the trunk: name trunks (--trunks), or fit with --params non-embedding"
        )


def _family(law: FittedLaw, depths: Sequence[float], n: FloatArray, trunks: Trunks | None) -> _Family:
    """A family at N (P,). Without trunks an exit of a norm has the layers' share of what N counts of a trunk."""
    params = law.conventions.params
    if trunks:
        rungs = ladder(trunks, depths, params)
        return _Family(tuple(depths), rungs.places(n), rungs)
    sizes = [depth if depth == 1 or params == "non-embedding" else math.nan for depth in depths]
    return _Family(tuple(depths), tuple(map(Place, depths, sizes)), None)


def _readings(
    law: FittedLaw, c: FloatArray, families: Sequence[tuple[_Family, tuple[Cost, Cost] | None]]
) -> tuple[Reading, ...]:
    """Budget by budget, every family."""
    found = [np.stack(interval(law, partial(_quantities, law, family, c, costs))) for family, costs in families]
    return tuple(
        Reading(flops, family.granularity, *(_figure(figure) for figure in numbers[:, :, i].T))
        for i, flops in enumerate(c.tolist())
        for (family, _), numbers in zip(families, found, strict=True)  # (3, quantities, P)
    )


@np.errstate(all="ignore")  # draws whose exponents ran away
def _quantities(
    law: FittedLaw, family: _Family, c: FloatArray, costs: tuple[Cost, Cost] | None, theta: FloatArray
) -> FloatArray:
    """The figures of a `Reading` in their order, (S, quantities, P); only the first three at G = 1."""
    dense, mean = surface(law.form, theta, 1, LAST), family_surface(law.form, theta, family.places)
    best = optimum(mean, c, costs and costs[1])
    if family.granularity == 1:
        return np.stack(best, axis=1)
    g = family.granularity
    last = np.full_like(best.n, np.nan)
    if law.form.needs:
        last = equal_loss_multiplier(dense, surface(law.form, theta, g, LAST), c, costs)
    sizes = np.stack([best.n * place.size for place in family.places], axis=-1)
    return np.stack(
        [
            *best,
            equal_loss_multiplier(dense, mean, c, costs),
            last,
            leverage(dense, mean, c, g, costs),
            separate_leverage(dense, best.loss, sizes, best.d, best.n, costs or (six_n, six_n)),
        ],
        axis=1,
    )


def _figure(numbers: FloatArray) -> Figure | None:
    """A figure of value, low and high; None where there is no value because something is unknown."""
    if math.isnan(numbers[0]):
        return None
    return Figure(*(number if math.isfinite(number) else None for number in numbers.tolist()))


def _exits(family: _Family, budgets: int) -> Exits:
    sizes = np.stack([np.broadcast_to(place.size, budgets) for place in family.places], axis=1)
    depths = [float(np.mean(place.depth)) for place in family.places]
    known = None if np.isnan(sizes).any() else tuple(tuple(row) for row in sizes.tolist())
    return Exits(family.granularity, tuple(depths), known)


def _doubts(
    law: FittedLaw, c: FloatArray, readings: Mapping[str, Sequence[Reading]], families: Sequence[_Family]
) -> Iterator[Finding]:
    """Why what was read may be wrong although the law is right."""
    every = [reading for found in readings.values() for reading in found]
    if any(reading.n is None for reading in every):
        yield warning("no-optimum", "alpha or beta is not positive: no size is the best, so there is no frontier")
    largest = law.data.ranges["c"][1]
    if (far := c > FAR * largest).any():
        text = f"the law's runs end at C = {largest:.3g}; it is extrapolated to {listed([f'{x:.3g}' for x in c[far]])}"
        yield warning("extrapolated", text)
    short = {reading.granularity for reading in every if reading.mean is not None and reading.mean.value is None}
    if short:
        text = f"at G = {listed(sorted(short))} no compute reaches the dense model's loss: G's factor is on E as well"
        yield warning("out-of-reach", text)
    rungs = [family.ladder.n for family in families if family.ladder]
    sizes = [reading.n.value for reading in every if reading.n and reading.n.value]
    if rungs and sizes:
        low, high = min(n[0] for n in rungs), max(n[-1] for n in rungs)
        if min(sizes) < low or max(sizes) > high:
            text = f"the trunks have N from {low:.3g} to {high:.3g}, and N* is beyond: FLOPs per token are extrapolated"
            yield warning("beyond-trunks", text)
