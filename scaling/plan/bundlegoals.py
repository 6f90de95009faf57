"""The goals of a fleet that is to run a bundle: what is asked, what a deployment has of it, and how much is left."""

from collections.abc import Iterator

from scaling.plan.bundledocument import BundleChoice
from scaling.plan.explain import TIGHT, Binding
from scaling.plan.fleet import Fleet
from scaling.plan.words import plain

MILLI = 1e-3


def bindings(fleet: Fleet, one: BundleChoice) -> Iterator[Binding]:
    """Every goal, as the fleet file has it. One that is not kept has less than 0 left."""
    goals = fleet.goals
    for name, most, has in (("ttft_ms", goals.ttft_s, one.ttft_s), ("tpot_ms", goals.tpot_s, one.tpot_s)):
        if most is not None:
            yield _at_most(f"goals.{name}", most / MILLI, has / MILLI)
    if goals.agreement is not None:
        yield _agreement(goals.agreement, one.agreement)
    if goals.budget_per_hour is not None:
        yield _at_most("goals.budget_per_hour", goals.budget_per_hour, one.cost_per_hour)
    for node in one.nodes:
        yield _at_most(f"memory of {node.tier}", node.room_gb, node.memory_gb, " GB")
        if node.machines is None:
            yield Binding(f"tiers.{node.tier}.count", f"{node.available or 'any'}", "no number is enough", -1.0, True)
        elif node.available is not None:
            yield _at_most(f"tiers.{node.tier}.count", node.available, node.machines)
        if node.load >= 1 and node.tier == fleet.tiers[0].name:
            yield Binding(f"load of {node.tier}", "1", f"{node.load:.3g}", -1.0, True)


def _at_most(name: str, most: float, has: float, unit: str = "") -> Binding:
    left = 1 - has / most if most > 0 else -1.0 if has > 0 else 0.0
    return Binding(name, f"{plain(most)}{unit}", f"{plain(has)}{unit}", left, left < TIGHT)


def _agreement(least: float, has: float | None) -> Binding:
    """What may differ is limited."""
    if has is None:
        return Binding("goals.agreement", f"{least:.4g}", "not measured", -1.0, True, True)
    differs, most = 1 - has, 1 - least
    left = 1 - differs / most if most > 0 else -1.0 if differs > 0 else 0.0
    return Binding("goals.agreement", f"{least:.4g}", f"{has:.4g}", left, left < TIGHT, True)
