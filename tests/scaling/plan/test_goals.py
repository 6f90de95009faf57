from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scaling.plan.exitlaw import shipped
from scaling.plan.fleet import Fleet, Goals
from scaling.plan.goals import failing, measured
from scaling.plan.hardware import Hardware
from scaling.plan.placement import place_all
from scaling.plan.search import best, groups, limits_of, search
from tests.scaling.plan.fleets import machine, small_fleet

LAW = shipped("sweep-exits")
LOOSE = Goals(ttft_s=5.0, tpot_s=1.0, loss={"a": 4.2, "c": 3.6}, memory_free={"a": 0.1, "c": 0.2}, budget_per_hour=1e3)


def possible(fleet: Fleet) -> bool:
    return best(search(fleet, LAW), "cost") is not None


def with_goals(**changes: object) -> Fleet:
    return small_fleet(goals=replace(LOOSE, **changes))  # type: ignore[arg-type]


IMPOSSIBLE = {
    "goals.ttft_ms": with_goals(ttft_s=1e-4),
    "goals.tpot_ms": with_goals(tpot_s=1e-5),
    "goals.loss.c": with_goals(loss={"a": 4.2, "c": 3.0}),
    "goals.memory_free.a": with_goals(memory_free={"a": 0.9999}, loss={"a": 4.2}),
    "goals.budget_per_hour": with_goals(budget_per_hour=1e-3, memory_free={"a": 0.9999}),
}


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_a_goal_that_fails_is_named_with_the_nearest_that_holds(name: str) -> None:
    fleet = IMPOSSIBLE[name]
    if name == "goals.memory_free.a":  # only the device is left to serve
        fleet = replace(fleet, tiers=fleet.tiers[:1], links=(), traffic=replace(fleet.traffic, decided={}))
    assert not possible(fleet)
    told = failing(fleet, LAW)
    line = next(line for line in told.splitlines() if line.strip().startswith(name))
    nearest = line.split(" asked, ")[1].split(" is the nearest")[0]
    value = float(nearest.replace(",", ""))
    assert possible(_loosened(fleet, name, value, 1))
    assert not possible(_loosened(fleet, name, value, -1))


def _loosened(fleet: Fleet, name: str, value: float, side: int) -> Fleet:
    """The fleet with a goal a little looser than a value that was told, or a little tighter."""
    most = value * (1 + 2e-3 * side)
    goals = fleet.goals
    changes: dict[str, Goals] = {
        "goals.ttft_ms": replace(goals, ttft_s=most / 1e3),
        "goals.tpot_ms": replace(goals, tpot_s=most / 1e3),
        "goals.loss.c": replace(goals, loss={**goals.loss, "c": most}),
        "goals.memory_free.a": replace(goals, memory_free={"a": value - 2e-3 * side}),
        "goals.budget_per_hour": replace(goals, budget_per_hour=most),
    }
    return replace(fleet, goals=changes[name])


def test_two_goals_that_fail_together_are_named_together() -> None:
    fleet = with_goals(tpot_s=1e-5, loss={"a": 4.2, "c": 3.0})
    told = failing(fleet, LAW)
    assert "2 of them have to give way" in told
    assert "goals.tpot_ms: 0.01 asked" in told and " and goals.loss.c: 3.000 asked" in told


def test_machines_that_are_too_few_are_a_goal_too() -> None:
    fleet = small_fleet(
        machines=(machine("a", 0.001, 1, 0.0005), machine("b", 0.01, 2, 0.5)), decided=(0.0, 1.0), goals=Goals()
    )
    tiers = (fleet.tiers[0], replace(fleet.tiers[1], count=1))
    fleet = replace(fleet, tiers=tiers, traffic=replace(fleet.traffic, requests_per_second=1e4))
    told = failing(fleet, LAW)
    assert "tiers.b.count: 1 asked, " in told


def test_a_fleet_that_holds_no_trunk_at_all_says_so() -> None:
    fleet = small_fleet(machines=(machine("a", 0.01, 5, 1e-6),), decided=(1.0,))
    assert "no trunk fits into the memory" in failing(fleet, LAW)


def test_a_plan_that_is_found_keeps_what_it_is_measured_by() -> None:
    fleet = with_goals()
    for group in list(groups(fleet, LAW, limits_of(fleet)))[:20]:
        for index in np.flatnonzero(group.kept)[:3]:
            found = measured(fleet, group, int(index))
            assert all(value <= goal.wanted * (1 + 1e-9) for goal, value in found.items())


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_the_nearest_is_the_nearest_of_all_placements(seed: int) -> None:
    """Machines that cost and draw nothing: memory and counts are in no sum that a plan is judged by otherwise."""
    rng = np.random.default_rng(seed)

    def free(name: str, tflops: float, gb_s: float, memory_gb: float) -> Hardware:
        return replace(machine(name, tflops, gb_s, memory_gb), price_usd=0.0, busy_w=0.0, idle_w=0.0)

    machines = (free("a", 0.01, 5, 0.002), free("b", 0.02, 10, 0.003), free("c", 0.1, 50, 0.004))
    goals = Goals(
        ttft_s=float(rng.choice([0.02, 0.5])),
        tpot_s=float(rng.choice([1e-4, 0.05])),
        loss={"a": float(rng.choice([3.3, 4.2])), "c": float(rng.choice([3.1, 3.6]))},
        memory_free={name: float(rng.choice([0.1, 0.7, 0.95])) for name in "abc"},
    )
    fleet = small_fleet(machines, goals=goals, decided=tuple(rng.dirichlet((1, 1, 1))))
    tiers = [replace(tier, price_per_hour=0.0) for tier in fleet.tiers]
    tiers[1:] = [replace(tier, count=int(rng.choice([1, 40]))) for tier in tiers[1:]]
    fleet = replace(fleet, tiers=tuple(tiers), traffic=replace(fleet.traffic, requests_per_second=50.0))
    told = failing(fleet, LAW)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("scaling.plan.search.place", lambda stages, n, limits, *_: place_all(stages, n, limits))
        assert told == failing(fleet, LAW)


def test_below_the_mean_a_percentile_is_the_mean() -> None:
    """What strays less must not count as slower."""
    assert limits_of(small_fleet(goals=Goals(percentile=50.0))).normal == 0
    assert limits_of(small_fleet(goals=Goals(percentile=95.0))).normal > 1.9
