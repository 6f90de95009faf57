"""The second use: a family that is trained and exported, placed on a fleet by what was measured of it.

Times are those of each tier's profile (`relay-node profile`), or of its hardware's figures where the fleet names none;
agreement, shares of exits and acceptance of drafts are the bundle's own. Every deployment is scored by the model of a
relay (`scaling.plan.place`), and machines of shared tiers by the queueing model.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from family.manifest import Manifest, load_manifest
from family.profile import load_profile
from scaling.errors import ScalingError
from scaling.findings import note, warning
from scaling.plan.bundledocument import BUNDLE_PLAN_VERSION, BundleChoice, BundleDocument, NodePlan, policy_text
from scaling.plan.cost import Machine
from scaling.plan.fleet import Fleet, Tier
from scaling.plan.money import rates, tier_cost
from scaling.plan.place import Choice, Question, Score, Wanted, agreement_of, nearest, place, shared_s, text_s
from scaling.plan.profiled import machine
from scaling.plan.queueing import Demand, forward_of, sizing
from scaling.plan.roofline import FORMATS, roofline
from scaling.plan.statistics import statistics_for

SHOWN = 10
LOOKED_AT = 100
"""Deployments, the best by time alone, whose machines and money are worked out."""


@dataclass(frozen=True, eq=False)
class _Asked:
    """The question with what is needed to answer it in the fleet's words."""

    fleet: Fleet
    manifest: Manifest
    machines: Mapping[str, Machine]
    basis: Mapping[str, str]
    question: Question


def plan_bundle(fleet: Fleet, folder: Path, statistics: Path | None = None, strict: bool = False) -> BundleDocument:
    """The best way to run a bundle on a fleet.

    Args:
        fleet: the question; its `training` is done already.
        folder: the bundle.
        statistics: how often exits decide and drafts are right (`benchmarks.plan.statistics`, or what `relay describe
            --json` printed of nodes that have speculated); what it lacks is as the bundle's certificate has it.
        strict: refuse tiers without a profile.

    Raises:
        ManifestError, ProfileError: the bundle or a profile cannot be read, or a profile is of another family.
        ScalingError: no deployment keeps all goals; the text says which fails and the nearest that holds.
    """
    asked = _asked(fleet, folder, statistics)
    guessed = [name for name, basis in asked.basis.items() if basis == "hardware"]
    if strict and guessed:
        raise ScalingError(
            f"--strict: nothing was measured on {', '.join(guessed)}; write a profile there with relay-node profile, "
            "and name it in the fleet file: profile: FILE"
        )
    wanted = Wanted(fleet.goals.ttft_s, fleet.goals.tpot_s, fleet.goals.agreement, _free(fleet))
    found = place(asked.question, wanted, _SCORES[fleet.objective], LOOKED_AT)
    if told := nearest(found, wanted):
        raise ScalingError(f"no deployment of {folder} keeps all goals; the nearest has: {told}")
    least = _LEAST[fleet.objective]
    chosen = sorted((_choice(asked, choice) for choice in found), key=lambda one: (len(one.misses), least(one)))
    best, *others = chosen[:SHOWN]
    if best.misses:
        raise ScalingError(f"no deployment of {folder} keeps all goals; the nearest fails {', '.join(best.misses)}")
    if strict and best.outside:
        raise ScalingError(f"--strict: the best deployment lies beyond what was measured: {'; '.join(best.outside)}")
    findings = [warning("no-profile", f"{name}: times are those of its hardware's figures") for name in guessed]
    if not asked.question.statistics.shares:
        findings.append(note("no-certificate", "no shares of exits are known, so no confidence policy was tried"))
    return BundleDocument(
        BUNDLE_PLAN_VERSION,
        fleet.name,
        folder.name,
        asked.manifest.family_fingerprint,
        asked.manifest.precision,
        fleet.objective,
        best,
        tuple(others),
        tuple(findings),
    )


_SCORES: Mapping[str, Score] = {
    "latency": text_s,
    "cost": shared_s,
    "energy": shared_s,
    "pareto": text_s,
    "quality": lambda choice: -(choice.agreement or 0.0),
}
"""By what deployments are looked for; money and energy go with the shared machines' time."""
_LEAST: Mapping[str, Callable[[BundleChoice], float]] = {
    "latency": lambda one: one.text_s,
    "cost": lambda one: one.cost_per_hour,
    "energy": lambda one: one.power_w,
    "pareto": lambda one: one.text_s,
    "quality": lambda one: -(one.agreement or 0.0),
}
"""What is to be small among those that were found; of equal ones the order in which they were found holds."""


def _free(fleet: Fleet) -> float:
    """The model has one share for all tiers: the largest."""
    return max(fleet.goals.memory_free.values(), default=0.0)


def _asked(fleet: Fleet, folder: Path, statistics: Path | None) -> _Asked:
    manifest = load_manifest(folder)
    machines, basis = {}, {}
    for tier in fleet.tiers:
        machines[tier.name], basis[tier.name] = _machine(tier, manifest)
    known = statistics_for(manifest, statistics)
    question = Question(
        manifest.spec,
        {name: {manifest.precision: one} for name, one in machines.items()},
        fleet.links,
        fleet.traffic.prompt_tokens,
        fleet.traffic.output_tokens,
        known,
        agreement_of(manifest),
    )
    return _Asked(fleet, manifest, machines, basis, question)


def _machine(tier: Tier, manifest: Manifest) -> tuple[Machine, str]:
    if tier.profile is None:
        if manifest.precision not in FORMATS:
            raise ScalingError(
                f"{tier.name}: a bundle of precision {manifest.precision} is only known by a profile; write one "
                "on that machine with relay-node profile, and name it in the fleet file: profile: FILE"
            )
        return roofline(manifest.spec, tier.hardware, manifest.precision), "hardware"
    profile = load_profile(tier.profile)
    measured = profile.bundle(manifest.precision)
    if measured.family != manifest.family_fingerprint:
        raise ScalingError(f"{tier.profile}: measured another family; run relay-node profile with this bundle")
    return machine(profile, manifest.precision), "profile"


def _choice(asked: _Asked, choice: Choice) -> BundleChoice:
    deployment, found, traffic = choice.deployment, choice.prediction, asked.fleet.traffic
    nodes, cost, power, misses = [], 0.0, 0.0, list(choice.misses)
    for i, (part, precision) in enumerate(zip(deployment.places, choice.precisions, strict=True)):
        tier = asked.fleet.tier(part.tier)
        prompt_s, token_s = found.busy_s[part.tier]
        busy = float(prompt_s) + traffic.output_tokens * float(token_s)
        shared = tier is not asked.fleet.tiers[0]
        count = _machines(asked, choice, i, busy) if shared else float(tier.count or 1)
        if np.isfinite(count):
            load = traffic.requests_per_second * busy / count
            price = tier.price_per_hour if shared or tier.price_per_hour else 0.0
            spent = tier_cost(rates(tier.hardware, price), count, min(load, 1.0), 1.0 if shared else 0.0)
            cost += float(spent.per_hour)
            power += float(spent.power_w)
        if not np.isfinite(count) or (shared and tier.count is not None and count > tier.count):
            misses.append(f"tiers.{tier.name}.count")
        nodes.append(
            NodePlan(
                part.tier,
                precision,
                part.segments,
                int(count) if np.isfinite(count) else None,
                float(found.memory_bytes[part.tier]) / 1e9,
                busy,
                asked.basis[part.tier],
            )
        )
    if asked.fleet.goals.budget_per_hour is not None and cost > asked.fleet.goals.budget_per_hour:
        misses.append("goals.budget_per_hour")
    up = float(found.bytes_up_prompt) + traffic.output_tokens * float(found.bytes_up_token)
    return BundleChoice(
        tuple(nodes),
        policy_text(deployment.policy),
        deployment.send,
        deployment.codec,
        float(found.ttft_s),
        float(found.tpot_s),
        choice.agreement,
        choice.text_s,
        up,
        cost,
        power,
        tuple(misses),
        found.beyond,
    )


def _machines(asked: _Asked, choice: Choice, i: int, busy: float) -> float:
    """Of a shared tier at the peak: its texts share forwards, and are away while others work on them."""
    deployment, traffic, machine = (
        choice.deployment,
        asked.fleet.traffic,
        asked.machines[choice.deployment.places[i].tier],
    )
    if busy <= 0:
        return 1.0
    segments = [machine.segments[g] for g in deployment.places[i].segments if g <= deployment.deepest]
    here = deployment.deepest in deployment.places[i].segments
    own = busy / traffic.output_tokens
    away = 0.0 if i == len(deployment.places) - 1 == 0 else max(float(choice.prediction.tpot_s) - own, 0.0)
    rate = traffic.requests_per_second * traffic.peak
    demand = Demand(rate, traffic.prompt_tokens, traffic.output_tokens, traffic.prompt_cv, away)
    sized = sizing(forward_of(segments, machine.exits[deployment.deepest] if here else None), demand)
    return float(np.asarray(sized.machines).reshape(-1)[0])
