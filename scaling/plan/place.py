"""Where a bundle's segments run, and how its tokens are decided: every choice that a relay has, scored by the model.

A choice is a deployment and the precision of each place: which tiers take part and which segments each has, who is sent
rows or token ids, the codec, and the policy with its epsilon or its draft's length. All of them are tried.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, pairwise, product

from family.manifest import Manifest
from family.spec import FamilySpec
from scaling.plan.chain import Chain
from scaling.plan.cost import Machine
from scaling.plan.deployment import (
    ConfidenceExit,
    Deployment,
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
class Choice:
    """A deployment and what it costs."""

    deployment: Deployment
    precisions: tuple[str, ...]
    """Of each place."""
    prediction: Prediction
    agreement: float | None
    """None: nobody measured it."""
    text_s: float
    """From the request to the last token."""


def place(question: Question) -> tuple[Choice, ...]:
    """Every choice, those of the quickest texts first."""
    return tuple(sorted(predicted(question, choices(question)), key=lambda choice: choice.text_s))


def predicted(question: Question, given: Iterable[tuple[Deployment, tuple[str, ...]]]) -> Iterator[Choice]:
    """Each with what it costs. Policies of the same places take many of the same steps."""
    chains: dict[tuple[object, ...], Chain] = {}
    for deployment, precisions in given:
        places = deployment.places
        machines = {
            place.tier: question.machines[place.tier][kind] for place, kind in zip(places, precisions, strict=True)
        }
        key = places, deployment.links, deployment.send, deployment.codec, precisions
        if key not in chains:
            if not any(known[0] == places for known in chains):
                chains.clear()
            chains[key] = Chain(deployment, [machines[place.tier] for place in places])
        yield _scored(question, deployment, precisions, machines, chains[key])


def choices(question: Question) -> Iterator[tuple[Deployment, tuple[str, ...]]]:
    """Everything that can be deployed, each with the precisions of its places."""
    for places, links, client in _chains(question):
        for send in ("rows", "ids"):
            held = _with_lower(places) if send == "ids" else places
            if held is None:
                continue
            for policy in policies(question, held, send):
                codecs = CODECS if send == "rows" and travels(policy, held) else CODECS[:1]
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
                    links = tuple(joined(question.links[a:b]) for a, b in pairwise(chosen))
                    client = joined(question.links[: chosen[0]]) if chosen[0] else None
                    yield places, links, client


def joined(links: Sequence[Link]) -> Link:
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


def policies(question: Question, places: tuple[Place, ...], send: str) -> Iterator[Policy]:
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


def travels(policy: Policy, places: tuple[Place, ...]) -> bool:
    """Whether rows cross a link under the policy."""
    return len(places) > 1 and not (isinstance(policy, FixedExit) and policy.exit <= places[0].segments[-1])


def _scored(
    question: Question,
    deployment: Deployment,
    precisions: tuple[str, ...],
    machines: Mapping[str, Machine],
    chain: Chain,
) -> Choice:
    prompt, output = question.prompt_tokens, question.output_tokens
    found = predict(deployment, machines, prompt, output, question.sessions, question.statistics, chain)
    whole_s = float(found.ttft_s) + (output - 1) * float(found.tpot_s)
    return Choice(deployment, precisions, found, agreed(question, deployment), whole_s)


def agreed(question: Question, deployment: Deployment) -> float | None:
    """The share of tokens that are the last exit's, where it was measured."""
    policy, depth = deployment.policy, question.spec.granularity
    codec = deployment.codec if travels(policy, deployment.places) and deployment.send == "rows" else "f32"
    exact = 1.0 if codec == "f32" else question.agreement.get((depth, codec))
    if isinstance(policy, ConfidenceExit):
        return None if exact is None else exact * (1 - policy.epsilon)  # what its certificate promises
    if policy.exit == depth:
        return exact
    return question.agreement.get((policy.exit, codec))
