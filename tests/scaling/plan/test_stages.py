from dataclasses import replace
from itertools import combinations, pairwise

import numpy as np
import pytest

from family.spec import Exit
from scaling.plan.deployment import Deployment, FixedExit, Place
from scaling.plan.exitlaw import shipped
from scaling.plan.fleet import Goals, Link
from scaling.plan.model import predict
from scaling.plan.placement import place, place_at
from scaling.plan.roofline import roofline
from scaling.plan.search import limits_of
from scaling.plan.shapes import make, trunks
from scaling.plan.stages import Stages, shares_of, way
from tests.scaling.plan.fleets import machine, small_fleet

LAW = shipped("sweep-exits")


@pytest.mark.parametrize("used", [used for m in (1, 2, 3) for used in combinations(range(3), m)], ids=str)
@pytest.mark.parametrize("branch", ["norm", "block"])
@pytest.mark.parametrize("prompt", [50.0, 1536.0])
def test_a_placements_times_are_those_that_the_model_of_a_relay_predicts(
    used: tuple[int, ...], branch: str, prompt: float
) -> None:
    fleet = small_fleet(links=[Link(0.012, 2e7, 5e7, 0.0, 0.01), Link(0.03, 1e8, 2e8)])
    traffic = replace(fleet.traffic, prompt_tokens=prompt, requests_per_second=1e-6)  # nobody waits for another
    fleet = replace(fleet, traffic=traffic)
    trunk = replace(fleet.training.trunk, branch=branch)
    fleet = replace(fleet, training=replace(fleet.training, trunk=trunk))
    made = make(trunks(fleet.training, LAW)[1], len(used), fleet.training, LAW)
    found = Stages(fleet, made.spec, tied=True).of(used)
    placements = place(
        [[option.stage for option in options] for options in found],
        made.spec.n_layers,
        replace(limits_of(fleet), normal=0.0),
    )
    assert len(placements)
    for index in (0, len(placements) // 2, len(placements) - 1):
        layers = placements.layers[index].tolist()
        spec = replace(made.spec, exits=(*(Exit(x, branch) for x in layers[:-1]), Exit(layers[-1], "norm")))
        machines = {fleet.tiers[at].name: roofline(spec, fleet.tiers[at].hardware, "int4") for at in used}
        for g in range(1, len(used) + 1):
            deployment = Deployment(
                spec,
                tuple(Place(fleet.tiers[at].name, (i + 1,)) for i, at in enumerate(used)),
                tuple(way(fleet, *pair) for pair in pairwise(used)),
                FixedExit(g),
                client=way(fleet, None, used[0]),
            )
            expected = predict(deployment, machines, prompt, fleet.traffic.output_tokens)
            assert placements.tpot[index, g - 1] == pytest.approx(expected.tpot_s, rel=1e-2)
            assert placements.ttft[index, g - 1] == pytest.approx(expected.ttft_s, rel=2e-2 if prompt <= 512 else 5e-2)


def test_a_higher_peak_takes_more_machines_and_about_as_much_of_the_users_own_energy() -> None:
    fleet = small_fleet(machines=(machine("a", 0.01, 5, 0.02), machine("b", 0.002, 1, 0.5)), decided=(0.4, 0.6))
    powers, counts = [], []
    for peak in (1.0, 3.0):
        one = replace(fleet, traffic=replace(fleet.traffic, peak=peak, requests_per_second=100.0))
        made = make(trunks(one.training, LAW)[1], 2, one.training, LAW)
        (own, *_), (shared, *_) = Stages(one, made.spec, tied=True).of((0, 1))
        powers.append(own.stage.power[3])
        counts.append(shared.held.machines[3])
        assert shared.held.busy[3] <= 1.0
        if peak > 1:  # with a third of the texts it makes more than a third of the forwards
            assert shared.held.busy[3] > 1.2 * shared.held.load[3] / peak
    assert powers[0] == pytest.approx(powers[1]) and counts[1] > 2 * counts[0]


def test_a_link_that_cannot_carry_its_rows_is_in_no_plan() -> None:
    fleet = small_fleet(machines=(machine("a", 0.01, 5, 0.02), machine("b", 0.05, 20, 0.5)), decided=(0.0, 1.0))
    made = make(trunks(fleet.training, LAW)[1], 2, fleet.training, LAW)
    traffic = fleet.traffic
    texts_per_s = traffic.requests_per_second * traffic.peak / 100  # of each device
    rows_bits = 8 * (traffic.prompt_tokens + traffic.output_tokens) * (4 * made.spec.d_model)
    for share, fits in ((2.0, False), (0.3, True)):
        links = (Link(0.01, texts_per_s * rows_bits / share, 1e7),)
        (_, (box, *_)) = Stages(replace(fleet, links=links), made.spec, tied=True).of((0, 1))
        assert box.stage.possible.any() == fits


def test_a_tier_may_take_a_few_machines_more_where_a_goal_limits_a_time() -> None:
    fleet = small_fleet(machines=(machine("a", 0.01, 5, 0.02), machine("b", 0.05, 20, 0.5)), decided=(0.0, 1.0))
    fleet = replace(fleet, traffic=replace(fleet.traffic, requests_per_second=1000.0))
    timed = replace(fleet, goals=Goals(ttft_s=1.0))
    counts = []
    for one in (fleet, timed):
        made = make(trunks(one.training, LAW)[1], 1, one.training, LAW)
        counts.append([float(option.held.machines[-1]) for option in Stages(one, made.spec, tied=True).of((1,))[0]])
    few, more = counts
    assert few[0] == more[0] and few[-1] in more and more == sorted(more)
    near = more[: more.index(few[-1]) + 1]
    assert max(b / a for a, b in pairwise(near)) < 1.5 < few[1] / few[0] and more[-1] > 4 * few[0]


def test_every_request_is_answered_somewhere() -> None:
    fleet = small_fleet(decided=(0.5, 0.3, 0.2))
    for m in (1, 2, 3):
        for used in combinations(range(3), m):
            assert shares_of(fleet, used).sum() == pytest.approx(1.0)
    assert shares_of(fleet, (1, 2)) == pytest.approx([0.8, 0.2])  # what is meant for below goes up
    assert shares_of(fleet, (0, 1)) == pytest.approx([0.5, 0.5])  # what is meant for above, to the last


@pytest.mark.parametrize("prompt", [60.0, 400.0])
def test_the_first_tokens_percentile_is_that_of_prompts_that_differ_in_length(prompt: float) -> None:
    """Device, link and box read the same prompt: where it is long, it is long for all of them."""
    fleet = small_fleet(links=[Link(0.01, 2e6, 5e7), Link(0.03, 1e8, 2e8)], goals=Goals(percentile=95.0))
    traffic = replace(fleet.traffic, prompt_tokens=prompt, requests_per_second=1e-6, decided={"b": 1.0})
    fleet = replace(fleet, traffic=traffic)
    made = make(trunks(fleet.training, LAW)[1], 2, fleet.training, LAW)
    stages = [[option.stage for option in options[:1]] for options in Stages(fleet, made.spec, tied=True).of((0, 1))]
    placements = place_at(stages, [4, made.spec.n_layers], limits_of(fleet))
    lengths = np.random.default_rng(0).lognormal(np.log(prompt) - np.log(2) / 2, np.sqrt(np.log(2)), 600)
    times = []
    for length in lengths:
        one = replace(fleet, traffic=replace(traffic, prompt_tokens=float(length), prompt_cv=0.0))
        alone = [[option.stage for option in options[:1]] for options in Stages(one, made.spec, tied=True).of((0, 1))]
        times.append(place_at(alone, [4, made.spec.n_layers], replace(limits_of(one), normal=0.0)).ttft[0, 1])
    assert placements.ttft[0, 1] == pytest.approx(np.quantile(times, 0.95), rel=0.2)
    assert placements.ttft[0, 1] > 1.5 * np.mean(times)
