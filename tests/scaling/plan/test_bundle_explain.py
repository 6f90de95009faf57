from dataclasses import replace
from pathlib import Path

import pytest

from scaling.plan.asked import Asked, ask
from scaling.plan.bundleexplain import better, explain_bundle
from scaling.plan.bundleplan import plan_bundle
from scaling.plan.bundlereport import bundle_report
from scaling.plan.bundlescore import LEAST, ranked
from scaling.plan.explain import Bought, Explanation
from scaling.plan.fleet import Fleet, Goals, Objective
from scaling.plan.fleetfile import read_fleet
from scaling.plan.table import bundle_table
from tests.scaling.plan.test_bundle_plan import FLEET


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    (tmp_path / "fleet.yaml").write_text(FLEET, encoding="utf-8")
    return read_fleet(tmp_path / "fleet.yaml")


def explained(asked: Asked) -> Explanation:
    return explain_bundle(asked, ranked(asked)[0])


def bought(told: Explanation) -> dict[str, Bought]:
    return {one.what: one for one in told.buys}


@pytest.mark.parametrize("objective", ["latency", "cost", "energy", "quality"])
def test_more_of_anything_never_makes_the_best_worse(objective: Objective, fleet: Fleet, tiny_bundle: Path) -> None:
    goals = Goals(ttft_s=0.5, tpot_s=0.02, agreement=0.99, budget_per_hour=5.0, memory_free={"edge": 0.5})
    limited = replace(
        fleet, objective=objective, goals=goals, tiers=(*fleet.tiers[:2], replace(fleet.tiers[2], count=1))
    )
    asked = ask(limited, tiny_bundle, None)
    told = explained(asked)
    assert told.score == LEAST[objective](ranked(asked)[0])
    assert set(bought(told)) == {
        *(f"{tier}: {what}" for tier in ("device", "edge", "cloud") for what in ("compute", "memory")),
        *(f"{link}: {what}" for link in ("device-edge", "edge-cloud") for what in ("bandwidth", "shorter round trip")),
        *(f"goal {name}, looser" for name in ("ttft", "tpot", "agreement", "budget_per_hour")),
        "cloud: one more machine",
    }
    assert all(one.change <= 1e-9 for one in told.buys), [one for one in told.buys if one.change > 1e-9]


@pytest.mark.parametrize("objective", ["latency", "cost"])
def test_what_more_buys_is_what_a_whole_plan_with_it_gives(
    objective: Objective, fleet: Fleet, tiny_bundle: Path
) -> None:
    """Whatever was not looked at again; some goals are missed."""
    goals = Goals(ttft_s=0.011, tpot_s=0.003, budget_per_hour=0.9, memory_free={"device": 0.9})
    tiers = (*fleet.tiers[:2], replace(fleet.tiers[2], count=1))
    traffic = replace(fleet.traffic, requests_per_second=20.0)
    asked = ask(replace(fleet, objective=objective, goals=goals, tiers=tiers, traffic=traffic), tiny_bundle, None)
    told = bought(explained(asked))
    for what, other, _ in better(asked):
        assert told[what].score == LEAST[objective](ranked(other)[0]), what


def test_what_more_buys_is_what_planning_with_it_gives(fleet: Fleet, tiny_bundle: Path) -> None:
    asked = ask(fleet, tiny_bundle, None)
    told = bought(explained(asked))
    best = ranked(asked)[0]
    faster = replace(fleet, links=(replace(fleet.links[0], rtt_s=fleet.links[0].rtt_s / 1.1), *fleet.links[1:]))
    gain = ranked(ask(faster, tiny_bundle, None))[0].text_s - best.text_s
    assert told["device-edge: shorter round trip"].change == pytest.approx(gain)
    used = {node.tier for node in best.nodes}
    for tier in ("device", "edge", "cloud"):
        assert (told[f"{tier}: compute"].change < 0) == (tier in used)


def test_memory_that_is_short_binds_and_more_of_it_buys_a_better_plan(fleet: Fleet, tiny_bundle: Path) -> None:
    asked = ask(replace(fleet, goals=Goals()), tiny_bundle, None)
    best = ranked(asked)[0]
    tier, needed = best.nodes[0].tier, best.nodes[0].memory_gb * 1e9
    machine = asked.machines[tier]
    roomy = asked.with_machine(tier, replace(machine, memory_bytes=needed * 4))
    tight = asked.with_machine(tier, replace(machine, memory_bytes=needed * 0.98))
    told = explained(tight)
    assert bought(told)[f"{tier}: memory"].change < 0 and bought(explained(roomy))[f"{tier}: memory"].change == 0
    just = asked.with_machine(tier, replace(machine, memory_bytes=ranked(roomy)[0].nodes[0].memory_gb * 1e9 * 1.02))
    goals = {goal.goal: goal for goal in explained(just).goals}
    assert goals[f"memory of {tier}"].binds


def test_a_goal_binds_where_little_of_it_is_left(fleet: Fleet, tiny_bundle: Path) -> None:
    best = ranked(ask(replace(fleet, goals=Goals()), tiny_bundle, None))[0]
    near = replace(fleet, goals=Goals(tpot_s=best.tpot_s * 1.01, ttft_s=best.ttft_s * 3))
    goals = {goal.goal: goal for goal in explained(ask(near, tiny_bundle, None)).goals}
    assert goals["goals.tpot_ms"].binds and not goals["goals.ttft_ms"].binds


def test_the_explanation_is_in_the_document_the_table_and_the_page(fleet: Fleet, tiny_bundle: Path) -> None:
    found = plan_bundle(fleet, [tiny_bundle], explained=True)
    assert found.explanation is not None and plan_bundle(fleet, [tiny_bundle]).explanation is None
    for told in (bundle_table(found), bundle_report(found)):
        assert "goals.ttft_ms: " in told and "a tenth more" in told and "why this G" not in told


def test_users_machines_that_cannot_keep_up_are_no_plan(fleet: Fleet, tiny_bundle: Path) -> None:
    """Each of ten devices is asked for more than it can write."""
    flood = replace(fleet, goals=Goals(), traffic=replace(fleet.traffic, requests_per_second=1e4))
    alone = [one for one in ranked(ask(flood, tiny_bundle, None)) if [node.tier for node in one.nodes] == ["device"]]
    assert alone and all("load of device" in one.misses and one.nodes[0].load > 1 for one in alone)
