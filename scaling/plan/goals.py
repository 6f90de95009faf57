"""The goals of a fleet, one by one: whether a plan keeps each, and which cannot be kept, and what could.

A goal is a limit on something that can be measured of any placement, and a fleet without it. So what fails is found by
searching without each goal in turn, and the nearest that holds is the least that the others allow.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from scaling.plan.exitlaw import ExitLaw
from scaling.plan.fleet import Fleet, Goals, Tier
from scaling.plan.search import TIE, Group, Question, groups, limits_of
from scaling.plan.stages import answering
from scaling.plan.tiers import Held
from scaling.plan.words import plain
from scaling.runs import FloatArray

MILLI = 1e-3
MOST_DROPPED = 2
"""Goals without which a plan is looked for, at a time."""


@dataclass(frozen=True)
class Goal:
    """One limit."""

    name: str
    """As the fleet file has it, `goals.ttft_ms`."""
    wanted: float
    """The most that is allowed, in the file's unit."""
    give: Callable[[Fleet, float | None], Fleet]
    """The fleet with another limit in its place, or with none."""
    measure: Callable[[Fleet, Group], FloatArray]
    """Of a group's placements (P,), in the file's unit; to be at most `wanted`."""
    question: Question
    """By which its least is searched for."""
    shown: Callable[[float], str]
    """A value of it for people, as the fleet file would have it."""
    least: bool = False
    """Whether the fleet file has the least that is allowed."""

    def without(self, fleet: Fleet) -> Fleet:
        """The fleet without it."""
        return self.give(fleet, None)


def goals_of(fleet: Fleet) -> tuple[Goal, ...]:
    """Every goal that a fleet has, and every number of machines."""
    return tuple(_goals(fleet))


def _goals(fleet: Fleet) -> Iterator[Goal]:
    goals = fleet.goals
    if goals.ttft_s is not None:
        yield _time("ttft", goals.ttft_s, lambda group: group.placements.ttft)
    if goals.tpot_s is not None:
        yield _time("tpot", goals.tpot_s, lambda group: group.placements.tpot)
    if goals.budget_per_hour is not None:
        yield Goal(
            "goals.budget_per_hour",
            goals.budget_per_hour,
            lambda f, most: _with(f, budget_per_hour=most),
            lambda _, group: group.placements.cost,
            Question("cost"),
            plain,
        )
    for name, most in goals.loss.items():
        yield _loss(fleet, name, most)
    for tier in fleet.tiers:
        if free := goals.memory_free.get(tier.name, 0.0):
            yield _memory(fleet, tier, free)
        if tier.count is not None and tier is not fleet.tiers[0]:
            yield _machines(fleet, tier, tier.count)


def _with(fleet: Fleet, **changes: object) -> Fleet:
    goals: Goals = replace(fleet.goals, **changes)  # type: ignore[arg-type]
    return replace(fleet, goals=goals)


def _time(name: str, most: float, times: Callable[[Group], FloatArray]) -> Goal:
    def slowest(_: Fleet, group: Group) -> FloatArray:
        """Of the classes that somebody is in."""
        found: FloatArray = times(group)[:, group.shares > 0].max(axis=1) / MILLI
        return found

    def give(f: Fleet, value: float | None) -> Fleet:
        return _with(f, **{f"{name}_s": None if value is None else value * MILLI})

    return Goal(f"goals.{name}_ms", most / MILLI, give, slowest, Question(name), plain)


def _loss(fleet: Fleet, name: str, most: float) -> Goal:
    at = next(i for i, tier in enumerate(fleet.tiers) if tier.name == name)

    def give(f: Fleet, value: float | None) -> Fleet:
        others = {key: own for key, own in f.goals.loss.items() if key != name}
        return _with(f, loss=others if value is None else {**others, name: value})

    def loss(_: Fleet, group: Group) -> FloatArray:
        found: FloatArray = group.losses[:, answering(group.used, at)]
        return found

    return Goal(f"goals.loss.{name}", most, give, loss, Question("exits"), "{:.3f}".format)


def _memory(fleet: Fleet, tier: Tier, free: float) -> Goal:
    def give(f: Fleet, value: float | None) -> Fleet:
        return _with(f, memory_free={**f.goals.memory_free, tier.name: 0.0 if value is None else 1 - value})

    def taken(f: Fleet, group: Group) -> FloatArray:
        return _of_tier(f, group, tier.name, lambda held: held.memory_bytes) / tier.hardware.memory_bytes

    question = Question("watched", fleet.tiers.index(tier), lambda held: held.memory_bytes)
    name = f"goals.memory_free.{tier.name}"
    return Goal(name, 1 - free, give, taken, question, lambda share: f"{1 - share:.3f}", least=True)


def _machines(fleet: Fleet, tier: Tier, count: int) -> Goal:
    def give(f: Fleet, value: float | None) -> Fleet:
        most = None if value is None else int(value)
        return replace(f, tiers=tuple(replace(t, count=most) if t.name == tier.name else t for t in f.tiers))

    def needed(f: Fleet, group: Group) -> FloatArray:
        return _of_tier(f, group, tier.name, lambda held: held.machines)

    question = Question("watched", fleet.tiers.index(tier), lambda held: held.machines)
    return Goal(f"tiers.{tier.name}.count", count, give, needed, question, "{:,.0f}".format)


def _of_tier(fleet: Fleet, group: Group, name: str, what: Callable[[Held], FloatArray]) -> FloatArray:
    """Something that a tier has (P,); 0 where the group does not use it."""
    column = next((i for i, at in enumerate(group.used) if fleet.tiers[at].name == name), None)
    if column is None:
        return np.zeros(len(group.placements))
    found: FloatArray = group.held(what)[:, column]
    return found


def failing(fleet: Fleet, law: ExitLaw) -> str:
    """Why no plan keeps all goals: those that fail, with the nearest that holds, for an error.

    The fewest goals are looked for without which there is a plan, each such choice of `MOST_DROPPED` at most. A goal
    that fails where there is no other is in every choice.
    """
    goals = goals_of(fleet)
    bare = fleet
    for goal in goals:
        bare = goal.without(bare)
    if not goals or not _possible(bare, law, Question("cost")):
        return (
            "no plan is possible at all: no trunk fits into the memory of these machines; add memory, a tier, or allow "
            "a narrower training.trunk"
        )
    hopeless = {goal for goal in goals if not _possible(goal.give(bare, goal.wanted), law, goal.question)}
    for count in range(max(1, len(hopeless)), min(MOST_DROPPED, len(goals)) + 1):
        choices = (dropped for dropped in combinations(goals, count) if hopeless <= set(dropped))
        ways = [least for dropped in choices if (least := _nearest(fleet, law, dropped))]
        if ways:
            head = "one of these would do:" if count == 1 else f"{count} of them have to give way; these would do:"
            lines = (" and ".join(_line(goal, value) for goal, value in way.items()) for way in ways)
            return "\n  ".join([f"no plan keeps all goals. With the others as they are, {head}", *lines])
    lines = (_line(goal, _least(bare, law, goal)) for goal in goals if goal in hopeless or not hopeless)
    head = f"no plan keeps all goals, nor all but {MOST_DROPPED}. The best of each, with no other goal at all:"
    return "\n  ".join([head, *lines])


def _possible(fleet: Fleet, law: ExitLaw, question: Question) -> bool:
    return any(group.kept.any() for group in groups(fleet, law, limits_of(fleet), question=question))


def _nearest(fleet: Fleet, law: ExitLaw, dropped: Sequence[Goal]) -> dict[Goal, float]:
    """What there is without some goals: the least of the first, then with that the least of the next; else nothing."""
    for goal in dropped:
        fleet = goal.without(fleet)
    found: dict[Goal, float] = {}
    for goal in dropped:
        least = _least(fleet, law, goal)
        if np.isinf(least):
            return {}
        found[goal] = least
        fleet = goal.give(fleet, least * (1 + TIE))
    return found


def _least(fleet: Fleet, law: ExitLaw, goal: Goal) -> float:
    """The least of what a goal limits, over all plans; infinite if there are none."""
    found = groups(fleet, law, limits_of(fleet), question=goal.question)
    values = (goal.measure(fleet, group)[group.kept] for group in found)
    return min((float(value.min()) for value in values if len(value)), default=np.inf)


def _line(goal: Goal, least: float) -> str:
    return f"{goal.name}: {goal.shown(goal.wanted)} asked, {goal.shown(least)} is the nearest that holds"


def measured(fleet: Fleet, group: Group, index: int) -> Mapping[Goal, float]:
    """What a plan has of each goal."""
    return {goal: float(goal.measure(fleet, group)[index]) for goal in goals_of(fleet)}
