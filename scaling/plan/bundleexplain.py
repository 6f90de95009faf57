"""Why a bundle is run as it is: which goals bind, and what one more unit of each resource buys, by planning again."""

from collections.abc import Iterator
from dataclasses import replace

from scaling.plan.asked import Asked
from scaling.plan.bundledocument import BundleChoice
from scaling.plan.bundlegoals import bindings
from scaling.plan.bundlescore import LEAST, ranked
from scaling.plan.cost import loaded, remembered
from scaling.plan.explain import LINKS, MORE, Bought, Explanation, at
from scaling.plan.fleet import Objective

UNITS: dict[Objective, str] = {
    "cost": "per hour",
    "latency": "s per text",
    "quality": "of the tokens differ",
    "energy": "W",
}


def explain_bundle(asked: Asked, best: BundleChoice) -> Explanation:
    """Why this deployment, which is the best of those that keep the goals."""
    given = asked.fleet.objective
    objective: Objective = "latency" if given == "pareto" else given
    score = LEAST[objective](best)
    buys = []
    for what, other in _better(asked):
        first = ranked(other)[0]
        buys.append(Bought(what, LEAST[objective](first), LEAST[objective](first) - score))
    return Explanation(objective, UNITS[objective], score, (), (), tuple(bindings(asked.fleet, best)), tuple(buys))


def _better(asked: Asked) -> Iterator[tuple[str, Asked]]:
    """The question with a tenth more of each thing, or one more machine, one at a time."""
    fleet, question = asked.fleet, asked.question
    for i, tier in enumerate(fleet.tiers):
        machine = asked.machines[tier.name]
        yield f"{tier.name}: compute", asked.with_machine(tier.name, remembered(loaded(machine, 1 / MORE)))
        more = replace(machine, memory_bytes=machine.memory_bytes * MORE)
        yield f"{tier.name}: memory", asked.with_machine(tier.name, more)
        if i and tier.count is not None:
            tiers = at(fleet.tiers, i, replace(tier, count=tier.count + 1))
            yield f"{tier.name}: one more machine", replace(asked, fleet=replace(fleet, tiers=tiers))
    for i, (below, above) in enumerate(zip(fleet.tiers[:-1], fleet.tiers[1:], strict=True)):
        for what, faster in LINKS.items():
            links = at(tuple(question.links), i, faster(question.links[i]))
            yield f"{below.name}-{above.name}: {what}", replace(asked, question=replace(question, links=links))
    goals = fleet.goals
    looser = {name: value * MORE for name in ("ttft_s", "tpot_s", "budget_per_hour") if (value := getattr(goals, name))}
    if goals.agreement is not None:
        looser["agreement"] = 1 - (1 - goals.agreement) * MORE
    for name, value in looser.items():
        other = replace(fleet, goals=replace(goals, **{name: value}))
        yield f"goal {name.removesuffix('_s')}, looser", replace(asked, fleet=other)
