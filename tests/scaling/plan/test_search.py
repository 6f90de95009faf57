from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scaling.plan.exitlaw import shipped
from scaling.plan.fleet import Fleet, Goals, Link, Tier
from scaling.plan.search import best, limits_of, loss_table, ranked, search
from tests.scaling.plan.fleets import machine, small_fleet

LAW = shipped("sweep-exits")


def score(fleet: Fleet) -> float:
    """What the best plan has of the objective; infinite where there is none."""
    found = search(fleet, LAW)
    choice = best(found, fleet.objective)
    return np.inf if choice is None else float(found.groups[choice.group].score(fleet.objective)[choice.index])


def fleet_of(rng: np.random.Generator) -> Fleet:
    """Any small fleet, some of whose goals bind."""
    machines = [
        machine("a", rng.choice([0.002, 0.01]), rng.choice([2, 10]), rng.choice([0.002, 0.004, 0.02])),
        machine("b", rng.choice([0.02, 0.2]), rng.choice([10, 40]), rng.choice([0.003, 0.5])),
        machine("c", rng.choice([0.1, 2.0]), rng.choice([50, 400]), 4),
    ]
    links = [Link(rng.choice([0.002, 0.05]), rng.choice([1e6, 1e8]), 1e7, rng.choice([0.0, 0.004])) for _ in range(2)]

    def one_of(*values: float | None) -> float | None:
        return values[int(rng.integers(len(values)))]

    goals = Goals(
        ttft_s=one_of(None, 0.2, 0.5),
        tpot_s=one_of(None, 0.05, 0.2),
        loss={"a": one_of(3.6, 4.0) or 0.0, "c": one_of(3.4, 3.6) or 0.0},
        memory_free={"a": 0.3},
        budget_per_hour=one_of(None, 6.0, 60.0),
    )
    objective = str(rng.choice(["cost", "latency", "quality", "energy"]))
    decided = tuple(rng.dirichlet((1, 1, 1)))
    return small_fleet(machines, links, goals, objective, decided, float(rng.choice([3e12, 9e12])))


def with_tier(fleet: Fleet, i: int, change: Callable[[Tier], Tier]) -> Fleet:
    return replace(fleet, tiers=tuple(change(tier) if j == i else tier for j, tier in enumerate(fleet.tiers)))


def hardware(**factors: float) -> Callable[[Tier], Tier]:
    """A tier whose machines have so many times as much."""

    def change(tier: Tier) -> Tier:
        old = tier.hardware
        flops = {name: value * factors.get("flops", 1.0) for name, value in old.flops.items()}
        more = {name: getattr(old, name) * factor for name, factor in factors.items() if name != "flops"}
        return replace(tier, hardware=replace(old, flops=flops, **more))

    return change


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    tier=st.integers(0, 2),
    link=st.integers(0, 1),
    factor=st.floats(1.01, 20.0),
    what=st.sampled_from(
        ["flops", "bandwidth_bytes", "memory_bytes", "up_bps", "rtt_s", "jitter_s", "compute", "count"]
    ),
)
def test_more_of_anything_never_makes_the_best_plan_worse(
    seed: int, tier: int, link: int, factor: float, what: str
) -> None:
    fleet = fleet_of(np.random.default_rng(seed))
    if what == "count":
        fleet = with_tier(fleet, 1, lambda t: replace(t, count=1))
        more = with_tier(fleet, 1, lambda t: replace(t, count=int(1 + factor)))
    elif what == "compute":
        compute = fleet.training.compute_flops or 0.0
        more = replace(fleet, training=replace(fleet.training, compute_flops=compute * factor))
    elif what in ("up_bps", "rtt_s", "jitter_s"):
        better = factor if what == "up_bps" else 1 / factor
        links = list(fleet.links)
        links[link] = replace(links[link], **{what: getattr(links[link], what) * better})
        more = replace(fleet, links=tuple(links))
    else:
        more = with_tier(fleet, tier, hardware(**{what: factor}))
    assert score(more) <= score(fleet) * (1 + 1e-9)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_each_draw_has_the_plan_that_would_be_best_if_it_were_the_law(seed: int) -> None:
    fleet = fleet_of(np.random.default_rng(seed))
    found = search(fleet, LAW)
    rng = np.random.default_rng(seed)
    step = max(1, len(LAW.draws) // 200)
    for s in rng.integers(0, 200, 3):
        theta = LAW.draws[[s * step]]
        as_law = replace(LAW, theta=theta, draws=theta)
        alone = search(fleet, as_law)
        choice = best(alone, fleet.objective)
        mine = found.per_draw[s]
        assert (choice is None) == (mine is None)
        if choice is None or mine is None:
            continue
        group, drawn = alone.groups[choice.group], found.groups[mine.group]
        table = loss_table(LAW, theta, drawn.made)[0]
        losses = table[drawn.placements.layers[mine.index] - 1]
        assert (losses <= drawn.ceilings).all()
        of_mine = losses @ drawn.shares if fleet.objective == "quality" else drawn.score(fleet.objective)[mine.index]
        assert of_mine == pytest.approx(group.score(fleet.objective)[choice.index], rel=1e-6)


def test_the_ranking_rises_and_keeps_every_goal() -> None:
    fleet = small_fleet(goals=Goals(ttft_s=1.0, tpot_s=0.1, loss={"a": 3.7, "c": 3.3}, budget_per_hour=50.0))
    found = search(fleet, LAW)
    order = ranked(found, "cost")
    costs = [found.groups[c.group].placements.cost[c.index] for c in order]
    assert len(order) > 3 and costs == sorted(costs)
    limits = limits_of(fleet)
    for choice in order:
        group = found.groups[choice.group]
        asked = group.shares > 0
        assert (group.placements.ttft[choice.index][asked] <= limits.ttft).all()
        assert (group.placements.tpot[choice.index][asked] <= limits.tpot).all()
        assert group.placements.cost[choice.index] <= limits.cost
        assert (group.losses[choice.index] <= group.ceilings).all()
