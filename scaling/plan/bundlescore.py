"""Deployments of a bundle in the fleet's words: machines and times at the traffic's peak, memory, money, power, goals
missed.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from scaling.plan.asked import Asked
from scaling.plan.bundledocument import BundleChoice, Leg, NodePlan, policy_text
from scaling.plan.bundlegoals import bindings
from scaling.plan.deployment import Place
from scaling.plan.fleet import Fleet, Objective
from scaling.plan.money import rates, tier_cost
from scaling.plan.peak import Served, busy_s, room_bytes, served
from scaling.plan.percentile import Peak, peaks
from scaling.plan.place import Choice, choices, predicted
from scaling.plan.stages import LOADS
from scaling.plan.wire import reply_s, request_s, transfer_s

GIGA = 1e9


LEAST: Mapping[Objective, Callable[[BundleChoice], float]] = {
    "latency": lambda one: one.text_s,
    "cost": lambda one: one.cost_per_hour,
    "energy": lambda one: one.power_w,
    "pareto": lambda one: one.text_s,
    "quality": lambda one: 1 - (one.agreement or 0.0),
}
"""What is to be small; of equal ones the quicker text is first."""


def ranked(asked: Asked) -> list[BundleChoice]:
    """Every deployment: those that keep all goals by the objective, then those that miss the fewest by the least."""
    rows = scored(asked, list(predicted(asked.question, choices(asked.question))))
    return sorted((one for _, one in rows), key=lambda one: rank(asked.fleet, one))


def rank(fleet: Fleet, one: BundleChoice) -> tuple[float, ...]:
    """Of two deployments, that of the better one is less."""
    impossible = any(node.machines is None for node in one.nodes)
    return len(one.misses), impossible, one.missed_by, LEAST[fleet.objective](one)


def scored(asked: Asked, found: Sequence[Choice]) -> list[tuple[int, BundleChoice]]:
    """Each deployment by its number, with what it takes of the fleet: with the fewest machines, and with more, so that
    texts wait less for each other.
    """
    fewest, more = served(asked, found, LOADS)
    others = [n for n, (a, b) in enumerate(zip(fewest, more, strict=True)) if _machines(a) != _machines(b)]
    numbers, needs = [*range(len(found)), *others], [*fewest, *(more[n] for n in others)]
    fleet, predicted_ = asked.fleet, [(found[n].deployment, found[n].prediction) for n in numbers]
    times = peaks(fleet.tiers[0].name, fleet.traffic, fleet.goals.percentile, predicted_, needs)
    return [(n, _scored(asked, found[n], need, peak)) for n, need, peak in zip(numbers, needs, times, strict=True)]


def judged(fleet: Fleet, one: BundleChoice) -> BundleChoice:
    """With the goals of the fleet that it misses."""
    missed = [goal for goal in bindings(fleet, one) if goal.left < 0]
    return replace(one, misses=tuple(goal.goal for goal in missed), missed_by=-sum(goal.left for goal in missed))


def _machines(places: Sequence[Served]) -> list[float]:
    return [need.machines for need in places]


def _scored(asked: Asked, choice: Choice, needs: Sequence[Served], peak: Peak) -> BundleChoice:
    deployment, found, fleet = choice.deployment, choice.prediction, asked.fleet
    nodes, outside, cost, power = [], list(found.beyond), 0.0, 0.0
    for part, precision, need in zip(deployment.places, choice.precisions, needs, strict=True):
        node = _node(asked, choice, part, precision, need)
        nodes.append(node)
        if node.machines is None:
            continue
        tier, most = fleet.tier(part.tier), asked.machines[part.tier].most_sessions
        shared = tier is not fleet.tiers[0]
        price = tier.price_per_hour if shared or tier.price_per_hour else 0.0
        spent = tier_cost(rates(tier.hardware, price), node.machines, min(need.mean_busy, 1.0), float(shared))
        cost += float(spent.per_hour)
        power += float(spent.power_w)
        if need.together > most:
            outside.append(f"{tier.name}: {need.together:.3g} texts at once, measured up to {most:g}")
    made = BundleChoice(
        tuple(nodes),
        policy_text(deployment.policy),
        deployment.send,
        deployment.codec,
        peak.ttft_s,
        peak.tpot_s,
        peak.ttft_mean_s,
        peak.tpot_mean_s,
        choice.agreement,
        peak.ttft_mean_s + (fleet.traffic.output_tokens - 1) * peak.tpot_mean_s,
        float(found.bytes_up_prompt) + (fleet.traffic.output_tokens - 1) * float(found.bytes_up_token),
        cost,
        power,
        (),
        0.0,
        tuple(outside),
        tuple(_legs(choice, fleet.traffic.prompt_tokens)),
    )
    return judged(fleet, made)


def _legs(choice: Choice, prompt_tokens: float) -> Iterator[Leg]:
    deployment, found = choice.deployment, choice.prediction
    if deployment.client is not None:
        back_s = float(reply_s(deployment.client)) / 2
        there_s = float(request_s(deployment.client, prompt_tokens)) - back_s
        yield Leg(f"link to {deployment.places[0].tier}", False, there_s, back_s, 0.0, 0.0)
    for i, part in enumerate(deployment.places):
        if i:
            up_bps = deployment.links[i - 1].up_bps
            ways = []
            for way, size in zip(found.link_s[i - 1], (found.link_up_prompt, found.link_up_token), strict=True):
                carried_s = min(float(transfer_s(size[i - 1], up_bps)), float(way))
                back_s = (float(way) - carried_s) / 2
                ways += [carried_s + back_s, back_s]
            yield Leg(f"link to {part.tier}", False, *ways)
        prompt_s, token_s = found.busy_s[part.tier]
        yield Leg(part.tier, True, float(prompt_s), 0.0, float(token_s), 0.0)


def _node(asked: Asked, choice: Choice, part: Place, precision: str, need: Served) -> NodePlan:
    empty, enough = need.empty_bytes, bool(np.isfinite(need.machines))
    each, sessions = float(choice.prediction.memory_bytes[part.tier]) - empty, need.sessions if enough else 1.0
    own = part.tier == asked.fleet.tiers[0].name
    return NodePlan(
        part.tier,
        precision,
        part.segments,
        int(need.machines) if enough else None,
        None if own else asked.fleet.tier(part.tier).count,
        need.busy if enough else 1.0,
        sessions,
        (empty + max(sessions, 1.0) * each) / GIGA,
        room_bytes(asked, part.tier) / GIGA,
        busy_s(asked, choice, part.tier),
        asked.basis[part.tier],
    )
