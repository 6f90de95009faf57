"""What a deployment costs: time to the first token, time per token, bytes, memory and FLOPs, by plain arithmetic.

A text is a prefill and then steps. Both go up the chain: each place runs its segments over the rows that it lacks, a
link carries them, and the exit that decides answers. A policy says how often each place is reached and with how many
rows, in the mean: always with one (`FixedExit`), with those of the tokens since the last time (`ConfidenceExit`), or
with all drafts of a round (`SpeculativeExit`).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, median
from typing import TypeVar

from scaling.plan.batching import Graph
from scaling.plan.chain import Chain
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
from scaling.plan.spent import Spent, Use
from scaling.plan.wire import FRAMING, request_s

K = TypeVar("K")
V = TypeVar("V")
NO_STATISTICS = Statistics()
HALF = 0.5
PAUSE_S = 0.001
"""Between two texts of a session: an application that has its next one ready, as the measured ones had."""
_FEW_DRAFTS = 4.0
"""Drafts at which what one more adds to a verification is taken."""


@dataclass(frozen=True)
class Case:
    """What a share of the tokens takes, without jitter and without waiting for other texts."""

    share: float
    seconds: Number
    reaches: int
    """The last place that has a part in it, from 0; -1: it comes with the token before it."""
    more: float = 0.0
    """Tokens that the last place writes by itself before this one is seen, since they come together."""


@dataclass(frozen=True)
class Prediction:
    """One text through the deployment. By tier means in the order of its places."""

    ttft_s: Number
    """From the request to the first token; the median over texts."""
    tpot_s: Number
    """Mean time from token to token after the first."""
    first: tuple[Case, ...]
    """What a first token may take, of a text alone; shares are 1 together."""
    further: tuple[Case, ...]
    """The same of the tokens after it."""
    link_up_prompt: tuple[Number, ...]
    """By link, bytes of a text that do not depend on how many tokens it has."""
    link_up_token: tuple[Number, ...]
    """By link, bytes of each token."""
    link_down_token: tuple[Number, ...]
    memory_bytes: Mapping[str, Number]
    """By tier, of a node that serves the sessions."""
    busy_s: Mapping[str, tuple[Number, Number]]
    """By tier, seconds that a node works for the first token, and for a further one."""
    uses: Mapping[str, Mapping[Graph, Use]]
    """By tier, what a whole text runs its graphs for."""
    beside: float
    """Of what the first place is asked for, the share that no token waits for: what is drafted during verifications."""
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
    chain: Chain | None = None,
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
        chain: what was calculated for another policy of the same places, links, codec and machines.

    Raises:
        DeploymentError: no machine of a tier, or no statistics of the policy.
    """
    missing = [place.tier for place in deployment.places if place.tier not in machines]
    if missing:
        raise DeploymentError(f"no machine for tier {missing[0]}; there are {', '.join(machines)}")
    chain = chain or Chain(deployment, [machines[place.tier] for place in deployment.places])
    context = prompt_tokens + output_tokens / 2
    match deployment.policy:
        case FixedExit():
            found = _fixed(chain, deployment.policy, prompt_tokens, output_tokens, context)
        case ConfidenceExit(epsilon=epsilon):
            shares = _known(statistics.shares, epsilon, "shares of the exits at epsilon")
            begins = statistics.first.get(epsilon, shares)
            found = _confidence(chain, shares, begins, prompt_tokens, output_tokens, context)
        case SpeculativeExit(exit=exit_, draft_exit=draft):
            right = _known(statistics.acceptance, (draft, exit_), "acceptance of drafts by (draft, target) exit")
            found = _speculative(chain, deployment.policy, right, prompt_tokens, output_tokens, context)
    first, step, asked = found.first, found.step, found.asked
    ttft_s, tpot_s = first.seconds, step.seconds
    if sessions > 1:
        ttft_s, tpot_s = _together(deployment, chain.machines, prompt_tokens, output_tokens, sessions, statistics)
    client_s = request_s(deployment.client, prompt_tokens) if deployment.client else 0.0
    whole = chain.nothing().add(first).add(step, output_tokens - 1)
    tiers = [place.tier for place in deployment.places]
    reached = range(len(deployment.links))
    used = [float(asked[-1] > deployment.places[i].segments[-1]) for i in reached]
    return Prediction(
        ttft_s=ttft_s + client_s,
        tpot_s=tpot_s,
        first=tuple(replace(case, seconds=case.seconds + client_s) for case in found.firsts),
        further=found.furthers,
        link_up_prompt=tuple(first.up[i] + FRAMING.opening * used[i] for i in reached),
        link_up_token=tuple(step.up),
        link_down_token=tuple(step.down),
        memory_bytes=memory_bytes(deployment, machines, asked, prompt_tokens, output_tokens, sessions),
        busy_s={t: (first.busy[i], step.busy[i]) for i, t in enumerate(tiers)},
        uses={t: whole.uses[i] for i, t in enumerate(tiers)},
        beside=found.beside,
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


@dataclass(frozen=True)
class _Found:
    """What a policy makes of a text."""

    first: Spent
    """Up to the first token; its seconds are the median."""
    step: Spent
    """A further one in the mean."""
    asked: tuple[int, ...]
    """The exits that are ever asked."""
    firsts: tuple[Case, ...]
    furthers: tuple[Case, ...]
    beside: float = 0.0


def _fixed(chain: Chain, policy: FixedExit, prompt: float, output: float, context: float) -> _Found:
    """Of a burst, the first tokens come together, and so do those of each round trip after."""
    first, step, last = chain.prefill(policy.exit, prompt), chain.step(policy.exit, context), chain.place(policy.exit)
    if not policy.burst:
        return _Found(first, step, (policy.exit,), (Case(1.0, first.seconds, last),), (Case(1.0, step.seconds, last),))
    alone, together = chain.step(policy.exit, context, hops=False), policy.burst + 1
    later, further = max(0.0, output - together), max(1.0, output - 1)
    rounds_ = math.ceil(later / together)
    mean = chain.nothing().add(step, rounds_ / further)
    mean.add(alone, (later - rounds_) / further)
    mean.down = [size + FRAMING.token * (1 - rounds_ / further) for size in mean.down]
    more = min(policy.burst, output - 1)
    first = chain.nothing().add(first).add(alone, more)
    furthers = _in_rounds(rounds_ / further, mean.seconds, last)
    return _Found(first, mean, (policy.exit,), (Case(1.0, first.seconds, last, more),), furthers)


def _in_rounds(share: float, mean_s: Number, last: int) -> tuple[Case, ...]:
    """Tokens that come together: one of them waits for all."""
    return Case(1 - share, 0.0, -1), Case(share, mean_s / share if share else 0.0, last)


def _confidence(
    chain: Chain, shares: Sequence[float], begins: Sequence[float], prompt: float, output: float, context: float
) -> _Found:
    """The exit of each token is taken as drawn by its share, whatever came before; of the first one by `begins`."""
    depth = len(shares)
    reach, reach_first = ([sum(drawn[g:]) for g in range(depth)] for drawn in (shares, begins))
    first, step = chain.nothing(), chain.nothing()
    first_s, step_s = chain.request(first), chain.token(step)
    median_s, firsts, furthers = first_s, [], []
    for g in range(depth):
        first_s = first_s + chain.part(first, g + 1, prompt, 0.0, reach_first[g])
        median_s = first_s if reach_first[g] >= HALF else median_s
        step_s = step_s + chain.lagging(step, g + 1, reach[g], context)
        missed = (1 - reach_first[g]) * (1 - (1 - reach[g]) ** (output - 1))  # the prompt is read here by a later token
        if missed:
            chain.part(step, g + 1, prompt, 0.0, missed / max(1.0, output - 1))
        firsts.append(Case(begins[g], first_s, chain.place(g + 1)))
        furthers.append(Case(shares[g], step_s, chain.place(g + 1)))
    first.seconds = median_s
    return _Found(first, step, tuple(range(1, depth + 1)), tuple(firsts), tuple(furthers))


def _speculative(
    chain: Chain, policy: SpeculativeExit, right: float, prompt: float, output: float, context: float
) -> _Found:
    first, last = chain.prefill(policy.exit, prompt), chain.place(policy.exit)
    draft = chain.draft(policy.draft_exit, context)
    none, few = (chain.verification(policy.exit, policy.draft_exit, k, context) for k in (0.0, _FEW_DRAFTS))
    row_s = (few.seconds - none.seconds) / _FEW_DRAFTS
    costs = float(draft.seconds), float(none.seconds), max(float(row_s), 0.0)
    mean = rounds(*costs, right, policy.length, overlap=last > 0)
    whole = chain.nothing().add(chain.verification(policy.exit, policy.draft_exit, mean.drafts, context))
    whole.add(draft, mean.made)
    whole.seconds = mean.seconds
    unused = (mean.tokens - 1) / 2  # of the last round, in the mean
    times = (1 + unused / max(1.0, output - 1)) / mean.tokens
    step = chain.nothing().add(whole, times)
    chain.token(step)
    step.add(chain.reading(policy.draft_exit, prompt), 1 / max(1.0, output - 1))
    furthers = _in_rounds(min(times, 1.0), step.seconds, last)
    waited = (mean.seconds - costs[1] - costs[2] * mean.drafts) / max(costs[0], 1e-9)
    beside = 1 - min(1.0, waited / mean.made) if mean.made else 0.0
    exits = policy.draft_exit, policy.exit
    return _Found(first, step, exits, (Case(1.0, first.seconds, last),), furthers, beside)


def _together(
    deployment: Deployment,
    machines: Sequence[Machine],
    prompt: float,
    output: float,
    sessions: int,
    statistics: Statistics,
) -> tuple[float, float]:
    """TTFT (median) and TPOT (mean) of texts that share the nodes, as they were played."""
    script = Script(deployment, machines, prompt, statistics)
    noted = play(machines, len(deployment.links), script.text, output, sessions, PAUSE_S)
    return median(noted.ttft_s), fmean(noted.steps_s)


def _known(found: Mapping[K, V], key: K, what: str) -> V:
    if key not in found:
        known = ", ".join(str(k) for k in found) or "none"
        raise DeploymentError(f"the policy needs {what} {key}; the statistics have {known}")
    return found[key]
