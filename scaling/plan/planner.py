"""A whole plan before training: search, ranking, Pareto set, what the law's draws choose."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from family.spec import Exit, FamilySpec
from scaling.errors import ScalingError
from scaling.findings import Finding, listed, note
from scaling.plan.beside import beside
from scaling.plan.document import PLAN_VERSION, LawUsed, PlanDocument, chosen
from scaling.plan.exitlaw import ExitLaw
from scaling.plan.explain import explain
from scaling.plan.fleet import Fleet, Objective
from scaling.plan.fronts import best_rows
from scaling.plan.goals import failing
from scaling.plan.money import unpriced
from scaling.plan.plan import Plan, plan_of
from scaling.plan.search import Choice, Found, ranked, search

OTHERS = 9
"""Plans after the best one that are written and shown."""
MOST_PARETO = 60
"""Plans of the Pareto set that are written, spread over its cost; beside those that none beats in cost and loss."""
COST, LOSS = 0, 2
"""Columns of the Pareto set's table."""


@dataclass(frozen=True, eq=False)
class Planned:
    """A plan with what it was chosen from."""

    fleet: Fleet
    law: ExitLaw
    found: Found
    best: Choice
    document: PlanDocument
    spec: FamilySpec
    """What to train."""


def plan(fleet: Fleet, law: ExitLaw, strict: bool = False, explained: bool = False) -> Planned:
    """The best plan of a fleet.

    Args:
        fleet: the question.
        law: of exits.
        strict: refuse a plan outside of the law's range.
        explained: also say why it is as it is.

    Raises:
        ScalingError: no plan keeps all goals; the text says which goal fails and the nearest that holds. Or with
            `strict` the best plan lies outside of what the law was fitted to.
    """
    if not fleet.training.budget:
        raise ScalingError("the fleet has no training: give compute, or parameters and tokens; or --bundle DIR")
    found = search(fleet, law)
    order = ranked(found, objective_of(fleet))
    if not order:
        raise ScalingError(failing(fleet, law))
    best, *others = order
    document = PlanDocument(
        schema_version=PLAN_VERSION,
        fleet=fleet.name,
        objective=fleet.objective,
        law=LawUsed(law.name, law.form.name, law.form.formula, law.law.data.sha256, law.law.data.ranges),
        candidates=found.candidates,
        best=_plan(fleet, law, found, best),
        others=tuple(_plan(fleet, law, found, choice) for choice in others[:OTHERS]),
        pareto=tuple(_plan(fleet, law, found, choice) for choice in pareto(found)),
        draws=len(found.per_draw),
        chosen=chosen(fleet, found),
        findings=(*law.findings, *_guessed(fleet), *unpriced(fleet)),
        beside=beside(fleet, law, found, best),
        explanation=explain(fleet, law, found, best, objective_of(fleet)) if explained else None,
    )
    if strict and document.best.outside:
        raise ScalingError(
            f"--strict: the best plan lies outside of what the law {law.name} was fitted to: "
            f"{'; '.join(document.best.outside)}. Fit a law on runs of that size, or plan within the range"
        )
    return Planned(fleet, law, found, best, document, spec_of_plan(fleet, found, best))


def _guessed(fleet: Fleet) -> Iterator[Finding]:
    """That nobody measured a machine."""
    names = [f"{tier.name} ({tier.hardware.name})" for tier in fleet.tiers if tier.hardware.basis == "datasheet"]
    if names:
        yield note("datasheet", f"speeds are a data sheet's times an efficiency, not measured: {listed(names)}")


def objective_of(fleet: Fleet) -> Objective:
    """What the best plan is best in; of a Pareto set the plan of least loss is shown first."""
    return "quality" if fleet.objective == "pareto" else fleet.objective


def spec_of_plan(fleet: Fleet, found: Found, choice: Choice) -> FamilySpec:
    """The family to train, with its exits where the plan has them."""
    group = found.groups[choice.group]
    spec, layers = group.made.spec, group.placements.layers[choice.index].tolist()
    trunk = fleet.training.trunk
    early = (Exit(layer, trunk.branch, trunk.rank) for layer in layers[:-1])
    return replace(spec, name=fleet.name, exits=(*early, Exit(layers[-1], "norm")))


def pareto(found: Found) -> list[Choice]:
    """Plans that no other beats in cost, latency, quality and energy at once, by cost; a part of them."""
    choices: list[Choice] = []
    rows = []
    for number, group in enumerate(found.groups):
        places = group.placements
        columns = np.column_stack([places.cost, places.latency, group.quality, places.power])
        kept = np.flatnonzero(group.kept)
        kept = kept[best_rows(columns[kept])] if len(kept) else kept
        rows.append(columns[kept])
        choices += [Choice(number, int(i)) for i in kept]
    if not choices:
        return []
    table = np.concatenate(rows)
    front = best_rows(table)
    front = front[np.lexsort(table[front].T[::-1])]
    shown = set(front[best_rows(table[front][:, [COST, LOSS]])].tolist())
    shown.update(front[np.linspace(0, len(front) - 1, min(MOST_PARETO, len(front))).round().astype(int)].tolist())
    return [choices[i] for i in front.tolist() if i in shown]


def _plan(fleet: Fleet, law: ExitLaw, found: Found, choice: Choice) -> Plan:
    return plan_of(fleet, law, found.groups[choice.group], choice.index)
