"""`PlanDocument`, which is `plan.json`: the best plan, the others, and how sure the choice is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scaling.findings import Finding
from scaling.plan.beside import Beside
from scaling.plan.explain import Explanation
from scaling.plan.fleet import Fleet, Objective
from scaling.plan.plan import Plan
from scaling.plan.search import Choice, Found

PLAN_VERSION = 1


@dataclass(frozen=True)
class Chosen:
    """How often the draws of the law choose something."""

    what: str
    share: float


@dataclass(frozen=True)
class LawUsed:
    """Which law it was."""

    name: str
    form: str
    formula: str
    runs_sha256: str
    ranges: Mapping[str, tuple[float, ...]]


@dataclass(frozen=True)
class PlanDocument:
    """`plan.json`."""

    schema_version: int
    fleet: str
    objective: Objective
    law: LawUsed
    candidates: int
    """Placements that were judged by the law."""
    best: Plan
    others: tuple[Plan, ...]
    """The best of other choices of trunk and tiers, in order."""
    pareto: tuple[Plan, ...]
    """Plans that no other beats in cost, latency, quality and energy at once."""
    draws: int
    chosen: Mapping[str, tuple[Chosen, ...]]
    """By `tiers`, `d_model`, and `exit TIER`, what the law's draws choose, most often first."""
    findings: tuple[Finding, ...]
    beside: tuple[Beside, ...] = ()
    """Other ways to serve the same traffic."""
    explanation: Explanation | None = None
    """With `--explain`."""


def chosen(fleet: Fleet, found: Found) -> dict[str, tuple[Chosen, ...]]:
    """How often the draws choose which tiers, width and exit layers."""
    rows = [_described(fleet, found, choice) for choice in found.per_draw]
    keys = list(dict.fromkeys(key for row in rows for key in row))
    return {key: _shares([row[key] for row in rows if key in row], len(rows)) for key in keys}


def _described(fleet: Fleet, found: Found, choice: Choice | None) -> dict[str, str]:
    if choice is None:
        return {"tiers": "no plan keeps the loss goals"}
    group = found.groups[choice.group]
    layers = group.placements.layers[choice.index]
    names = [fleet.tiers[at].name for at in group.used]
    depth = group.made.spec.n_layers
    exits = {f"exit {name}": f"{layer} of {depth}" for name, layer in zip(names, layers, strict=True)}
    return {"tiers": ", ".join(names), "d_model": str(group.made.spec.d_model), **exits}


def _shares(values: Sequence[str], of: int) -> tuple[Chosen, ...]:
    counts = {value: values.count(value) for value in dict.fromkeys(values)}
    return tuple(Chosen(value, count / of) for value, count in sorted(counts.items(), key=lambda item: -item[1]))
