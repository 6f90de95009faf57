"""What users see at the peak, against chains that are played event by event with texts that come at random."""

from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import pytest

from family.manifest import load_manifest
from scaling.plan.asked import Asked
from scaling.plan.cost import NodeCost
from scaling.plan.deployment import ConfidenceExit, Deployment, FixedExit, Place, Policy, SpeculativeExit, Statistics
from scaling.plan.fleet import Fleet, Goals, Link, Tier, Traffic
from scaling.plan.model import predict
from scaling.plan.peak import Served, served
from scaling.plan.percentile import Peak, peaks
from scaling.plan.place import Choice, Question
from scaling.plan.queueing import BUSY
from scaling.plan.script import Script
from scaling.plan.sessions import Begin, Play, Process, Wait
from scaling.plan.wire import reply_s
from tests.scaling.plan.fleets import machine as hardware
from tests.scaling.plan.machines import SPEC, machine

EDGE, CLOUD = machine(2), machine(6)
LINKS = (Link(0.01, 1e8, 1e8), Link(0.02, 1e8, 1e8))
STATISTICS = Statistics(shares={0.1: (0.3, 0.5, 0.2)}, acceptance={(2, 3): 0.7, (1, 3): 0.4})
PROMPT, OUTPUT = 40, 40
TEXTS = 2000
PROMPT_CV = 1.0
POLICIES: tuple[Policy, ...] = (FixedExit(3), ConfidenceExit(0.1), SpeculativeExit(3, 2, 4), SpeculativeExit(3, 1))


def deployed(policy: Policy, cut: int = 2) -> Deployment:
    """On two shared tiers; cut at 3: on the first of them alone."""
    places = (Place("edge", tuple(range(1, cut + 1))), *([Place("cloud", tuple(range(cut + 1, 4)))] if cut < 3 else []))
    return Deployment(SPEC, places, LINKS[1 : len(places)], policy, client=LINKS[0])


class Planned:
    """By the formulas."""

    def __init__(self, bundle: Path, percentile: float = 95.0) -> None:
        self._manifest, self._percentile = load_manifest(bundle), percentile
        self.peak = 1.0
        self.machines = {"phone": machine(), "edge": EDGE, "cloud": CLOUD}

    def choice(self, deployment: Deployment) -> Choice:
        found = predict(deployment, self.machines, PROMPT, OUTPUT, 1, STATISTICS)
        return Choice(deployment, ("f32",) * len(deployment.places), found, None, 0.0)

    def __call__(self, deployment: Deployment, rate: float) -> tuple[Peak, list[Served]]:
        tiers = tuple(Tier(name, hardware(name, 1, 1, 64), 100) for name in self.machines)
        traffic = Traffic(rate / self.peak, PROMPT, OUTPUT, PROMPT_CV, self.peak)
        fleet = Fleet("some", tiers, LINKS, traffic, Goals(percentile=self._percentile))
        kinds = {name: {self._manifest.precision: one} for name, one in self.machines.items()}
        question = Question(SPEC, kinds, LINKS, PROMPT, OUTPUT, STATISTICS)
        choice = self.choice(deployment)
        ((places,),) = served(Asked(fleet, self._manifest, {}, question), [choice], [BUSY])
        return peaks("phone", traffic, self._percentile, [(deployment, choice.prediction)], [places])[0], places


def played(deployment: Deployment, rate: float) -> tuple[list[float], list[float]]:
    """First tokens and steps of texts that come at random to one machine of each tier."""
    machines, draw = [{"edge": EDGE, "cloud": CLOUD}[place.tier] for place in deployment.places], Random(1)
    stage, spread = Play(machines, len(deployment.links)), np.log1p(PROMPT_CV**2)
    first: list[float] = []
    steps: list[float] = []
    ended = 0

    def text(at: float, length: int, counts: bool) -> Process:
        nonlocal ended
        yield Wait(at)
        yield Begin()
        came: list[float] = []
        prompt = max(1, round(PROMPT * np.exp(draw.gauss(0, 1) * np.sqrt(spread) - spread / 2)))
        script = Script(deployment, machines, prompt, STATISTICS)
        yield from script.text(stage, draw, length, lambda n: came.extend([stage.clock.now] * n))
        if counts:
            first.append(came[0] - at + reply_s(LINKS[0]))  # type: ignore[arg-type]
            steps.extend(np.diff(came))
        ended += 1

    at = 0.0
    for number in range(TEXTS):
        at += draw.expovariate(rate)
        length = 1 + int(np.log(1 - draw.random()) / np.log(1 - 1 / OUTPUT))
        stage.start(text(at, max(2, length), number > TEXTS / 5))
    stage.clock.run(lambda: ended == TEXTS)
    return first, steps


@pytest.mark.parametrize(
    ("policy", "cut", "ttft_within", "tpot_within"),
    [
        (FixedExit(3), 3, 0.15, 0.12),
        (FixedExit(3), 2, 0.25, 0.12),  # a prompt is cut for texts that are away, too, which no formula knows
        (ConfidenceExit(0.1), 2, 0.15, 0.12),
        (ConfidenceExit(0.1), 3, 0.15, 0.25),  # on one machine texts part, which is known in the rough only
        (SpeculativeExit(3, 2, 4), 2, 0.15, 0.12),
        (SpeculativeExit(3, 2, 4), 3, 0.15, 0.25),
    ],
)
def test_texts_that_share_machines_see_what_was_planned(
    policy: Policy, cut: int, ttft_within: float, tpot_within: float, tiny_bundle: Path
) -> None:
    deployment, rate = deployed(policy, cut), 2.0
    peak, places = Planned(tiny_bundle)(deployment, rate)
    assert places[0].machines == 1 and places[0].busy > 0.2
    first, steps = played(deployment, rate)
    assert peak.ttft_s == pytest.approx(np.quantile(first, 0.95), rel=ttft_within)
    assert peak.ttft_mean_s == pytest.approx(np.mean(first), rel=0.2)
    assert peak.tpot_s == pytest.approx(np.quantile(steps, 0.95), rel=tpot_within)
    assert peak.tpot_mean_s == pytest.approx(np.mean(steps), rel=tpot_within)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("cut", [1, 2, 3])
def test_a_machine_that_few_ask_is_as_busy_as_its_texts_keep_it(policy: Policy, cut: int, tiny_bundle: Path) -> None:
    """However many tokens come to it, and with how many rows: by the model of one text alone."""
    if isinstance(policy, SpeculativeExit) and policy.draft_exit > cut:
        return
    planned, rate = Planned(tiny_bundle), 0.01
    planned.machines = {name: replace(one, node=NodeCost()) for name, one in planned.machines.items()}
    deployment = deployed(policy, cut)
    peak, places = planned(deployment, rate)
    found = planned.choice(deployment).prediction
    for place, served_ in zip(deployment.places, places, strict=True):
        first_s, token_s = found.busy_s[place.tier]
        assert served_.busy == pytest.approx(rate * (float(first_s) + (OUTPUT - 1) * float(token_s)), rel=0.1)
    assert peak.tpot_mean_s == pytest.approx(float(found.tpot_s), rel=0.02)
    assert peak.ttft_mean_s == pytest.approx(sum(case.share * float(case.seconds) for case in found.first), rel=0.02)


def test_a_tier_that_few_tokens_reach_needs_fewer_machines(tiny_bundle: Path) -> None:
    """Of this policy's tokens a fifth go to the last tier."""
    planned = Planned(tiny_bundle)
    every, some = (planned(deployed(policy), 400.0)[1][1] for policy in (FixedExit(3), ConfidenceExit(0.1)))
    assert some.questions == pytest.approx(0.2 * every.questions)
    assert some.machines < 0.7 * every.machines


def test_a_quiet_hour_keeps_a_machine_busier_than_in_proportion(tiny_bundle: Path) -> None:
    """With half of the requests it is as busy as a machine that never has more."""
    planned, deployment = Planned(tiny_bundle), deployed(FixedExit(3), 3)
    planned.peak = 2.0
    ((_, (busy,)), (_, (half,))) = planned(deployment, 4.0), Planned(tiny_bundle)(deployment, 2.0)
    assert busy.machines == half.machines == 1 and half.mean_busy == pytest.approx(half.busy)
    assert busy.mean_busy == pytest.approx(half.busy, rel=0.01) and busy.mean_busy > 1.05 * busy.busy / 2


def test_the_percentile_and_the_load_count(tiny_bundle: Path) -> None:
    deployment = deployed(FixedExit(3))
    calm, busy = (Planned(tiny_bundle)(deployment, rate)[0] for rate in (0.1, 4.0))
    assert busy.ttft_s > calm.ttft_s and busy.tpot_s > calm.tpot_s and busy.tpot_mean_s > calm.tpot_mean_s
    half, most, all_ = (Planned(tiny_bundle, percentile)(deployment, 2.0)[0] for percentile in (50, 95, 99))
    assert half.ttft_s < most.ttft_s < all_.ttft_s and half.tpot_s < most.tpot_s < all_.tpot_s
    assert half.ttft_mean_s == all_.ttft_mean_s and half.tpot_mean_s == all_.tpot_mean_s


def test_jitter_and_loss_are_seen_at_a_percentile(tiny_bundle: Path) -> None:
    def tpot_s(link: Link) -> float:
        deployment = replace(deployed(FixedExit(3)), links=(link,))
        return Planned(tiny_bundle)(deployment, 0.1)[0].tpot_s

    still = tpot_s(LINKS[1])
    assert tpot_s(replace(LINKS[1], jitter_s=0.01)) > still + 0.015
    assert tpot_s(replace(LINKS[1], loss=0.01)) > still + 0.01


def test_tokens_that_come_together_take_their_mean_at_least(tiny_bundle: Path) -> None:
    """A burst of 32: most tokens come with the one before them."""
    places = (Place("edge", (1, 2)), Place("cloud", (1, 2, 3)))
    deployment = Deployment(SPEC, places, LINKS[1:], FixedExit(3, 31), send="ids", client=LINKS[0])
    peak, _ = Planned(tiny_bundle)(deployment, 0.5)
    assert peak.tpot_s == peak.tpot_mean_s > 0
