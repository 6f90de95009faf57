"""Deployments of a bundle in the fleet's words: machines at the traffic's peak, memory, money, power, goals missed.

Shared tiers are sized by the queueing model. What differs only in how long texts are away is sized at once, so that all
deployments are looked at, and none is left out by a guess.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from scaling.plan.asked import Asked
from scaling.plan.bundledocument import BundleChoice, Leg, NodePlan, policy_text
from scaling.plan.bundlegoals import bindings
from scaling.plan.deployment import Place
from scaling.plan.fleet import Objective
from scaling.plan.memory import memory_bytes
from scaling.plan.money import rates, tier_cost
from scaling.plan.place import Choice, place
from scaling.plan.queueing import Demand, forward_of, sizing
from scaling.plan.wire import transfer_s

GIGA = 1e9


@dataclass(frozen=True)
class _Need:
    """Of one place's tier, at the peak."""

    machines: float
    """Infinite where no number is enough."""
    sessions: float
    """Texts under way on a machine."""
    together: float
    """Of these, those that wait for no other tier."""
    busy: float
    """Share of the time in which a machine computes."""


LEAST: Mapping[Objective, Callable[[BundleChoice], float]] = {
    "latency": lambda one: one.text_s,
    "cost": lambda one: one.cost_per_hour,
    "energy": lambda one: one.power_w,
    "pareto": lambda one: one.text_s,
    "quality": lambda one: 1 - (one.agreement or 0.0),
}
"""What is to be small; of equal ones the quicker text is first."""


def ranked(asked: Asked) -> list[BundleChoice]:
    """Every deployment: those that keep all goals by the objective, then those that miss the fewest."""
    least = LEAST[asked.fleet.objective]
    return sorted(scored(asked, place(asked.question)), key=lambda one: (len(one.misses), least(one)))


def scored(asked: Asked, found: Sequence[Choice]) -> list[BundleChoice]:
    """Each deployment with what it takes of the fleet."""
    needs = _needs(asked, found)
    return [
        _scored(asked, choice, [needs[n, i] for i in range(len(choice.precisions))]) for n, choice in enumerate(found)
    ]


def _needs(asked: Asked, found: Sequence[Choice]) -> dict[tuple[int, int], _Need]:
    """By number of the choice and of its place."""
    own, needs, alike = asked.fleet.tiers[0], {}, defaultdict(list)
    peak = asked.fleet.traffic.requests_per_second * asked.fleet.traffic.peak
    for n, choice in enumerate(found):
        deployment = choice.deployment
        for i, part in enumerate(deployment.places):
            reached = tuple(g for g in part.segments if g <= deployment.deepest)
            if part.tier == own.name:
                count = float(own.count or 1)
                needs[n, i] = _Need(count, 1.0, 1.0, peak * _busy_s(asked, choice, own.name) / count)
            elif not reached or _busy_s(asked, choice, part.tier) <= 0:
                needs[n, i] = _Need(1.0, 0.0, 0.0, 0.0)
            else:
                alike[part.tier, reached, deployment.deepest].append((n, i))
    for (tier, reached, deepest), rows in alike.items():
        needs.update(zip(rows, _sized(asked, tier, reached, deepest, [found[n] for n, _ in rows]), strict=True))
    return needs


def _sized(asked: Asked, tier: str, reached: Sequence[int], deepest: int, found: Sequence[Choice]) -> list[_Need]:
    """A shared tier at the peak: its texts share forwards, and are away while others work on them."""
    traffic, machine = asked.fleet.traffic, asked.machines[tier]
    away = np.array([_away_s(asked, choice, tier) for choice in found])
    empty = np.array([_empty_bytes(asked, choice, tier) for choice in found])
    each = np.array([float(choice.prediction.memory_bytes[tier]) for choice in found]) - empty
    demand = Demand(
        traffic.requests_per_second * traffic.peak,
        traffic.prompt_tokens,
        traffic.output_tokens,
        traffic.prompt_cv,
        away_s=away,
    )
    forward = forward_of([machine.segments[g] for g in reached], machine.exits[deepest] if deepest in reached else None)
    with np.errstate(invalid="ignore"):  # far beyond what was measured, a curve may fall below 0
        sized = sizing(forward, demand, each, _room_bytes(asked, tier) - empty)
    count, sessions = np.asarray(sized.machines), np.asarray(sized.sessions)
    gone = demand.rate / count * max(traffic.output_tokens - 1, 0) * away  # Little's law
    rows = zip(count, sessions, np.maximum(sessions - gone, 0.0), np.asarray(sized.busy), strict=True)
    return [_Need(*map(float, row)) for row in rows]


def _busy_s(asked: Asked, choice: Choice, tier: str) -> float:
    prompt_s, token_s = choice.prediction.busy_s[tier]
    return float(prompt_s) + asked.fleet.traffic.output_tokens * float(token_s)


def _away_s(asked: Asked, choice: Choice, tier: str) -> float:
    """Of a token's time, what passes elsewhere; none where the tier writes the whole text."""
    if len(choice.deployment.places) == 1:
        return 0.0
    own_s = _busy_s(asked, choice, tier) / asked.fleet.traffic.output_tokens
    return max(float(choice.prediction.tpot_s) - own_s, 0.0)


def _room_bytes(asked: Asked, tier: str) -> float:
    """What the goals leave of a machine's memory."""
    return asked.machines[tier].memory_bytes * (1 - asked.fleet.goals.memory_free.get(tier, 0.0))


def _empty_bytes(asked: Asked, choice: Choice, tier: str) -> float:
    """A node's memory without any session."""
    traffic, deployment = asked.fleet.traffic, choice.deployment
    found = memory_bytes(
        deployment, asked.machines, (deployment.deepest,), traffic.prompt_tokens, traffic.output_tokens, 0
    )
    return float(found[tier])


def _scored(asked: Asked, choice: Choice, needs: Sequence[_Need]) -> BundleChoice:
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
        spent = tier_cost(
            rates(tier.hardware, price), node.machines, min(node.load / fleet.traffic.peak, 1.0), float(shared)
        )
        cost += float(spent.per_hour)
        power += float(spent.power_w)
        if need.together > most:
            outside.append(f"{tier.name}: {need.together:.3g} texts at once, measured up to {most:g}")
    made = BundleChoice(
        tuple(nodes),
        policy_text(deployment.policy),
        deployment.send,
        deployment.codec,
        float(found.ttft_s),
        float(found.tpot_s),
        choice.agreement,
        choice.text_s,
        float(found.bytes_up_prompt) + fleet.traffic.output_tokens * float(found.bytes_up_token),
        cost,
        power,
        (),
        tuple(outside),
        tuple(_legs(choice)),
    )
    return replace(made, misses=tuple(goal.goal for goal in bindings(fleet, made) if goal.left < 0))


def _legs(choice: Choice) -> Iterator[Leg]:
    deployment, found = choice.deployment, choice.prediction
    if deployment.client is not None:
        half_s = deployment.client.rtt_s / 2
        yield Leg(f"link to {deployment.places[0].tier}", False, half_s, half_s, 0.0, 0.0)
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


def _node(asked: Asked, choice: Choice, part: Place, precision: str, need: _Need) -> NodePlan:
    empty, enough = _empty_bytes(asked, choice, part.tier), bool(np.isfinite(need.machines))
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
        _room_bytes(asked, part.tier) / GIGA,
        _busy_s(asked, choice, part.tier),
        asked.basis[part.tier],
    )
