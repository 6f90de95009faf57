"""Where a bundle's segments run, and how its tokens are decided: every choice that a relay has, scored by the model.

A choice is a deployment and the precision of each place: which tiers take part and which segments each has, who is sent
rows or token ids, the codec, and the policy with its epsilon or its draft's length. All of them are tried.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, pairwise, product

from family.manifest import Manifest
from family.spec import FamilySpec
from scaling.plan.cost import Machine
from scaling.plan.deployment import (
    ConfidenceExit,
    Deployment,
    DeploymentError,
    FixedExit,
    Place,
    Policy,
    SpeculativeExit,
    Statistics,
)
from scaling.plan.fleet import Link
from scaling.plan.model import Prediction, predict

CODECS = ("f32", "bf16", "int8", "int4")
LENGTHS = (2, 4, 8, None)
"""Drafts of a message; None: as many as pays."""
BURSTS = (0, 7, 15, 31)


@dataclass(frozen=True)
class Question:
    """What is to be placed, and on what."""

    spec: FamilySpec
    machines: Mapping[str, Mapping[str, Machine]]
    """By tier, from the user's side up, and by precision."""
    links: Sequence[Link]
    """Between each tier and the next."""
    prompt_tokens: float
    output_tokens: float
    statistics: Statistics = field(default_factory=Statistics)
    agreement: Mapping[tuple[int, str], float] = field(default_factory=dict)
    """By exit and codec, the share of tokens that are the last exit's with exact rows; see `agreement_of`."""
    sessions: int = 1


@dataclass(frozen=True)
class Wanted:
    """What a choice has to keep; None: no such goal."""

    ttft_s: float | None = None
    tpot_s: float | None = None
    agreement: float | None = None
    """The least share of tokens that are the last exit's."""
    memory_free: float = 0.0
    """Share of each machine's memory that the node leaves to others."""


@dataclass(frozen=True)
class Choice:
    """A deployment, what it costs, and which goals it misses."""

    deployment: Deployment
    precisions: tuple[str, ...]
    """Of each place."""
    prediction: Prediction
    agreement: float | None
    """None: nobody measured it."""
    misses: tuple[str, ...]
    text_s: float
    """From the request to the last token."""


Score = Callable[[Choice], float]
"""What is to be small."""


def text_s(choice: Choice) -> float:
    """How long a user waits for the whole text."""
    return choice.text_s


def shared_s(choice: Choice) -> float:
    """What a text takes of the machines beyond the first place's: seconds of their time."""
    return sum(work for _, work in _busy(choice)[1:])


def _busy(choice: Choice) -> list[tuple[str, float]]:
    """By tier, seconds of a whole text."""
    output = (choice.text_s - float(choice.prediction.ttft_s)) / max(float(choice.prediction.tpot_s), 1e-12)
    return [(t, float(p) + output * float(s)) for t, (p, s) in choice.prediction.busy_s.items()]


def place(question: Question, wanted: Wanted, score: Score = text_s, most: int = 20) -> tuple[Choice, ...]:
    """The best choices: those that keep all goals by their score, then those that miss the fewest."""
    found = [_scored(question, wanted, deployment, precisions) for deployment, precisions in choices(question)]
    found.sort(key=lambda choice: (len(choice.misses), score(choice)))
    return tuple(found[:most])


def pareto(found: Sequence[Choice], scores: Sequence[Score]) -> tuple[Choice, ...]:
    """Those that no other is as good as in every score and better than in one."""
    values = [tuple(score(choice) for score in scores) for choice in found]
    return tuple(
        choice
        for choice, own in zip(found, values, strict=True)
        if not any(all(a <= b for a, b in zip(other, own, strict=True)) and other != own for other in values)
    )


def choices(question: Question) -> Iterator[tuple[Deployment, tuple[str, ...]]]:
    """Everything that can be deployed, each with the precisions of its places."""
    for places, links, client in _chains(question):
        for send in ("rows", "ids"):
            held = _with_lower(places) if send == "ids" else places
            if held is None:
                continue
            for policy in _policies(question, held, send):
                codecs = CODECS if send == "rows" and _travels(policy, held) else CODECS[:1]
                for codec in codecs:
                    deployment = Deployment(
                        question.spec, held, links, policy, codec, "ids" if send == "ids" else "rows", client
                    )
                    for precisions in product(*(question.machines[p.tier] for p in held)):
                        if send == "rows" or len(set(precisions)) == 1:  # one segment is on both: of one export
                            yield deployment, precisions


def agreement_of(manifest: Manifest) -> dict[tuple[int, str], float]:
    """What a bundle's manifest has of it; empty where it was exported without `--eval`."""
    if manifest.quality is None:
        return {}
    found = {(q.exit, "f32"): q.agreement for q in manifest.quality.exits}
    for q in manifest.quality.codecs:
        found[q.exit, q.codec] = q.agreement * found.get((q.exit, "f32"), 1.0)
    return found


def _chains(question: Question) -> Iterator[tuple[tuple[Place, ...], tuple[Link, ...], Link | None]]:
    """Every way to give consecutive segments to some of the tiers, in their order."""
    tiers, depth = list(question.machines), question.spec.granularity
    for deepest in range(1, depth + 1):
        for count in range(1, min(deepest, len(tiers)) + 1):
            for chosen in combinations(range(len(tiers)), count):
                for cuts in combinations(range(1, deepest), count - 1):
                    bounds = (0, *cuts, deepest)
                    places = tuple(
                        Place(tiers[t], tuple(range(a + 1, b + 1)))
                        for t, (a, b) in zip(chosen, pairwise(bounds), strict=True)
                    )
                    links = tuple(_joined(question.links[a:b]) for a, b in pairwise(chosen))
                    client = _joined(question.links[: chosen[0]]) if chosen[0] else None
                    yield places, links, client


def _joined(links: Sequence[Link]) -> Link:
    """Several links one after the other: round trips add up, the slowest sets the rate."""
    return Link(
        rtt_s=sum(link.rtt_s for link in links),
        up_bps=min(link.up_bps for link in links),
        down_bps=min(link.down_bps for link in links),
        jitter_s=sum(link.jitter_s**2 for link in links) ** 0.5,
        loss=1 - math.prod(1 - link.loss for link in links),
    )


def _with_lower(places: tuple[Place, ...]) -> tuple[Place, ...] | None:
    """The same where the second place has the lower segments too, as token ids need it; None: there is no such."""
    if len(places) != 2:
        return None
    return places[0], Place(places[1].tier, tuple(range(1, places[1].segments[-1] + 1)))


def _policies(question: Question, places: tuple[Place, ...], send: str) -> Iterator[Policy]:
    """Those that use the last place: others are those of a shorter chain."""
    depth, last, here = question.spec.granularity, places[-1].segments[-1], places[0].segments[-1]
    alone = len(places) == 1
    for burst in BURSTS if send == "ids" else BURSTS[:1]:
        yield FixedExit(last, burst)
    if send == "rows" and last == depth and depth > 1:
        yield from (ConfidenceExit(epsilon) for epsilon in question.statistics.shares)
    for draft, target in question.statistics.acceptance:
        if target == last and draft <= here and (alone or target > here):
            yield from (SpeculativeExit(target, draft, length) for length in LENGTHS)


def _travels(policy: Policy, places: tuple[Place, ...]) -> bool:
    return len(places) > 1 and not (isinstance(policy, FixedExit) and policy.exit <= places[0].segments[-1])


def _scored(question: Question, wanted: Wanted, deployment: Deployment, precisions: tuple[str, ...]) -> Choice:
    machines = {p.tier: question.machines[p.tier][kind] for p, kind in zip(deployment.places, precisions, strict=True)}
    found = predict(
        deployment, machines, question.prompt_tokens, question.output_tokens, question.sessions, question.statistics
    )
    agreement = _agreement(question, deployment)
    misses = []
    if wanted.ttft_s is not None and found.ttft_s > wanted.ttft_s:
        misses.append("ttft_s")
    if wanted.tpot_s is not None and found.tpot_s > wanted.tpot_s:
        misses.append("tpot_s")
    if wanted.agreement is not None and (agreement is None or agreement < wanted.agreement):
        misses.append("agreement")
    for tier, machine in machines.items():
        if found.memory_bytes[tier] > machine.memory_bytes * (1 - wanted.memory_free):
            misses.append(f"memory of {tier}")
    whole_s = float(found.ttft_s) + (question.output_tokens - 1) * float(found.tpot_s)
    return Choice(deployment, precisions, found, agreement, tuple(misses), whole_s)


def _agreement(question: Question, deployment: Deployment) -> float | None:
    """The share of tokens that are the last exit's, where it was measured."""
    policy, depth = deployment.policy, question.spec.granularity
    codec = deployment.codec if _travels(policy, deployment.places) and deployment.send == "rows" else "f32"
    exact = 1.0 if codec == "f32" else question.agreement.get((depth, codec))
    if isinstance(policy, ConfidenceExit):
        return None if exact is None else exact * (1 - policy.epsilon)  # what its certificate promises
    if policy.exit == depth:
        return exact
    return question.agreement.get((policy.exit, codec))


def nearest(found: Sequence[Choice], wanted: Wanted) -> str:
    """What to say where no choice keeps all goals: which fail in the nearest, and by how much."""
    if not found:
        raise DeploymentError("there is nothing to choose from; give at least one tier with a machine")
    best = found[0]
    if not best.misses:
        return ""
    said = {
        "ttft_s": f"time to first token {float(best.prediction.ttft_s):.3g} s, wanted {wanted.ttft_s} s",
        "tpot_s": f"time per token {float(best.prediction.tpot_s):.3g} s, wanted {wanted.tpot_s} s",
        "agreement": f"agreement {best.agreement}, wanted {wanted.agreement}",
    }
    return "; ".join(said.get(miss, f"{miss} is too small") for miss in best.misses)
