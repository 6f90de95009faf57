from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from family.spec import load_spec
from scaling.plan.cost import Number
from scaling.plan.hardware import Hardware, hardware, rows
from scaling.plan.queueing import BUSY, Demand, forward_of, quantile, sizing
from scaling.plan.roofline import roofline
from scaling.plan.sharing import Forward
from scaling.plan.simulate import simulate
from scaling.plan.traffic import poisson

SPEC = load_spec(Path(__file__).parents[3] / "families" / "smollm2-135m-g3" / "spec.json")
DEMAND = Demand(20.0, 100.0, 60.0)
SHAPE = 1.1
"""A lognormal of a smaller mean and the same variance has a longer tail: a percentile is no better known than that."""


def tier(machine: Hardware, first: int = 1) -> Forward:
    """Segments from `first` on and the last exit."""
    made = roofline(SPEC, machine)
    return forward_of([made.segments[g] for g in range(first, 4)], made.exits[3])


def linear(a: float, b: float, row: float = 1e-12) -> Forward:
    """So long for a forward, so much more for each token; rows of prompts cost nothing."""

    def forward(rows: Number, context: Number, wanted: Number, sessions: Number) -> Number:
        return a + b * np.asarray(wanted) + row * np.asarray(rows) + 0 * np.asarray(context) + 0 * np.asarray(sessions)

    return forward


@pytest.mark.parametrize("load", [0.1, 0.5, 0.9])
def test_tokens_meet_as_many_others_as_the_product_form_says(load: float) -> None:
    """Of a forward that is linear in its tokens the stationary distribution is negative binomial."""
    a, b, output = 5e-3, 1e-3, 101.0
    rate = load / ((output - 1) * b)
    found = sizing(linear(a, b), Demand(rate, 1.0, output), machines=1)
    for_first = 1 - rate * b  # of the time, what first tokens leave
    busy = load / for_first
    mean = rate * (output - 1) * (a + b) / for_first / (1 - busy)
    assert float(found.tpot_s) == pytest.approx((a + b * (1 + mean)) / for_first, rel=0.01)
    assert float(found.tpot_var) == pytest.approx(b**2 * mean / (1 - busy), rel=0.02)
    assert float(found.load) == pytest.approx(load * output / (output - 1), rel=0.01)


@pytest.mark.parametrize(("away", "rate", "prompt"), [(0.0, 1.6, 60), (0.0, 0.5, 300), (0.03, 1.2, 60)])
def test_the_simulation_confirms_load_sessions_and_times(away: float, rate: float, prompt: int) -> None:
    forward = tier(hardware("Two cores of a cloud Xeon"))
    played = simulate(forward, poisson(rate, 600, prompt, 60, prompt_cv=0.7), away_s=away)
    found = sizing(forward, Demand(rate, prompt, 60, prompt_cv=0.7, away_s=away), machines=1)
    assert float(found.busy) == pytest.approx(played.busy, rel=0.15)
    assert float(found.sessions) == pytest.approx(played.sessions, rel=0.3)
    assert float(found.tpot_s) == pytest.approx(played.tpot_s.mean(), rel=0.15)
    assert float(found.tpot(95)) == pytest.approx(np.quantile(played.tpot_s, 0.95), rel=0.3)
    assert float(found.ttft_s) == pytest.approx(played.ttft_s.mean(), rel=0.25)
    assert float(found.ttft(95)) == pytest.approx(np.quantile(played.ttft_s, 0.95), rel=0.3)


def test_the_machines_that_are_needed_keep_their_load_and_one_fewer_does_not() -> None:
    forward = tier(hardware("Two cores of a cloud Xeon"))
    demand = replace(DEMAND, prompt_tokens=10.0)
    found = sizing(forward, demand, busy=0.6)
    assert found.machines == int(found.machines) > 1
    assert found.load <= 0.6 + 1e-6
    fewer = sizing(forward, demand, machines=found.machines - 1)
    assert fewer.load > 0.6


def test_goals_are_kept_with_more_machines() -> None:
    forward = tier(hardware("Raspberry Pi 5"))
    free = sizing(forward, DEMAND)
    tight = sizing(forward, DEMAND, tpot_s=0.8 * float(free.tpot(95)), ttft_s=0.8 * float(free.ttft(95)))
    assert tight.machines > free.machines
    assert tight.tpot(95) <= 0.8 * free.tpot(95) * 1.001 and tight.ttft(95) <= 0.8 * free.ttft(95) * 1.001
    assert np.isinf(sizing(forward, DEMAND, tpot_s=1e-6).machines)


def test_sessions_need_their_memory_and_a_machine_without_any_holds_none() -> None:
    forward = tier(hardware("RTX 4090"))
    demand = replace(DEMAND, rate=300.0, away_s=0.2)
    needed = [float(sizing(forward, demand, 1e6, free).machines) for free in (1e12, 1e9, 1e8, 1e7)]
    assert needed == sorted(needed) and needed[0] < needed[-1]
    found = sizing(forward, demand, 1e6, 1e8)
    assert found.sessions * 1e6 < 1e8
    assert np.isinf(sizing(forward, demand, 1e6, 0.9e6).machines)


def test_a_machine_that_cannot_keep_up_has_no_time() -> None:
    found = sizing(tier(hardware("Raspberry Pi 4")), DEMAND, machines=1)
    assert np.isinf(found.ttft_s) and np.isinf(found.tpot(95)) and np.isinf(found.load)


def test_arrays_give_what_their_elements_give() -> None:
    rate, prompt = np.array([0.5, 30.0, 4000.0]), np.array([10.0, 700.0, 100.0])
    forward = tier(hardware("L4"))
    together = sizing(forward, Demand(rate, prompt, 50.0), 1e5, np.array([1e9, 1e8, 1e9]))
    for i, free in enumerate((1e9, 1e8, 1e9)):
        alone = sizing(forward, Demand(rate[i], prompt[i], 50.0), 1e5, free)
        for name, value in vars(alone).items():
            assert np.asarray(vars(together)[name])[i] == pytest.approx(float(value), rel=1e-12), name


def test_prompts_alone_are_served_too() -> None:
    found = sizing(tier(hardware("L4")), Demand(5.0, 200.0, 1.0))
    assert found.machines == 1 and 0 < found.ttft_s < 1


@given(
    machine=st.sampled_from(rows()),
    more=st.floats(1.0, 20.0),
    which=st.integers(0, 1),
    rate=st.floats(0.01, 100.0),
    prompt=st.integers(1, 2000),
    output=st.integers(2, 500),
    away=st.sampled_from([0.0, 0.05]),
)
@example(
    machine=hardware("Jetson Orin NX 8GB with Ollama"), more=1.0, which=0, rate=12.0, prompt=1, output=16, away=0.0
)
@settings(max_examples=100, deadline=None)
def test_a_better_machine_never_makes_a_token_longer_nor_does_another_machine(
    machine: Hardware, more: float, which: int, rate: float, prompt: int, output: int, away: float
) -> None:
    """But for what reading between two states does."""
    faster = (
        replace(machine, bandwidth_bytes=machine.bandwidth_bytes * more),
        replace(machine, flops={name: value * more for name, value in machine.flops.items()}),
    )[which]
    demand = Demand(rate, prompt, output, away_s=away)
    found = sizing(tier(machine, 3), demand)
    if not np.isfinite(found.machines):
        return
    assert sizing(tier(faster, 3), demand, machines=found.machines).tpot_s <= found.tpot_s * 1.005
    another = sizing(tier(machine, 3), demand, machines=found.machines + 1)
    assert another.tpot_s <= found.tpot_s * 1.005 and another.load <= found.load * (1 + 1e-9)


@given(
    machine=st.sampled_from(rows()),
    first=st.integers(1, 3),
    more=st.floats(1.0, 20.0),
    what=st.sampled_from(["everything", "compute", "away", "rate"]),
    rate=st.floats(0.01, 1000.0),
    prompt=st.integers(1, 3000),
    output=st.integers(2, 600),
    away=st.sampled_from([0.0, 0.02, 0.1]),
    prompt_cv=st.sampled_from([0.0, 0.7, 1.5]),
    load=st.sampled_from([0.35, BUSY]),
)
@settings(max_examples=200, deadline=None)
def test_what_is_faster_or_asked_less_makes_nothing_worse(
    machine: Hardware, first: int, more: float, what: str, rate: float, prompt: int, output: int, away: float,
    prompt_cv: float, load: float,
) -> None:  # fmt: skip
    """At as many machines, and in how many it takes. What only memory bandwidth does is told below."""
    forward, demand = tier(machine, first), Demand(rate, prompt, output, prompt_cv, away_s=away)
    count = sizing(forward, demand, busy=load).machines
    if not np.isfinite(count):
        return
    faster: dict[str, tuple[Forward, Demand]] = {
        "everything": (lambda *row: forward(*row) / more, demand),
        "compute": (tier(replace(machine, flops={name: x * more for name, x in machine.flops.items()}), first), demand),
        "away": (forward, replace(demand, away_s=away / more)),
        "rate": (forward, replace(demand, rate=rate / more)),
    }
    before, after = sizing(forward, demand, machines=count), sizing(*faster[what], machines=count)
    assert sizing(*faster[what], busy=load).machines <= count
    assert after.load <= before.load * (1 + 1e-6) and after.sessions <= before.sessions * 1.001
    if what != "rate":  # fewer meet each other, and rows of prompts ride along with fewer: the formulas know it to 7%
        assert after.tpot_s <= before.tpot_s * 1.001 and after.tpot(95) <= before.tpot(95) * SHAPE
        assert after.ttft_s <= before.ttft_s * 1.001 and after.ttft(95) <= before.ttft(95) * SHAPE


def test_more_bandwidth_may_make_a_first_token_later_as_the_simulation_says_too() -> None:
    """Rows of prompts may add as much time as tokens take. Weights that are read faster leave tokens, and so prompts,
    less: rows that rode along for nothing take time of their own. Tokens gain more than first tokens lose.
    """
    old = hardware("A100 80GB")
    slow, fast = tier(old), tier(replace(old, bandwidth_bytes=old.bandwidth_bytes * 12))
    demand = Demand(38.0, 1222.0, 236.0, prompt_cv=0.0, away_s=0.02)
    before, after = (sizing(forward, demand, machines=1) for forward in (slow, fast))
    requests = poisson(38.0, 2500, 1222, 236, prompt_cv=0.0, seed=1)
    played_before, played_after = (simulate(forward, requests, away_s=0.02) for forward in (slow, fast))
    assert after.ttft_s > 1.3 * before.ttft_s and played_after.ttft_s.mean() > 1.3 * played_before.ttft_s.mean()
    assert after.tpot_s < 0.6 * before.tpot_s and played_after.tpot_s.mean() < 0.6 * played_before.tpot_s.mean()


@pytest.mark.parametrize("machine", ["Two cores of a cloud Xeon", "L4"])
def test_a_machine_with_half_of_the_texts_is_busy_more_than_half_as_long(machine: str) -> None:
    forward = tier(hardware(machine))
    found = sizing(forward, Demand(1e6, 60, 60, prompt_cv=0.7, peak=2.0))
    played = simulate(forward, poisson(1e6 / float(found.machines) / 2, 800, 60, 60, prompt_cv=0.7))
    assert float(found.usual) == pytest.approx(played.busy, rel=0.05)
    assert float(found.usual) > 1.3 * float(found.busy) / 2


def test_quantiles_are_those_of_a_positive_time() -> None:
    assert quantile(2.0, 0.0, 95) == 2.0
    assert quantile(1.0, 1.0, 50) < 1 < quantile(1.0, 1.0, 95)
    draws = np.random.default_rng(0).lognormal(0.3, 0.8, 200_000)
    assert quantile(draws.mean(), draws.var(), 95) == pytest.approx(np.quantile(draws, 0.95), rel=0.02)
    assert np.isinf(quantile(np.inf, np.inf, 50))
