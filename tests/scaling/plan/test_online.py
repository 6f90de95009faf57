"""Planning again while links and load change: it follows what lasts, and does not follow noise."""

from dataclasses import replace
from itertools import pairwise

import numpy as np

from scaling.plan.deployment import Deployment, FixedExit, Place, SpeculativeExit
from scaling.plan.fleet import Goals, Link
from scaling.plan.model import predict
from scaling.plan.online import PATIENCE, Observed, Online, expected, follow
from tests.scaling.plan.machines import LINK, SPEC, STATISTICS, machine

PLACES = (Place("device", (1, 2)), Place("cloud", (3,)))
PLAIN, DRAFTS, SMALL = (
    Deployment(SPEC, PLACES, (LINK,), policy, codec)
    for policy, codec in ((FixedExit(3), "f32"), (SpeculativeExit(3, 2, 4), "f32"), (FixedExit(3), "int8"))
)


def state(*choices: Deployment) -> Online:
    return Online(choices, {"device": machine(3), "cloud": machine(10)}, 64, 64, STATISTICS)


def links(rtt_s: float, bps: float, count: int, load: float = 1.0) -> list[Observed]:
    return [Observed((Link(rtt_s, bps, bps),), load)] * count


def switches(found: list[int]) -> int:
    return sum(a != b for a, b in pairwise([0, *found]))


def test_a_link_that_becomes_slow_brings_drafts_and_one_that_recovers_takes_them_away() -> None:
    seen = links(0.001, 1e9, 10) + links(0.1, 1e9, 20) + links(0.001, 1e9, 30)
    found = follow(state(PLAIN, DRAFTS), seen)
    assert found[9] == 0 and found[29] == 1 and found[-1] == 0
    assert switches(found) == 2
    assert found.index(1) >= 10 + PATIENCE - 1, "not at once"


def test_a_narrow_link_brings_a_codec() -> None:
    found = follow(state(PLAIN, SMALL), links(0.02, 1e8, 5) + links(0.02, 2e5, 10))
    assert found[4] == 0 and found[-1] == 1


def test_noise_around_the_point_where_both_are_equal_changes_nothing_for_long() -> None:
    even = min((abs(_advantage(rtt_s)), rtt_s) for rtt_s in np.linspace(0.001, 0.1, 200))[1]
    rng = np.random.default_rng(0)
    seen = [Observed((Link(even * float(rng.lognormal(0, 0.3)), 1e9, 1e9),)) for _ in range(300)]
    assert switches(follow(state(PLAIN, DRAFTS), seen)) <= 1


def test_one_bad_moment_changes_nothing() -> None:
    seen = links(0.001, 1e9, 10) + links(1.0, 1e9, 1) + links(0.001, 1e9, 20)
    assert switches(follow(state(PLAIN, DRAFTS), seen)) == 0


def test_a_loaded_cloud_is_asked_less_often() -> None:
    near = Deployment(SPEC, PLACES, (LINK,), FixedExit(2))
    found = follow(state(PLAIN, near), links(0.001, 1e9, 1, load=1.0) + links(0.001, 1e9, 20, load=50.0))
    assert found[-1] == 1


def steps_s(deployment: Deployment, known: Observed) -> float:
    """The slowest kind of token."""
    made = state(deployment)
    found = predict(replace(deployment, links=known.links), made.machines, 64, 64, 1, STATISTICS)
    return max(float(case.seconds) for case in found.further)


def test_goals_come_before_the_quicker_text_and_where_none_keeps_them_it_decides() -> None:
    """With drafts a text is quicker over a far link, but a token that begins a round waits longer."""
    far, near = links(0.05, 1e9, 20), links(0.001, 1e9, 20)
    plain_s, drafts_s = (expected(state(PLAIN, DRAFTS), one, far[0]).text_s for one in (PLAIN, DRAFTS))
    assert drafts_s < 0.8 * plain_s
    plain, round_ = (steps_s(one, far[0]) for one in (PLAIN, DRAFTS))

    def after(tpot_s: float) -> list[int]:
        return follow(replace(state(PLAIN, DRAFTS), goals=Goals(tpot_s=tpot_s)), near + far)

    assert after((plain + round_) / 2)[-1] == 0, "only without drafts the goal is kept"
    assert after(plain / 2)[-1] == after(2 * round_)[-1] == 1, "none keeps it, or both do"


def test_a_goal_that_only_another_choice_keeps_brings_it_however_little_it_is_quicker() -> None:
    known = links(0.02, 1e7, 1)[0]
    plain_s, small_s = (steps_s(one, known) for one in (PLAIN, SMALL))
    assert small_s < plain_s < 1.1 * small_s
    free, bound = (replace(state(PLAIN, SMALL), goals=Goals(tpot_s=s)) for s in (1.0, (plain_s + small_s) / 2))
    assert follow(free, [known] * 5) == [0] * 5
    assert follow(bound, [known] * 5) == [0] * (PATIENCE - 1) + [1] * (6 - PATIENCE)


def _advantage(rtt_s: float) -> float:
    made, seen = state(PLAIN, DRAFTS), Observed((Link(rtt_s, 1e9, 1e9),))
    return expected(made, DRAFTS, seen).text_s / expected(made, PLAIN, seen).text_s - 1
