"""What a deployment costs: time to the first token, time per token, bytes, memory and FLOPs, by plain arithmetic.

A text is a prefill and then steps. Both go up the chain: each place runs its segments over the rows that it lacks, a
link carries them, and the exit that decides answers; how often each place is reached, and with how many rows, is the
policy's (`scaling.plan.policies`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, median

from scaling.plan.batching import Graph
from scaling.plan.chain import Chain
from scaling.plan.cost import Machine, Number
from scaling.plan.deployment import Deployment, DeploymentError, Statistics
from scaling.plan.memory import memory_bytes
from scaling.plan.policies import Case, text_of
from scaling.plan.script import Script
from scaling.plan.sessions import play
from scaling.plan.spent import Use
from scaling.plan.wire import FRAMING, request_s

NO_STATISTICS = Statistics()
PAUSE_S = 0.001
"""Between two texts of a session: an application that has its next one ready, as the measured ones had."""


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
    found = text_of(deployment.policy, chain, prompt_tokens, output_tokens, statistics)
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
