"""What one tier takes for its part of a plan, by the number of its layers: times, machines, memory, before any sum.

The users' own machines serve one text at a time. A shared tier is sized for the traffic's peak by
`scaling.plan.queueing`; where some of its requests go on to a tier above, a text is away between its tokens, and the
exit's work is that of the share that is answered here.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from family.spec import FamilySpec
from scaling.plan.cost import LARGEST_FORWARD, GraphCost, Number
from scaling.plan.fleet import Fleet, Tier
from scaling.plan.memory import F32_BYTES
from scaling.plan.queueing import Demand, sizing
from scaling.plan.roofline import FORMATS, branch_work, cost_of, trunk_work
from scaling.runs import FloatArray

UNHURRIED = 0.1
"""Seconds from token to token that a text is taken to need where the fleet has no shorter goal: a reader's pace."""
TINY = 1e-12


@dataclass(frozen=True)
class Part:
    """What one tier is in a plan, and all that its costs depend on."""

    tier: int
    """Its position in the fleet."""
    below: int | None
    """That of the tier that asks it; None: the users do."""
    last: bool
    """Whether its exit is the trunk's last."""
    share: float
    """Of requests, decided here."""
    arrives: float
    """Of requests, that come here."""

    @property
    def shared(self) -> bool:
        """Whether its machines serve many users."""
        return self.tier > 0

    @property
    def asked(self) -> float:
        """Of what comes here, what is decided here."""
        return self.share / max(self.arrives, TINY)


@dataclass(frozen=True, eq=False)
class Held:
    """A tier at a precision and a load; arrays (L,), for 1..L layers."""

    precision: str
    prefill_s: FloatArray
    """A whole prompt through the layers, waiting included; without the exit."""
    prefill_var: FloatArray
    """Without what the prompts' lengths make of it."""
    length_s: FloatArray
    """Standard deviation of `prefill_s` by the prompts' lengths."""
    step_s: FloatArray
    """A token through the layers, waiting included; without the exit."""
    step_var: FloatArray
    exit_ttft_s: float
    """The exit's own part of the first token."""
    exit_tpot_s: float
    machines: FloatArray
    """Needed at the peak, all there are on the first tier; infinite where no number is enough."""
    memory_bytes: FloatArray
    """Of one machine: weights, and keys and values of the texts under way."""
    busy: FloatArray
    """Share of the time in which a machine computes, in the mean of the day."""
    load: FloatArray
    """Share of what a machine could do at the peak, if as many texts as there are shared its forwards."""
    sessions: FloatArray
    """Texts under way on a machine."""
    possible: FloatArray
    """Whether the machines hold it (1 or 0), and there are enough."""


def held(
    fleet: Fleet, spec: FamilySpec, tied: bool, part: Part, precision: str, loads: Sequence[float]
) -> tuple[Held, ...]:
    """A tier's part of a family, once for each load; the users' own machines have one.

    Args:
        fleet: the question.
        spec: the family's shape; of its exits only their kinds matter, the first's and the last's.
        tied: whether the head is the embedding.
        part: which tier, and what of the traffic.
        precision: of its weights.
        loads: up to which its machines are planned, if they are shared.
    """
    form, tier = FORMATS[precision], fleet.tiers[part.tier]
    exit_ = spec.exits[-1 if part.last else 0]
    trunk_, exit_work = trunk_work(spec, np.arange(1.0, spec.n_layers + 1), form), branch_work(spec, exit_, form)
    trunk, head = cost_of(trunk_, tier.hardware, form), cost_of(exit_work, tier.hardware, form)
    prompt, output = fleet.traffic.prompt_tokens, fleet.traffic.output_tokens
    embedding = 2 if part.below is None and not tied else 1
    weights = np.asarray(trunk_.weight_bytes + exit_work.weight_bytes + embedding * exit_work.head_bytes)
    position = (trunk_.kv_width + exit_work.kv_width) * form.kv_bytes + F32_BYTES * spec.d_model
    text_bytes = np.asarray(position * (prompt + output))
    read = 1.0 if exit_.branch == "norm" else prompt
    own = float(head.seconds(read, 0.0, 1.0)), float(head.seconds(1.0, prompt + output / 2, 1.0))
    free = np.asarray(room(fleet, tier) - weights)
    if part.shared:
        served = _shared(fleet, part, trunk, head, own, text_bytes, free, loads)
    else:
        served = iter([_owned(fleet, part, trunk, own)])

    def of(times: _Times, machines: FloatArray, busy: FloatArray, load: FloatArray, sessions: FloatArray) -> Held:
        enough = machines <= tier.count if part.shared and tier.count else load < 1
        possible = np.isfinite(machines) & enough & (free >= text_bytes * sessions)
        needed = np.where(possible, machines, np.inf)
        memory = weights + text_bytes * sessions
        return Held(precision, *times, *own, needed, memory, busy, load, sessions, possible.astype(float))

    return tuple(of(*one) for one in served)


_Times = tuple[FloatArray, FloatArray, FloatArray, FloatArray, FloatArray]
_Served = tuple[_Times, FloatArray, FloatArray, FloatArray, FloatArray]
"""Prefill, its variance, its deviation by length, step, its variance; machines, busy, load, sessions."""


def _owned(fleet: Fleet, part: Part, trunk: GraphCost, own: tuple[float, float]) -> _Served:
    """One user's text at a time."""
    traffic = fleet.traffic
    prompt, output, parts = traffic.prompt_tokens, traffic.output_tokens, parts_of(traffic.prompt_tokens)
    prefill = np.asarray(parts * trunk.seconds(prompt / parts, prompt * (parts - 1) / (2 * parts)))
    step = np.asarray(trunk.seconds(1.0, prompt + output / 2))
    zero = np.zeros_like(prefill)
    machines = zero + float(fleet.tiers[part.tier].count or 1)
    rate = traffic.requests_per_second * traffic.peak * part.arrives / machines
    load = rate * (prefill + output * step + part.asked * (own[0] + output * own[1]))
    length = traffic.prompt_cv * np.maximum(prefill - trunk.seconds(1.0, 0.0), 0.0)
    return (prefill, zero, length, step, zero), machines, load / traffic.peak, load, zero + 1.0


def _shared(
    fleet: Fleet,
    part: Part,
    trunk: GraphCost,
    head: GraphCost,
    own: tuple[float, float],
    text_bytes: FloatArray,
    free: FloatArray,
    loads: Sequence[float],
) -> Iterator[_Served]:
    """Many texts at a time, in shared forwards."""
    traffic, asked = fleet.traffic, part.asked
    context = traffic.prompt_tokens + traffic.output_tokens / 2

    def answers(rows: Number, context: Number, wanted: Number, sessions: Number) -> Number:
        """The exit, for those who are answered here."""
        if not asked:
            return 0.0
        return head.seconds(rows * asked, context, wanted * asked, np.maximum(sessions * asked, TINY))

    def forward(rows: Number, context: Number, wanted: Number, sessions: Number) -> Number:
        return trunk.seconds(rows, context, 0.0, sessions) + answers(rows, context, wanted, sessions)

    alone = part.below is None and part.share >= part.arrives * (1 - TINY)
    away = 0.0 if alone else min(fleet.goals.tpot_s or UNHURRIED, UNHURRIED)
    limits = np.array(loads)[:, None]  # (loads, 1)
    demand = Demand(
        traffic.requests_per_second * traffic.peak * part.arrives * np.ones_like(limits),
        traffic.prompt_tokens,
        traffic.output_tokens,
        traffic.prompt_cv,
        away_s=away,
        peak=traffic.peak,
    )
    at = sizing(forward, demand, text_bytes, np.maximum(free, 0.0), limits)
    prefill = np.maximum(at.ttft_s - asked * own[0], 0.0)
    step = at.tpot_s - answers(1.0, context, 1.0, 1.0)
    var = at.ttft_var - np.square(at.length_s)
    rows = prefill, var, at.length_s, step, at.tpot_var, at.machines, at.usual, at.load, at.sessions
    for prefill, var, length, step, step_var, machines, busy, load, sessions in zip(
        *map(np.asarray, rows), strict=True
    ):
        yield (prefill, var, length, step, step_var), machines, busy, load, sessions


def parts_of(prompt_tokens: float) -> int:
    """Forwards in which a node reads a prompt."""
    return max(1, -(-int(prompt_tokens) // LARGEST_FORWARD))


def room(fleet: Fleet, tier: Tier) -> float:
    """Bytes of a machine's memory that the goals leave a node."""
    return tier.hardware.memory_bytes * (1 - fleet.goals.memory_free.get(tier.name, 0.0))
