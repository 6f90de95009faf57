"""What a tier adds to a plan by the number of its layers: times, machines, cost, power, memory (`placement.Stage`)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from scaling.plan.fleet import Fleet, Link
from scaling.plan.placement import Stage
from scaling.plan.roofline import FORMATS, branch_work, cost_of, trunk_work
from scaling.plan.shapes import Made
from scaling.runs import FloatArray

ROW_VALUE_BYTES = 4
"""Rows travel as f32."""
BUSY = 0.7
"""Share of a shared machine's time that may be taken at the peak."""
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
    trunk_, exit_ = trunk_work(spec, layers, form), branch_work(spec, spec.exits[-1 if last else 0], form)
    trunk, head = cost_of(trunk_, tier.hardware, form), cost_of(exit_, tier.hardware, form)
    prompt, output = traffic.prompt_tokens, traffic.output_tokens
    context = prompt + output / 2
    prefill, decode = np.asarray(trunk.seconds(prompt, 0.0)), np.asarray(trunk.seconds(1.0, context))
    own = float(head.seconds(1.0, context, 1.0))
    link = _way(fleet, used, i)
    row_s = 0.0 if i == 0 else ROW_VALUE_BYTES * 8 * spec.d_model / link.up_bps
    busy = arrives * (prefill + output * decode) + share * output * own
    rate = traffic.requests_per_second * traffic.peak
    shared = used[i] > 0
    zero = np.zeros(len(layers))
    needed = np.maximum(1.0, np.ceil(rate * busy / BUSY)) if shared else zero + float(tier.count or 1)
    held = (trunk_.kv_width + exit_.kv_width) * form.kv_bytes * (prompt + output)
    copies = 1 if i or made.shape.tied else 2
    weights = trunk_.weight_bytes + exit_.weight_bytes + copies * exit_.head_bytes
    memory = np.asarray(weights + held * (rate * busy / needed + 1))
    possible = memory <= tier.hardware.memory_bytes * (1 - fleet.goals.memory_free.get(tier.name, 0.0))
    if tier.count is not None:
        possible &= needed <= tier.count
    price = tier.price_per_hour if tier.price_per_hour is not None else tier.hardware.price_usd / HOURS
    machine = tier.hardware
    stage = Stage(
        share=share,
        asked=share > 0 or any(name in fleet.goals.loss for name in _answered(fleet, used, i)),
        ttft=prefill + link.rtt_s + row_s * prompt,
        tpot=decode + (0.0 if i == 0 else link.rtt_s + row_s),
        ttft_var=zero + link.jitter_s**2,
        tpot_var=zero + (0.0 if i == 0 else link.jitter_s**2),
        own_ttft=zero + own,
        own_tpot=zero + own,
        own_ttft_var=zero,
        own_tpot_var=zero,
        cost=needed * price,
        power=needed * machine.idle_w + rate * busy * (machine.busy_w - machine.idle_w),
        possible=possible,
    )
    return stage, Held(tier.precisions[0], needed, memory, rate * busy / needed, link.rtt_s)


def _answered(fleet: Fleet, used: Sequence[int], i: int) -> list[str]:
    """The tiers whose requests a used tier answers."""
    return [tier.name for at, tier in enumerate(fleet.tiers) if answering(used, at) == i]


def _way(fleet: Fleet, used: Sequence[int], i: int) -> Link:
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
