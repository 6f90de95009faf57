from dataclasses import replace

import pytest

from scaling.plan.beside import beside
from scaling.plan.exitlaw import shipped
from scaling.plan.explain import explain, explanation_lines
from scaling.plan.fleet import Fleet, Goals
from scaling.plan.goals import goals_of
from scaling.plan.search import Choice, Found, best, search
from tests.scaling.plan.fleets import machine, small_fleet

LAW = shipped("sweep-exits")


@pytest.fixture(scope="module")
def fleet() -> Fleet:
    """The device holds some layers only, and the box none of the deepest."""
    return small_fleet(
        machines=(machine("a", 0.01, 5, 0.00035), machine("b", 0.05, 20, 0.5), machine("c", 1.0, 200, 8)),
        goals=Goals(ttft_s=1.0, tpot_s=0.1, loss={"a": 4.0, "c": 3.45}, memory_free={"a": 0.3}),
        objective="quality",
        compute=9e12,
    )


@pytest.fixture(scope="module")
def found(fleet: Fleet) -> Found:
    return search(fleet, LAW)


@pytest.fixture(scope="module")
def choice(fleet: Fleet, found: Found) -> Choice:
    """The best plan that uses several tiers."""
    several = [i for i, group in enumerate(found.groups) if len(group.used) > 1 and group.kept.any()]
    least = min(several, key=lambda i: float(found.groups[i].quality[found.groups[i].kept].min()))
    group = found.groups[least]
    quality = [q if kept else float("inf") for q, kept in zip(group.quality, group.kept, strict=True)]
    return Choice(least, quality.index(min(quality)))


def test_moving_an_exit_is_judged_as_the_plan_is(fleet: Fleet, found: Found, choice: Choice) -> None:
    told = explain(fleet, LAW, found, choice, "quality")
    group = found.groups[choice.group]
    assert told.score == pytest.approx(float(group.quality[choice.index]))
    assert told.moved
    for moved in told.moved:
        if moved.score is not None and not moved.breaks:
            # Deeper is better, and what is better and keeps the goals is in no other plan's way.
            layer = group.placements.layers[choice.index][[fleet.tiers[at].name for at in group.used].index(moved.tier)]
            assert (moved.score <= told.score + 1e-12) == (moved.layer > layer)


def test_a_deeper_exit_that_would_be_better_breaks_a_goal(fleet: Fleet, found: Found, choice: Choice) -> None:
    told = explain(fleet, LAW, found, choice, "quality")
    deeper = [m for m in told.moved if m.score is not None and m.score < told.score - 1e-9]
    assert all(m.breaks for m in deeper)


def test_goals_are_measured_and_those_at_their_limit_bind(fleet: Fleet, found: Found, choice: Choice) -> None:
    told = explain(fleet, LAW, found, choice, "quality")
    assert [goal.goal for goal in told.goals] == [goal.name for goal in goals_of(fleet)]
    assert all(goal.left >= -1e-9 for goal in told.goals)
    assert all(goal.binds == (goal.left < 0.05) for goal in told.goals if not goal.goal.startswith("goals.loss"))


def test_a_loss_binds_where_an_exit_a_layer_earlier_would_break_it_or_a_looser_one_buys_something(
    fleet: Fleet, found: Found, choice: Choice
) -> None:
    group = found.groups[choice.group]
    told = explain(fleet, LAW, found, choice, "quality")
    first = fleet.tiers[group.used[0]].name  # it answers the requests that are meant for a
    layer = group.placements.layers[choice.index, 0] - 1
    breaks = next((m.breaks for m in told.moved if (m.tier, m.layer) == (first, layer)), None)
    binds = {goal.goal: goal.binds for goal in told.goals}
    assert binds["goals.loss.a"] or "goals.loss.a" not in (breaks or ())

    def bound(most: float) -> bool:
        other = replace(fleet, goals=replace(fleet.goals, loss={**fleet.goals.loss, "a": most}))
        all_ = search(other, LAW)
        least = best(all_, "quality") if most > 10 else choice
        assert least is not None
        again = explain(other, LAW, all_ if most > 10 else found, least, "quality")
        return next(goal.binds for goal in again.goals if goal.goal == "goals.loss.a")

    assert bound(float(group.losses[choice.index, 0]) * 1.0001) and not bound(50.0)


def test_a_tenth_more_never_makes_it_worse(fleet: Fleet, found: Found) -> None:
    first = best(found, "quality")
    assert first is not None
    told = explain(fleet, LAW, found, first, "quality")
    assert len(told.buys) > 10
    assert all(gain.change <= 1e-9 for gain in told.buys)
    assert next(gain.change for gain in told.buys if gain.what == "training compute") < 0
    text = "\n".join(explanation_lines(told))
    assert "why this G" in text and "training compute: -" in text


def test_each_g_has_its_best_plan(fleet: Fleet, found: Found) -> None:
    first = best(found, "quality")
    assert first is not None
    told = explain(fleet, LAW, found, first, "quality")
    scores = [one.score for one in told.granularities if one.score is not None]
    assert [one.granularity for one in told.granularities] == [1, 2, 3] and min(scores) == pytest.approx(told.score)


def test_what_stands_beside_a_plan_is_the_same_budget_spent_otherwise(
    fleet: Fleet, found: Found, choice: Choice
) -> None:
    ways = {way.name: way for way in beside(fleet, LAW, found, choice)}
    assert list(ways) == ["everything on c", "everything on a", "token ids", "trained apart"]
    group = found.groups[choice.group]
    cloud, apart = ways["everything on c"], ways["trained apart"]
    assert cloud.loss is not None and apart.loss is not None
    assert cloud.loss < float(group.quality[choice.index]) < apart.loss
    device = ways["everything on a"]
    assert device.loss is None or device.fails or device.loss > cloud.loss


def test_token_ids_and_models_trained_apart_are_served_alike_and_judged_by_the_same_goals(
    fleet: Fleet, found: Found, choice: Choice
) -> None:
    ways = {way.name: way for way in beside(fleet, LAW, found, choice)}
    ids, apart = ways["token ids"], ways["trained apart"]
    assert (ids.cost_per_hour, ids.tpot_s, ids.power_w) == (apart.cost_per_hour, apart.tpot_s, apart.power_w)
    assert ids.tpot_s is not None and ids.cost_per_hour is not None
    goals = Goals(ttft_s=1e-4, tpot_s=ids.tpot_s / 100, budget_per_hour=ids.cost_per_hour / 2, loss={"a": 1.0})
    strict = {way.name: way for way in beside(replace(fleet, goals=goals), LAW, found, choice)}
    assert strict["token ids"].fails == ("goals.budget_per_hour", "goals.tpot_ms", "goals.ttft_ms")
    assert strict["trained apart"].fails == (*strict["token ids"].fails, "goals.loss.a")


def test_an_exit_that_moves_to_where_it_does_not_fit_is_said_so(found: Found, fleet: Fleet, choice: Choice) -> None:
    """No goal says how much memory is to be free: the memory itself is the limit."""
    bare = replace(fleet, goals=replace(fleet.goals, memory_free={}))
    everything = search(bare, LAW)
    group, one = next(
        (i, one)
        for i, one in enumerate(everything.groups)
        if one.used[0] == 0 and len(one.used) == 2 and one.kept.any() and one.placements.layers[:, 0].max() < 7
    )
    deepest = Choice(group, int((one.placements.layers[:, 0] * one.kept).argmax()))
    told = explain(bare, LAW, everything, deepest, "quality")
    deeper = [m for m in told.moved if m.tier == "a" and m.layer > one.placements.layers[deepest.index, 0]]
    assert deeper and all(m.score is None and any("what a holds" in why for why in m.breaks) for m in deeper)


def test_a_tier_that_holds_nothing_is_said_so(fleet: Fleet, found: Found, choice: Choice) -> None:
    small = replace(fleet, tiers=(replace(fleet.tiers[0], hardware=machine("a", 0.01, 5, 1e-6)), *fleet.tiers[1:]))
    ways = {way.name: way for way in beside(small, LAW, found, choice)}
    assert ways["everything on a"].loss is None and "no trunk fits" in ways["everything on a"].what
