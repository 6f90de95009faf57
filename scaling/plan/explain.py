"""Why a plan is as it is: what other G come to, what an exit a layer earlier or later would cost, which goals bind,
and what one more unit of each resource buys.
"""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from scaling.plan.exitlaw import ExitLaw
from scaling.plan.fleet import Fleet, Link, Objective, Tier
from scaling.plan.goals import goals_of
from scaling.plan.money import PER_HOUR
from scaling.plan.placement import place_at
from scaling.plan.search import Choice, Found, Group, Question, groups, limits_of, loss_table

T = TypeVar("T")
TIGHT = 0.05
"""A goal other than a loss binds where less than this share of it is left."""
MORE = 1.1
"""One more unit: a tenth."""
STEPS = (-2, -1, 1, 2)
"""Layers by which exits are moved to see what happens."""
LOOSER = "goal loss of {}, 1% looser"
UNITS = {"cost": PER_HOUR, "latency": "s per token", "quality": "nats", "energy": "W"}


@dataclass(frozen=True)
class Alternative:
    """The best plan of a G."""

    granularity: int
    tiers: str
    score: float | None
    """Of the objective; missing where no plan of this G keeps the goals."""


@dataclass(frozen=True)
class Moved:
    """An exit somewhere else, all else the same."""

    tier: str
    layer: int
    score: float | None
    """Missing where a tier cannot do it at all."""
    breaks: tuple[str, ...]
    """Goals that fail then, or what is too small for it."""


@dataclass(frozen=True)
class Binding:
    """A goal and what is left of it."""

    goal: str
    asked: str
    has: str
    left: float
    """Share of the limit."""
    binds: bool
    least: bool = False
    """Whether at least that is asked, not at most."""


@dataclass(frozen=True)
class Bought:
    """What a tenth more of something, or of a goal, changes."""

    what: str
    score: float
    change: float
    """Of the objective; negative is better."""


@dataclass(frozen=True)
class Explanation:
    """Everything that `--explain` says."""

    objective: str
    unit: str
    score: float
    granularities: tuple[Alternative, ...]
    moved: tuple[Moved, ...]
    goals: tuple[Binding, ...]
    buys: tuple[Bought, ...]


def explain(fleet: Fleet, law: ExitLaw, found: Found, best: Choice, objective: Objective) -> Explanation:
    """Why this plan. `best` is the choice of `found` that is best in `objective`."""
    group = found.groups[best.group]
    score = float(group.score(objective)[best.index])
    buys = tuple(_buys(fleet, law, score, objective))
    return Explanation(
        objective=objective,
        unit=UNITS[objective],
        score=score,
        granularities=tuple(_granularities(fleet, found, objective)),
        moved=tuple(_moved(fleet, law, group, best.index, objective)),
        goals=tuple(_binding(fleet, law, group, best.index, {gain.what for gain in buys if _counts(gain, score)})),
        buys=buys,
    )


def _granularities(fleet: Fleet, found: Found, objective: Objective) -> Iterator[Alternative]:
    for g in range(1, len(fleet.tiers) + 1):
        rows = [
            (float(group.score(objective)[group.kept].min()), "+".join(fleet.tiers[at].name for at in group.used))
            for group in found.groups
            if len(group.used) == g and group.kept.any()
        ]
        least = min(rows, default=None)
        yield Alternative(g, least[1] if least else "", least[0] if least else None)


def _moved(fleet: Fleet, law: ExitLaw, group: Group, index: int, objective: Objective) -> Iterator[Moved]:
    """Every early exit a little earlier and later; the tiers on both sides take the difference."""
    layers = group.placements.layers[index]
    loose = replace(limits_of(fleet), ttft=np.inf, tpot=np.inf, cost=np.inf)
    anywhere = [
        [replace(option.stage, possible=np.ones_like(option.stage.possible)) for option in tier]
        for tier in group.options
    ]
    for i, at in enumerate(group.used[:-1]):
        for step in STEPS:
            wanted = layers.copy()
            wanted[i] += step
            if (np.diff(wanted, prepend=0) < 1).any():
                continue
            placements = place_at(anywhere, wanted.tolist(), loose)
            losses = loss_table(law, law.theta, group.made)[0][placements.layers - 1]
            other = replace(group, placements=placements, losses=losses)
            broken = _broken(fleet, other)
            score = np.where(other.held(lambda held: held.possible).all(axis=1), other.score(objective), np.inf)
            fewest = int(np.lexsort((score, np.sum(list(broken.values()), axis=0)))[0])
            names = tuple(name for name, breaks in broken.items() if breaks[fewest])
            known = float(score[fewest]) if np.isfinite(score[fewest]) else None
            yield Moved(fleet.tiers[at].name, int(wanted[i]), known, names)


def _broken(fleet: Fleet, group: Group) -> dict[str, NDArray[np.bool_]]:
    """By name, where a goal fails (P,); and where a tier is too small or slow by nothing that a goal asks of it."""
    found = {goal.name: goal.measure(fleet, group) > goal.wanted * (1 + 1e-9) for goal in goals_of(fleet)}
    possible = group.held(lambda held: held.possible) > 0
    for i, used in enumerate(group.used):
        name = fleet.tiers[used].name
        told = np.zeros(len(possible), bool)
        for goal in (f"goals.memory_free.{name}", f"tiers.{name}.count"):
            told |= found.get(goal, False)
        found[f"what {name} holds, or how fast it is"] = ~possible[:, i] & ~told
    return found


def _binding(fleet: Fleet, law: ExitLaw, group: Group, index: int, buys: Collection[str]) -> Iterator[Binding]:
    """Losses differ by little of themselves: one binds where it would break with the exit a layer earlier, or where a
    looser one buys something.
    """
    one = group.placements.take(np.array([index]))
    losses = loss_table(law, law.theta, group.made)[0][np.maximum(one.layers - 2, 0)]
    earlier = replace(group, placements=one, losses=losses)
    for goal in goals_of(fleet):
        has = float(goal.measure(fleet, group)[index])
        left = 1 - has / goal.wanted
        is_loss = goal.question.least == "exits"
        breaks = float(goal.measure(fleet, earlier)[0]) > goal.wanted
        binds = breaks or LOOSER.format(goal.name.rpartition(".")[2]) in buys if is_loss else left < TIGHT
        yield Binding(goal.name, goal.shown(goal.wanted), goal.shown(has), left, binds, goal.least)


def _buys(fleet: Fleet, law: ExitLaw, score: float, objective: Objective) -> Iterator[Bought]:
    for what, other in _better(fleet):
        found = groups(other, law, limits_of(other), question=Question(objective))
        rows = (group.score(objective)[group.kept] for group in found)
        least = min((float(row.min()) for row in rows if len(row)), default=score)
        yield Bought(what, min(least, score), min(least - score, 0.0))  # what is too much can be left unused


def _better(fleet: Fleet) -> Iterator[tuple[str, Fleet]]:
    """The fleet with a tenth more of each thing, one at a time."""
    if compute := fleet.training.compute_flops:
        yield "training compute", replace(fleet, training=replace(fleet.training, compute_flops=compute * MORE))
    for i, tier in enumerate(fleet.tiers):
        for what, change in _HARDWARE.items():
            yield f"{tier.name}: {what}", replace(fleet, tiers=at(fleet.tiers, i, change(tier)))
        if tier.count is not None and i:
            more = replace(tier, count=max(tier.count + 1, int(tier.count * MORE)))
            yield f"{tier.name}: machines, {more.count:,}", replace(fleet, tiers=at(fleet.tiers, i, more))
    for i, (below, above) in enumerate(zip(fleet.tiers[:-1], fleet.tiers[1:], strict=True)):
        for what, faster in LINKS.items():
            yield (
                f"{below.name}-{above.name}: {what}",
                replace(fleet, links=at(fleet.links, i, faster(fleet.links[i]))),
            )
    goals = fleet.goals
    for name in ("ttft_s", "tpot_s", "budget_per_hour"):
        if (value := getattr(goals, name)) is not None:
            looser = replace(goals, **{name: value * MORE})
            yield f"goal {name.removesuffix('_s')}, looser", replace(fleet, goals=looser)
    for name, most in goals.loss.items():
        yield (
            LOOSER.format(name),
            replace(fleet, goals=replace(goals, loss={**goals.loss, name: most * 1.01})),
        )


def _hardware(**names: float) -> Callable[[Tier], Tier]:
    def change(tier: Tier) -> Tier:
        old = tier.hardware
        more = {name: getattr(old, name) * factor for name, factor in names.items() if name != "flops"}
        flops = {name: value * names.get("flops", 1.0) for name, value in old.flops.items()}
        return replace(tier, hardware=replace(old, flops=flops, **more))

    return change


_HARDWARE: dict[str, Callable[[Tier], Tier]] = {
    "compute": _hardware(flops=MORE),
    "memory bandwidth": _hardware(bandwidth_bytes=MORE),
    "memory": _hardware(memory_bytes=MORE),
}
LINKS: dict[str, Callable[[Link], Link]] = {
    "bandwidth": lambda link: replace(link, up_bps=link.up_bps * MORE, down_bps=link.down_bps * MORE),
    "shorter round trip": lambda link: replace(link, rtt_s=link.rtt_s / MORE),
}
"""A link with a tenth more of something."""


def _counts(gain: Bought, score: float) -> bool:
    """Whether it is more than rounding."""
    return abs(gain.change) > 1e-9 * max(abs(score), 1e-12)


def at(values: tuple[T, ...], i: int, value: T) -> tuple[T, ...]:
    """The values with another one at i."""
    return (*values[:i], value, *values[i + 1 :])


def explanation_lines(found: Explanation) -> Iterator[str]:
    """The explanation for people."""
    if found.granularities:
        yield f"why this G (least {found.objective}, {found.unit}):"
    for one in found.granularities:
        text = "no plan keeps the goals" if one.score is None else f"{one.score:.4g} on {one.tiers}"
        yield f"  G = {one.granularity}: {text}"
    if found.moved:
        yield "why these layers:"
    for move in found.moved:
        change = "" if move.score is None else f"{move.score - found.score:+.3g} {found.unit}"
        verdict = f"breaks {', '.join(move.breaks)}" if move.breaks else change
        yield f"  {move.tier}'s exit after layer {move.layer}: {verdict}"
    yield "goals:"
    for goal in found.goals:
        side = "at least" if goal.least else "at most"
        yield f"  {goal.goal}: {goal.has}, {side} {goal.asked}{': binds' if goal.binds else f', {goal.left:.0%} left'}"
    gains = [gain for gain in found.buys if _counts(gain, found.score)]
    yield "a tenth more of each, what it buys:" if gains else "a tenth more of anything buys nothing"
    for gain in sorted(gains, key=lambda gain: gain.change):
        yield f"  {gain.what}: {gain.change:+.3g} {found.unit}"
