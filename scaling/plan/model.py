"""What a deployment costs: time to the first token, time per token, bytes, memory and FLOPs, by plain arithmetic.

A text is a prefill and then steps. Both go up the chain: each place runs its segments over the rows that it lacks, a
link carries them, and the exit that decides answers. A policy says how often each place is reached and with how many
rows, in the mean: always with one (`FixedExit`), with those of the tokens since the last time (`ConfidenceExit`), or
with all drafts of a round (`SpeculativeExit`).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median, quantiles
from typing import TypeVar

from scaling.plan.chain import Chain, Spent
from scaling.plan.cost import Machine, Number
from scaling.plan.deployment import (
    ConfidenceExit,
    Deployment,
    DeploymentError,
    FixedExit,
    SpeculativeExit,
    Statistics,
)
from scaling.plan.memory import memory_bytes
from scaling.plan.rounds import rounds
from scaling.plan.script import Script
from scaling.plan.sessions import play
from scaling.plan.wire import FRAMING

K = TypeVar("K")
V = TypeVar("V")
NO_STATISTICS = Statistics()
HALF, P95 = 0.5, 0.95
PAUSE_S = 0.05
"""Between two texts of a session."""
_FEW_DRAFTS = 4.0
"""Drafts at which what one more adds to a verification is taken."""


@dataclass(frozen=True)
class Prediction:
    """One text through the deployment. By tier means in the order of its places."""

    ttft_s: Number
    """From the request to the first token; the median over texts."""
    tpot_s: Number
    """Mean time from token to token after the first."""
    tpot_p95_s: Number
    """So long the next token takes at most, for 95 of 100: by the policy and the link's jitter. What else a machine
    does comes on top."""
    link_up_prompt: tuple[Number, ...]
    """By link, bytes of a text that do not depend on how many tokens it has."""
    link_up_token: tuple[Number, ...]
    """By link, bytes of each token."""
    link_down_token: tuple[Number, ...]
    memory_bytes: Mapping[str, Number]
    """By tier, of a node that serves the sessions."""
    busy_s: Mapping[str, tuple[Number, Number]]
    """By tier, seconds that a node works for a prompt, and for a token."""
    link_s: tuple[tuple[Number, Number], ...]
    """By link, seconds that a prompt, and a token, is on its way there and back."""
    flops: Mapping[str, Number]
    """By tier, of a token."""
    beyond: tuple[str, ...] = ()
    """What lies outside of what was measured of the machines, in words."""

    @property
    def bytes_up_prompt(self) -> Number:
        return sum(self.link_up_prompt)

    @property
    def bytes_up_token(self) -> Number:
        return sum(self.link_up_token)

    @property
    def bytes_down_token(self) -> Number:
        return sum(self.link_down_token)


def predict(
    deployment: Deployment,
    machines: Mapping[str, Machine],
    prompt_tokens: float,
    output_tokens: float,
    sessions: int = 1,
    statistics: Statistics = NO_STATISTICS,
) -> Prediction:
    """What texts of so many tokens cost, where each place has one machine of its tier to itself.

    Args:
        deployment: what runs where, and who decides. Its links may hold arrays in place of numbers, for many at once,
            but not under speculation.
        machines: by tier.
        prompt_tokens: of a text.
        output_tokens: of a text; two or more.
        sessions: texts at a time.
        statistics: of the exits, where the policy needs them.

    Raises:
        DeploymentError: no machine of a tier, or no statistics of the policy.
    """
    missing = [place.tier for place in deployment.places if place.tier not in machines]
    if missing:
        raise DeploymentError(f"no machine for tier {missing[0]}; there are {', '.join(machines)}")
    chain = Chain(deployment, [machines[place.tier] for place in deployment.places])
    context = prompt_tokens + output_tokens / 2
    match deployment.policy:
        case FixedExit():
            first, step, p95_s, asked = _fixed(chain, deployment.policy, prompt_tokens, output_tokens, context)
        case ConfidenceExit(epsilon=epsilon):
            shares = _known(statistics.shares, epsilon, "shares of the exits at epsilon")
            begins = statistics.first.get(epsilon, shares)
            first, step, p95_s, asked = _confidence(chain, shares, begins, prompt_tokens, output_tokens, context)
        case SpeculativeExit(exit=exit_, draft_exit=draft):
            right = _known(statistics.acceptance, (draft, exit_), "acceptance of drafts by (draft, target) exit")
            first, step, p95_s, asked = _speculative(
                chain, deployment.policy, right, prompt_tokens, output_tokens, context
            )
    ttft_s, tpot_s = first.seconds, step.seconds
    if sessions > 1:
        ttft_s, tpot_s, p95_s = _together(
            deployment, chain.machines, prompt_tokens, output_tokens, sessions, statistics
        )
    if deployment.client is not None:
        ttft_s = ttft_s + deployment.client.rtt_s
    tiers = [place.tier for place in deployment.places]
    reached = range(len(deployment.links))
    used = [float(asked[-1] > deployment.places[i].segments[-1]) for i in reached]
    return Prediction(
        ttft_s=ttft_s,
        tpot_s=tpot_s,
        tpot_p95_s=p95_s,
        link_up_prompt=tuple(first.up[i] + FRAMING.opening * used[i] for i in reached),
        link_up_token=tuple(step.up),
        link_down_token=tuple(step.down),
        memory_bytes=memory_bytes(deployment, machines, asked, prompt_tokens, output_tokens, sessions),
        busy_s={t: (first.busy[i], step.busy[i]) for i, t in enumerate(tiers)},
        link_s=tuple(zip(first.way, step.way, strict=True)),
        flops={t: step.flops[i] for i, t in enumerate(tiers)},
        beyond=_beyond(machines, tiers, prompt_tokens + output_tokens, sessions),
    )


def _beyond(machines: Mapping[str, Machine], tiers: Sequence[str], positions: float, sessions: int) -> tuple[str, ...]:
    found = []
    for tier in tiers:
        machine = machines[tier]
        if positions > machine.most_positions:
            found.append(f"{tier}: {positions:g} positions of a session, measured up to {machine.most_positions:g}")
        if sessions > machine.most_sessions:
            found.append(f"{tier}: {sessions} sessions, measured up to {machine.most_sessions:g}")
    return tuple(found)


_Found = tuple[Spent, Spent, Number, Sequence[int]]
"""The first token, a further one in the mean, the 95th percentile of its time, and the exits that are ever asked."""


def _fixed(chain: Chain, policy: FixedExit, prompt: float, output: float, context: float) -> _Found:
    """Of a burst, the first tokens come together, and so do those of each round trip after."""
    first, step = chain.prefill(policy.exit, prompt), chain.step(policy.exit, context)
    if not policy.burst:
        return first, step, step.seconds + chain.jitter_p95(policy.exit), (policy.exit,)
    alone, together = chain.step(policy.exit, context, hops=False), policy.burst + 1
    later = max(0.0, output - together)
    rounds_ = math.ceil(later / together)
    mean = chain.nothing().add(step, rounds_ / max(1.0, output - 1))
    mean.add(alone, (later - rounds_) / max(1.0, output - 1))
    mean.down = [size + FRAMING.token * (1 - rounds_ / max(1.0, output - 1)) for size in mean.down]
    seldom = rounds_ / max(1.0, output - 1) < 1 - P95
    p95_s = 0.0 if seldom else step.seconds + policy.burst * alone.seconds
    return first.add(alone, min(policy.burst, output - 1)), mean, p95_s, (policy.exit,)


def _confidence(
    chain: Chain, shares: Sequence[float], begins: Sequence[float], prompt: float, output: float, context: float
) -> _Found:
    """The exit of each token is taken as drawn by its share, whatever came before; of the first one by `begins`."""
    depth = len(shares)
    reach, reach_first = ([sum(drawn[g:]) for g in range(depth)] for drawn in (shares, begins))
    first, step = chain.nothing(), chain.nothing()
    median_s, latest = chain.request(first), chain.token(step)
    p95_s = latest
    for g in range(depth):
        part_s = chain.part(first, g + 1, prompt, 0.0, reach_first[g])
        median_s = median_s + part_s if reach_first[g] >= HALF else median_s
        latest = latest + chain.lagging(step, g + 1, reach[g], context)
        missed = (1 - reach_first[g]) * (1 - (1 - reach[g]) ** (output - 1))  # the prompt is read here by a later token
        if missed:
            chain.part(step, g + 1, prompt, 0.0, missed / max(1.0, output - 1))
        p95_s = latest if sum(shares[:g]) < P95 else p95_s
    first.seconds = median_s
    return first, step, p95_s, tuple(range(1, depth + 1))


def _speculative(
    chain: Chain, policy: SpeculativeExit, right: float, prompt: float, output: float, context: float
) -> _Found:
    first = chain.prefill(policy.exit, prompt)
    draft = chain.draft(policy.draft_exit, context)
    none, few = (chain.verification(policy.exit, policy.draft_exit, k, context) for k in (0.0, _FEW_DRAFTS))
    row_s = (few.seconds - none.seconds) / _FEW_DRAFTS
    costs = float(draft.seconds), float(none.seconds), max(float(row_s), 0.0)
    mean = rounds(*costs, right, policy.length, overlap=chain.leaves(policy.exit))
    whole = chain.verification(policy.exit, policy.draft_exit, mean.drafts, context).add(draft, mean.made)
    whole.seconds = mean.seconds
    unused = (mean.tokens - 1) / 2  # of the last round, in the mean
    step = chain.nothing().add(whole, (1 + unused / max(1.0, output - 1)) / mean.tokens)
    chain.token(step)
    p95_s = mean.seconds if 1 / mean.tokens >= 1 - P95 else 0.0
    return first, step, p95_s, (policy.draft_exit, policy.exit)


def _together(
    deployment: Deployment,
    machines: Sequence[Machine],
    prompt: float,
    output: float,
    sessions: int,
    statistics: Statistics,
) -> tuple[float, float, float]:
    """TTFT (median), TPOT (mean) and its 95th percentile of texts that share the nodes, as they were played."""
    script = Script(deployment, machines, prompt, statistics)
    noted = play(machines, len(deployment.links), script.text, output, sessions, PAUSE_S)
    return median(noted.ttft_s), fmean(noted.steps_s), quantiles(noted.steps_s, n=20)[-1]


def _known(found: Mapping[K, V], key: K, what: str) -> V:
    if key not in found:
        known = ", ".join(str(k) for k in found) or "none"
        raise DeploymentError(f"the policy needs {what} {key}; the statistics have {known}")
    return found[key]
