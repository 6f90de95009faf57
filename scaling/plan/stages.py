"""What a tier adds to a plan by the number of its layers: times, machines, cost, power, memory (`placement.Stage`)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from scaling.plan.chain import LEAST_RTO_S, ROOT_TWO
from scaling.plan.cost import LARGEST_FORWARD
from scaling.plan.fleet import Fleet, Link, Tier
from scaling.plan.memory import F32_BYTES
from scaling.plan.placement import Stage
from scaling.plan.roofline import FORMATS, branch_work, cost_of, trunk_work
from scaling.plan.shapes import Made
from scaling.plan.wire import FRAMING, row_bytes, transfer_s
from scaling.runs import FloatArray

UNHURRIED = (1.0, 0.1)
"""TTFT and TPOT, seconds, that a text is taken to last by where the fleet has no goal for them: that of a reader."""
BUSY = 0.7
"""Share of a shared machine's time that may be taken at the peak."""
CODEC = "f32"
HOURS = 3 * 365 * 24
"""In which a machine that has no price per hour is written off."""


@dataclass(frozen=True, eq=False)
class Held:
    """What stands behind a stage, by the number of layers (L,)."""

    precision: str
    machines: FloatArray
    """Needed at the peak; all there are on the first tier."""
    memory_bytes: FloatArray
    """Of one machine: weights, and keys and values of the texts under way."""
    busy: FloatArray
    """Share of a machine's time at the peak."""
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


def stages(fleet: Fleet, used: Sequence[int], made: Made) -> list[tuple[Stage, Held]]:
    """The stages of a family whose exits stand at the ends of the tiers `used` (positions in the fleet)."""
    shares = shares_of(fleet, used)
    arrives = np.cumsum(shares[::-1])[::-1]
    return [_stage(fleet, used, i, made, float(shares[i]), float(arrives[i])) for i in range(len(used))]


def _stage(fleet: Fleet, used: Sequence[int], i: int, made: Made, share: float, arrives: float) -> tuple[Stage, Held]:
    tier, spec, traffic, last = fleet.tiers[used[i]], made.spec, fleet.traffic, i == len(used) - 1
    layers = np.arange(1.0, spec.n_layers + 1)
    form = FORMATS[tier.precisions[0]]
    exit_ = spec.exits[-1 if last else 0]
    trunk_, exit_work = trunk_work(spec, layers, form), branch_work(spec, exit_, form)
    trunk, head = cost_of(trunk_, tier.hardware, form), cost_of(exit_work, tier.hardware, form)
    prompt, output = traffic.prompt_tokens, traffic.output_tokens
    context, parts = prompt + output / 2, parts_of(prompt)
    part = np.asarray(trunk.seconds(prompt / parts, prompt * (parts - 1) / (2 * parts)))
    decode = np.asarray(trunk.seconds(1.0, context))
    first = float(head.seconds(1.0 if exit_.branch == "norm" else prompt, 0.0, 1.0))
    own = float(head.seconds(1.0, context, 1.0))
    link, zero = way(fleet, used, i), np.zeros(len(layers))
    size = row_bytes(CODEC, spec.d_model)
    carried, row, answer = (
        (0.0, 0.0, link.rtt_s)
        if i == 0
        else (
            transfer_s(size * prompt / parts + FRAMING.up, link.up_bps),
            transfer_s(size + FRAMING.up, link.up_bps),
            answered_s(link),
        )
    )
    shared, rate = used[i] > 0, traffic.requests_per_second * traffic.peak
    busy = arrives * (parts * part + output * decode) + share * (first + output * own)
    needed = np.maximum(1.0, np.ceil(rate * busy / BUSY)) if shared else zero + float(tier.count or 1)
    memory = np.asarray(
        (trunk_.weight_bytes + exit_work.weight_bytes)
        + exit_work.head_bytes * (1 if i or made.shape.tied else 2)
        + ((trunk_.kv_width + exit_work.kv_width) * form.kv_bytes + F32_BYTES * spec.d_model)
        * (prompt + output)
        * (rate * arrives * _lasts(fleet) / needed + 1)
    )
    possible = memory <= room(fleet, tier)
    if shared and tier.count is not None:
        possible &= needed <= tier.count
    stage = Stage(
        share=share,
        asked=share > 0 or any(name in fleet.goals.loss for name in _answered(fleet, used, i)),
        ttft=part + carried + answer,
        slowest=np.maximum(part, carried),
        tpot=decode + row + (answer if i else 0.0),
        ttft_var=zero + link.jitter_s**2,
        tpot_var=zero + (link.jitter_s**2 if i else 0.0),
        own_ttft=first,
        own_tpot=own,
        cost=needed * price_per_hour(tier, shared),
        power=rate * busy * (tier.hardware.busy_w - tier.hardware.idle_w) + shared * needed * tier.hardware.idle_w,
        possible=possible,
    )
    return stage, Held(tier.precisions[0], needed, memory, rate * busy / needed, link.rtt_s)


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


def _lasts(fleet: Fleet) -> float:
    """Seconds that a text takes at most, if it keeps the goals; so long its keys and values are held."""
    ttft, tpot = fleet.goals.ttft_s or UNHURRIED[0], fleet.goals.tpot_s or UNHURRIED[1]
    return ttft + fleet.traffic.output_tokens * tpot


def _answered(fleet: Fleet, used: Sequence[int], i: int) -> list[str]:
    """The tiers whose requests a used tier answers."""
    return [tier.name for at, tier in enumerate(fleet.tiers) if answering(used, at) == i]


def answered_s(link: Link) -> float:
    """What a message waits for beside its own bytes, as `scaling.plan.chain` has it."""
    late_s = ROOT_TWO * link.jitter_s + 2 * link.loss * (link.rtt_s + LEAST_RTO_S)
    return link.rtt_s + late_s + float(transfer_s(FRAMING.down, link.down_bps))


def way(fleet: Fleet, used: Sequence[int], i: int) -> Link:
    """The links between a used tier and the one below it, or the user, as one."""
    links = fleet.links[used[i - 1] if i else 0 : used[i]]
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
