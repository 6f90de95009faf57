"""What deployments ask of their tiers at the traffic's peak: machines, and how long texts wait for each other there.

A shared tier is the queue of `scaling.plan.sharing`. Its question is what a text asks it for at once: a token, or with
drafts all of a round. A policy may leave some graphs out of some questions (`Use`): where n texts share a forward, a
graph that a question needs with probability w runs with probability 1 - (1 - w)^n, over the rows of those who need it;
and texts that part on their way find a forward of the others under way, as those do that were away.
What differs only in numbers is sized at once, so all deployments are looked at, and none is left out by a guess.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from scaling.plan.asked import Asked
from scaling.plan.batching import Graph
from scaling.plan.cost import Machine, Number
from scaling.plan.deployment import Place
from scaling.plan.memory import memory_bytes
from scaling.plan.place import Choice
from scaling.plan.queueing import Demand, sized, states
from scaling.plan.sharing import Forward
from scaling.plan.spent import Use
from scaling.runs import FloatArray

TINY = 1e-9


@dataclass(frozen=True)
class Served:
    """One place's tier at the peak. Times are of a text or a question that comes here."""

    machines: float
    """Infinite where no number is enough."""
    sessions: float
    """Texts under way on a machine."""
    together: float
    """Of these, those that wait for no other tier."""
    busy: float
    """Share of the time in which a machine computes."""
    mean_busy: float
    """The same at the mean rate of the day: texts share fewer forwards then, so more than in proportion."""
    empty_bytes: float
    """A node's memory without any session."""
    questions: float = 0.0
    """Of a text after its first token, of all texts in the mean."""
    first_wait_s: float = 0.0
    first_var: float = 0.0
    """s², without what the prompts' lengths make of it."""
    length_s: float = 0.0
    """Standard deviation of the first token's time by these."""
    wait_s: float = 0.0
    """Of a question."""
    var: float = 0.0


ALONE = Served(1.0, 1.0, 1.0, 0.0, 0.0, 0.0)
"""A machine that serves one text."""


def served(asked: Asked, found: Sequence[Choice], loads: Sequence[float]) -> list[list[list[Served]]]:
    """By load up to which shared machines are planned, of each choice and its places."""
    own, alike = asked.fleet.tiers[0], defaultdict(list)
    made: dict[tuple[int, int], list[Served]] = {}
    peak = asked.fleet.traffic.requests_per_second * asked.fleet.traffic.peak
    empty: dict[Place, float] = {}
    for n, choice in enumerate(found):
        for i, place in enumerate(choice.deployment.places):
            uses = choice.prediction.uses[place.tier]
            if place not in empty:
                empty[place] = _empty_bytes(asked, choice, place.tier)
            if place.tier == own.name:
                count = float(own.count or 1)
                busy = peak * busy_s(asked, choice, own.name) / count
                mean = busy / asked.fleet.traffic.peak
                made[n, i] = [Served(count, 1.0, 1.0, busy, mean, empty[place])] * len(loads)
            elif not uses:
                made[n, i] = [Served(1.0, 0.0, 0.0, 0.0, 0.0, empty[place])] * len(loads)
            else:
                alike[place, tuple(sorted(uses))].append((n, i))
    for (place, graphs), rows in alike.items():
        choices = [found[n] for n, _ in rows]
        made.update(zip(rows, _sized(asked, place.tier, graphs, choices, loads, empty[place]), strict=True))
    counts = [len(choice.deployment.places) for choice in found]
    return [[[made[n, i][k] for i in range(m)] for n, m in enumerate(counts)] for k in range(len(loads))]


def _sized(
    asked: Asked, tier: str, graphs: Sequence[Graph], found: Sequence[Choice], loads: Sequence[float], empty: float
) -> list[list[Served]]:
    """A shared tier at the peak: its texts share forwards, and are away while others work on them."""
    traffic, machine = asked.fleet.traffic, asked.machines[tier]
    prompt, further = traffic.prompt_tokens, max(traffic.output_tokens - 1, TINY)
    uses = {graph: _columns([choice.prediction.uses[tier][graph] for choice in found]) for graph in graphs}
    reach = np.clip(np.max([use.read for use in uses.values()], axis=0) / prompt, TINY, 1.0)
    questions = np.maximum(np.max([use.runs for use in uses.values()], axis=0), TINY)
    each = questions / reach
    forward = _forward(machine, uses, questions, reach * prompt)
    context = prompt + traffic.output_tokens / 2
    alone_s = np.asarray(forward(1.0, context, 1.0, 1.0))
    text_s = np.array([further * float(choice.prediction.tpot_s) for choice in found])
    chained = np.array([len(choice.deployment.places) > 1 for choice in found])
    parted = np.any([use.runs < questions * (1 - TINY) for use in uses.values()], axis=0)
    away = np.where(chained, np.maximum(text_s / each - alone_s, 0.0), np.where(parted, TINY, 0.0))
    size = np.array([float(choice.prediction.memory_bytes[tier]) for choice in found]) - empty
    demand = Demand(
        traffic.requests_per_second * traffic.peak * reach,
        prompt,
        1 + each,
        traffic.prompt_cv,
        away_s=away,
        positions=traffic.output_tokens / (1 + each),
    )
    found_at = []
    with np.errstate(invalid="ignore", divide="ignore"):  # far beyond what was measured, a curve may fall below 0
        state = states(forward, demand)
        for load in loads:
            at = sized(state, demand, size, room_bytes(asked, tier) - empty, load)
            count, sessions = np.asarray(at.machines), np.asarray(at.sessions)
            gone = demand.rate / count * each * away  # Little's law
            first = at.ttft_s - at.first_alone_s, at.ttft_var - np.square(at.length_s), at.length_s
            token = at.tpot_s - at.token_alone_s, at.tpot_var
            rate = np.where(np.isfinite(count), demand.rate / count / traffic.peak, 0.0)
            mean = np.minimum(state.at(rate).busy, at.busy)
            rows = count, sessions, np.maximum(sessions - gone, 0.0), at.busy, mean, empty, questions, *first, *token
            found_at.append([Served(*map(float, row)) for row in zip(*np.broadcast_arrays(*rows), strict=True)])
    return [list(row) for row in zip(*found_at, strict=True)]


@dataclass(frozen=True)
class _Columns:
    """A `Use` of several choices."""

    runs: FloatArray
    rows: FloatArray
    wanted: FloatArray
    read: FloatArray


def _columns(uses: Sequence[Use]) -> _Columns:
    return _Columns(*np.array([[use.runs, use.rows, use.wanted, use.read] for use in uses], float).T)


def _forward(machine: Machine, uses: Mapping[Graph, _Columns], questions: FloatArray, read: FloatArray) -> Forward:
    """The forwards of a node for so many texts' questions, whose rows beyond one each are prompts'."""

    def forward(rows: Number, context: Number, wanted: Number, sessions: Number) -> Number:
        long = np.maximum(rows - sessions, 0.0)
        seconds: Number = machine.node.job_s * np.maximum(sessions - 1, 0.0)
        for (kind, g), use in uses.items():
            cost = machine.segments[g] if kind == "segment" else machine.exits[g]
            needed, part = use.runs / questions, np.clip(use.read / read, 0.0, 1.0)
            runs = np.maximum(1 - (1 - needed) ** sessions * np.where(long > 0, 1 - part, 1.0), TINY)
            texts = sessions * needed
            asked = sessions * use.rows / questions + long * part
            logits = wanted * use.wanted / questions
            seconds = seconds + runs * cost.seconds(asked / runs, context, logits / runs, np.maximum(texts / runs, 1.0))
        return seconds

    return forward


def busy_s(asked: Asked, choice: Choice, tier: str) -> float:
    """Seconds that a tier works for a text."""
    first_s, token_s = choice.prediction.busy_s[tier]
    return float(first_s) + (asked.fleet.traffic.output_tokens - 1) * float(token_s)


def room_bytes(asked: Asked, tier: str) -> float:
    """What the goals leave of a machine's memory."""
    return asked.machines[tier].memory_bytes * (1 - asked.fleet.goals.memory_free.get(tier, 0.0))


def _empty_bytes(asked: Asked, choice: Choice, tier: str) -> float:
    """A node's memory without any session."""
    traffic, deployment = asked.fleet.traffic, choice.deployment
    found = memory_bytes(
        deployment, asked.machines, (deployment.deepest,), traffic.prompt_tokens, traffic.output_tokens, 0
    )
    return float(found[tier])
