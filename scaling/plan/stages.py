"""What a tier adds to a plan by the number of its layers: times, machines, cost, power, memory (`placement.Stage`)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from family.spec import FamilySpec
from scaling.plan.chain import LEAST_RTO_S, ROOT_TWO
from scaling.plan.cost import LARGEST_FORWARD, Number
from scaling.plan.fleet import Fleet, Link, Tier
from scaling.plan.memory import F32_BYTES
from scaling.plan.placement import Stage
from scaling.plan.queueing import BUSY, Demand, sizing
from scaling.plan.roofline import FORMATS, branch_work, cost_of, trunk_work
from scaling.plan.wire import FRAMING, row_bytes, transfer_s
from scaling.runs import FloatArray

UNHURRIED = (1.0, 0.1)
"""TTFT and TPOT, seconds, that a text is taken to last by where the fleet has no goal for them: that of a reader."""
LOADS = (BUSY, BUSY / 2)
"""Up to which a shared machine may be loaded at the peak: with the first the fewest machines, with the other less
waiting."""
TINY = 1e-12
CODEC = "f32"
HOURS = 3 * 365 * 24
"""In which a machine that has no price per hour is written off."""


@dataclass(frozen=True)
class Part:
    """What one tier is in a plan, and all that its stage depends on."""

    tier: int
    """Its position in the fleet."""
    below: int | None
    """That of the tier that asks it; None: the users do."""
    last: bool
    share: float
    """Of requests, decided here."""
    arrives: float
    """Of requests, that come here."""


@dataclass(frozen=True, eq=False)
class Held:
    """What stands behind a stage, by the number of layers (L,)."""

    precision: str
    machines: FloatArray
    """Needed at the peak; all there are on the first tier."""
    memory_bytes: FloatArray
    """Of one machine: weights, and keys and values of the texts under way."""
    busy: FloatArray
    """Share of the time at the peak in which a machine computes."""
    load: FloatArray
    """Share of what a machine could do at the peak, if as many texts as there are shared its forwards."""
    sessions: FloatArray
    """Texts under way on a machine."""
    way_s: float
    """Round trip from the tier below, for one row; of the first used tier, from the user."""


def shares_of(fleet: Fleet, used: Sequence[int]) -> FloatArray:
    """Of requests, decided at each used tier (m,): `answering` says whose."""
    shares = np.zeros(len(used))
    for tier, share in enumerate(fleet.decided):
        shares[answering(used, tier)] += share
    return shares


def answering(used: Sequence[int], tier: int) -> int:
    """Which used tier answers the requests that are meant for a tier: itself, or the next one up that is used."""
    return next((i for i, at in enumerate(used) if at >= tier), len(used) - 1)


@dataclass(frozen=True, eq=False)
class Option:
    """A stage and what stands behind it."""

    stage: Stage
    held: Held


class Stages:
    """The stages of families on one trunk; those of one tier that several plans share are made once."""

    def __init__(self, fleet: Fleet, spec: FamilySpec, tied: bool) -> None:
        self._fleet, self._spec, self._tied = fleet, spec, tied
        self._made: dict[object, tuple[Option, ...]] = {}

    def of(self, used: Sequence[int]) -> list[tuple[Option, ...]]:
        """The options of each tier, of a family whose exits stand at the ends of the tiers `used`."""
        shares = shares_of(self._fleet, used)
        arrives = np.cumsum(shares[::-1])[::-1]
        found = []
        for i, at in enumerate(used):
            part = Part(at, used[i - 1] if i else None, i == len(used) - 1, float(shares[i]), float(arrives[i]))
            key = part, tuple(_answered(self._fleet, used, i))
            if key not in self._made:
                asked = part.share > 0 or any(name in self._fleet.goals.loss for name in key[1])
                self._made[key] = tuple(self._options(part, asked))
            found.append(self._made[key])
        return found

    def _options(self, part: Part, asked: bool) -> Iterator[Option]:
        for precision in self._fleet.tiers[part.tier].precisions:
            for load in LOADS if part.tier else LOADS[:1]:
                yield self._option(part, asked, precision, load)

    def _option(self, part: Part, asked: bool, precision: str, load: float) -> Option:
        fleet, spec, form, shared = self._fleet, self._spec, FORMATS[precision], part.tier > 0
        tier, traffic = fleet.tiers[part.tier], fleet.traffic
        exit_ = spec.exits[-1 if part.last else 0]
        trunk_work_, exit_work = (
            trunk_work(spec, np.arange(1.0, spec.n_layers + 1), form),
            branch_work(spec, exit_, form),
        )
        trunk, head = cost_of(trunk_work_, tier.hardware, form), cost_of(exit_work, tier.hardware, form)
        prompt, output = traffic.prompt_tokens, traffic.output_tokens
        context, parts, zero = prompt + output / 2, parts_of(prompt), np.zeros(spec.n_layers)
        link, share = way(fleet, part.below, part.tier), part.share / max(part.arrives, TINY)
        rate = traffic.requests_per_second * traffic.peak * part.arrives
        weights = trunk_work_.weight_bytes + exit_work.weight_bytes
        weights = weights + exit_work.head_bytes * (2 if part.below is None and not self._tied else 1)
        position = (trunk_work_.kv_width + exit_work.kv_width) * form.kv_bytes + F32_BYTES * spec.d_model
        session = np.asarray(position * (prompt + output))
        free = room(fleet, tier) - weights
        read = 1.0 if exit_.branch == "norm" else prompt
        own_ttft, own_tpot = float(head.seconds(read, 0.0, 1.0)), float(head.seconds(1.0, context, 1.0))

        def forward(rows: Number, context: Number, wanted: Number, sessions: Number) -> Number:
            """Everybody's layers, and the exit for those who are answered here."""
            asking = head.seconds(rows * share, context, wanted * share, np.maximum(sessions * share, TINY))
            return trunk.seconds(rows, context, 0.0, sessions) + (asking if share else 0.0)

        if shared:
            away = 0.0 if part.below is None and part.last else fleet.goals.tpot_s or UNHURRIED[1]
            sized = sizing(forward, Demand(rate, prompt, output, away_s=away), session, np.maximum(free, 0.0), load)
            machines, sessions = np.asarray(sized.machines), np.asarray(sized.sessions)
            busy, load_ = np.asarray(sized.busy), np.asarray(sized.load)
            answers = forward(1.0, context, 1.0, 1.0) - trunk.seconds(1.0, context, 0.0, 1.0)
            step, step_var = np.asarray(sized.tpot_s - answers), np.asarray(sized.tpot_var)
            prefill, prefill_var = np.maximum(sized.ttft_s - share * own_ttft, 0.0), np.asarray(sized.ttft_var)
        else:
            machines, sessions = zero + float(tier.count or 1), zero + 1.0
            step, step_var, prefill_var = np.asarray(trunk.seconds(1.0, context)), zero, zero
            prefill = parts * trunk.seconds(prompt / parts, prompt * (parts - 1) / (2 * parts))
            texts = prefill + output * step + share * (own_ttft + output * own_tpot)
            busy = load_ = np.asarray(rate / machines * texts)
        size = row_bytes(CODEC, spec.d_model)
        inside = part.below is not None
        carried = transfer_s(size * prompt / parts + FRAMING.up, link.up_bps) if inside else 0.0
        row = transfer_s(size + FRAMING.up, link.up_bps) + answered_s(link) if inside else 0.0
        watts = tier.hardware.busy_w - tier.hardware.idle_w
        possible = (free >= session * sessions) & np.isfinite(machines)
        if shared and tier.count is not None:
            possible &= machines <= tier.count
        else:
            possible &= load_ < 1
        machines = np.where(possible, machines, np.inf)
        stage = Stage(
            share=part.share,
            asked=asked,
            ttft=prefill / parts + carried + (answered_s(link) if inside else link.rtt_s),
            slowest=np.maximum(prefill / parts, carried),
            tpot=step + row,
            ttft_var=prefill_var + link.jitter_s**2,
            tpot_var=step_var + (link.jitter_s**2 if inside else 0.0),
            own_ttft=own_ttft,
            own_tpot=own_tpot,
            cost=np.where(possible, machines, 0.0) * price_per_hour(tier, shared),
            power=np.where(possible, machines, 0.0) * (busy * watts + (tier.hardware.idle_w if shared else 0.0)),
            possible=possible,
        )
        held = Held(precision, machines, np.asarray(weights + session * sessions), busy, load_, sessions, link.rtt_s)
        return Option(stage, held)


def parts_of(prompt_tokens: float) -> int:
    """Forwards in which a node reads a prompt."""
    return max(1, -(-int(prompt_tokens) // LARGEST_FORWARD))


def room(fleet: Fleet, tier: Tier) -> float:
    """Bytes of a machine's memory that the goals leave a node."""
    return tier.hardware.memory_bytes * (1 - fleet.goals.memory_free.get(tier.name, 0.0))


def price_per_hour(tier: Tier, shared: bool) -> float:
    """Of one machine. The users' own machines are there anyway, so that they cost only what the fleet says."""
    if tier.price_per_hour is not None:
        return tier.price_per_hour
    return tier.hardware.price_usd / HOURS if shared else 0.0


def _answered(fleet: Fleet, used: Sequence[int], i: int) -> list[str]:
    """The tiers whose requests a used tier answers."""
    return [tier.name for at, tier in enumerate(fleet.tiers) if answering(used, at) == i]


def answered_s(link: Link) -> float:
    """What a message waits for beside its own bytes, as `scaling.plan.chain` has it."""
    late_s = ROOT_TWO * link.jitter_s + 2 * link.loss * (link.rtt_s + LEAST_RTO_S)
    return link.rtt_s + late_s + float(transfer_s(FRAMING.down, link.down_bps))


def way(fleet: Fleet, below: int | None, at: int) -> Link:
    """The links between a tier and one below it, or the users, as one."""
    links = fleet.links[below or 0 : at]
    if not links:
        return Link(0.0, np.inf, np.inf)
    return replace(
        links[0],
        rtt_s=sum(link.rtt_s for link in links),
        up_bps=min(link.up_bps for link in links),
        down_bps=min(link.down_bps for link in links),
        jitter_s=float(np.sqrt(sum(link.jitter_s**2 for link in links))),
        loss=1 - float(np.prod([1 - link.loss for link in links])),
    )
