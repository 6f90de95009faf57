"""Why a bundle is run as it is: which goals bind, and what one more unit of each resource buys, by planning again."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TypeAlias

from scaling.plan.asked import Asked
from scaling.plan.bundledocument import BundleChoice
from scaling.plan.bundlegoals import bindings
from scaling.plan.bundlescore import LEAST, judged, rank, scored
from scaling.plan.cost import loaded, remembered
from scaling.plan.deployment import Deployment
from scaling.plan.explain import LINKS, MORE, Bought, Explanation, at
from scaling.plan.fleet import Fleet, Objective
from scaling.plan.place import choices, predicted

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
    known = scored(asked, list(predicted(asked.question, choices(asked.question))))
    buys = []
    for what, other, touches in better(asked):
        first = _best(other, known if other.fleet is asked.fleet else _judged(other.fleet, known), touches)
        buys.append(Bought(what, LEAST[objective](first), LEAST[objective](first) - score))
    return Explanation(objective, UNITS[objective], score, (), (), tuple(bindings(asked.fleet, best)), tuple(buys))


Touches: TypeAlias = Callable[[Deployment], bool]
"""Whether the times, machines or memory of a deployment are others than before."""


def _best(other: Asked, known: Sequence[tuple[int, BundleChoice]], touches: Touches) -> BundleChoice:
    """The best, where only what is touched is looked at again."""
    given = list(choices(other.question))
    again = [touches(deployment) for deployment, _ in given]
    changed = predicted(other.question, (one for one, is_touched in zip(given, again, strict=True) if is_touched))
    rest = (one for n, one in known if not again[n])
    return min((*rest, *(one for _, one in scored(other, list(changed)))), key=lambda one: rank(other.fleet, one))


def _judged(fleet: Fleet, known: Sequence[tuple[int, BundleChoice]]) -> list[tuple[int, BundleChoice]]:
    """By the goals and the numbers of machines of another fleet."""
    counts = {tier.name: None if tier is fleet.tiers[0] else tier.count for tier in fleet.tiers}

    def with_counts(one: BundleChoice) -> BundleChoice:
        return replace(one, nodes=tuple(replace(node, available=counts[node.tier]) for node in one.nodes))

    return [(n, judged(fleet, with_counts(one))) for n, one in known]


def _runs_on(tier: str) -> Touches:
    return lambda deployment: any(place.tier == tier for place in deployment.places)


def _crosses(tiers: Sequence[str], link: int) -> Touches:
    """The link above the tier of that number; users are at the first."""
    return lambda deployment: tiers.index(deployment.places[-1].tier) > link


def better(asked: Asked) -> Iterator[tuple[str, Asked, Touches]]:
    """The question with a tenth more of each thing, or one more machine, one at a time."""
    fleet, question = asked.fleet, asked.question
    names = [tier.name for tier in fleet.tiers]
    for i, tier in enumerate(fleet.tiers):
        machine, here = asked.machines[tier.name], _runs_on(tier.name)
        yield f"{tier.name}: compute", asked.with_machine(tier.name, remembered(loaded(machine, 1 / MORE))), here
        more = replace(machine, memory_bytes=machine.memory_bytes * MORE)
        yield f"{tier.name}: memory", asked.with_machine(tier.name, more), here
        if i and tier.count is not None:
            tiers = at(fleet.tiers, i, replace(tier, count=tier.count + 1))
            yield f"{tier.name}: one more machine", replace(asked, fleet=replace(fleet, tiers=tiers)), _nothing
    for i, (below, above) in enumerate(zip(fleet.tiers[:-1], fleet.tiers[1:], strict=True)):
        for what, faster in LINKS.items():
            links = at(tuple(question.links), i, faster(question.links[i]))
            other = replace(asked, question=replace(question, links=links))
            yield f"{below.name}-{above.name}: {what}", other, _crosses(names, i)
    goals = fleet.goals
    looser = {name: value * MORE for name in ("ttft_s", "tpot_s", "budget_per_hour") if (value := getattr(goals, name))}
    if goals.agreement is not None:
        looser["agreement"] = 1 - (1 - goals.agreement) * MORE
    for name, value in looser.items():
        other = replace(asked, fleet=replace(fleet, goals=replace(goals, **{name: value})))
        yield f"goal {name.removesuffix('_s')}, looser", other, _nothing


def _nothing(_: Deployment) -> bool:
    return False
