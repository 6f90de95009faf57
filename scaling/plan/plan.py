"""`Plan`: one answer, with its figures by tier."""

from dataclasses import dataclass

import numpy as np

from scaling.law import LEVEL
from scaling.plan.exitlaw import ExitLaw
from scaling.plan.fleet import Fleet
from scaling.plan.money import JOULES_PER_KWH, MILLION
from scaling.plan.search import Group, ceilings, loss_table
from scaling.plan.stages import CODEC, Option
from scaling.plan.tiers import parts_of, room
from scaling.plan.wire import row_bytes
from scaling.quantiles import bounds

GIGA = 1e9


@dataclass(frozen=True)
class Figure:
    """A number with its interval by the law's bootstrap."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class TierTimes:
    """Mean seconds of the steps of a text on a tier and on the way to it, waiting included."""

    answer_s: float
    """There and back from the tier below, without rows."""
    prompt_up_s: float
    """A prompt's rows."""
    row_up_s: float
    prefill_s: float
    """A prompt through the tier's layers."""
    step_s: float
    """A token through them."""
    exit_first_s: float
    """The exit, for the first token."""
    exit_s: float


@dataclass(frozen=True)
class TierPlan:
    """What one tier does."""

    tier: str
    hardware: str
    precision: str
    first_layer: int
    exit_layer: int
    """It has the layers first_layer..exit_layer - 1 and the exit after them."""
    decides: float
    """Share of requests."""
    loss: Figure
    """Of its exit, nats per token."""
    ttft_s: float
    """Of what it decides, at the goals' percentile."""
    tpot_s: float
    machines: int
    load: float
    """Share of what a machine can do, at the peak."""
    sessions: float
    """Texts under way on a machine."""
    memory_gb: float
    room_gb: float
    """What the goals leave of a machine's memory."""
    cost_per_hour: float
    power_w: float
    times: TierTimes
    loss_goal: float | None = None
    available: int | None = None
    """Machines that there are."""
    rows_mbps: float = 0.0
    """Rows that reach a machine at the peak, megabits per second."""


@dataclass(frozen=True)
class Plan:
    """A family, where it is cut, and what that takes."""

    tiers: tuple[TierPlan, ...]
    d_model: int
    n_layers: int
    parameters: float
    """N, as the law counts it."""
    tokens: float
    """D"""
    training_flops: float
    loss: float
    """Mean over requests, nats per token."""
    tpot_s: float
    """Mean over requests."""
    cost_per_hour: float
    power_w: float
    cost_per_million: float
    """Tokens."""
    kwh_per_million: float
    outside: tuple[str, ...]
    """What lies outside the range of the law's runs."""

    @property
    def granularity(self) -> int:
        """G."""
        return len(self.tiers)

    @property
    def exit_layers(self) -> tuple[int, ...]:
        """l_g."""
        return tuple(tier.exit_layer for tier in self.tiers)


def plan_of(fleet: Fleet, law: ExitLaw, group: Group, index: int) -> Plan:
    """A candidate with all its figures."""
    made, placements = group.made, group.placements
    layers = placements.layers[index]
    losses, drawn = group.losses[index], loss_table(law, law.draws, made)[:, layers - 1]
    low, high = bounds(drawn, losses, LEVEL)
    goals = ceilings(fleet, group.used)
    spans = np.diff(layers, prepend=0)
    tiers = []
    for i, at in enumerate(group.used):
        tier, k, option = fleet.tiers[at], int(spans[i]) - 1, group.options[i][placements.options[index, i]]
        stage, held = option.stage, option.held
        tiers.append(
            TierPlan(
                tier=tier.name,
                hardware=tier.hardware.name,
                precision=held.precision,
                first_layer=int(layers[i] - spans[i]),
                exit_layer=int(layers[i]),
                decides=stage.share,
                loss=Figure(float(losses[i]), float(low[i]), float(high[i])),
                ttft_s=float(placements.ttft[index, i]),
                tpot_s=float(placements.tpot[index, i]),
                machines=int(held.machines[k]),
                load=float(held.load[k]),
                sessions=float(held.sessions[k]),
                memory_gb=float(held.memory_bytes[k]) / GIGA,
                room_gb=room(fleet, tier) / GIGA,
                cost_per_hour=float(stage.cost[k]),
                power_w=float(stage.power[k]),
                times=_times(option, k, parts_of(fleet.traffic.prompt_tokens)),
                loss_goal=None if np.isinf(goals[i]) else float(goals[i]),
                available=tier.count,
                rows_mbps=_rows_mbps(fleet, option, int(held.machines[k]), made.spec.d_model),
            )
        )
    cost, power = float(placements.cost[index]), float(placements.power[index])
    tokens_per_s = fleet.traffic.requests_per_second * fleet.traffic.output_tokens
    return Plan(
        tiers=tuple(tiers),
        d_model=made.spec.d_model,
        n_layers=made.spec.n_layers,
        parameters=made.n,
        tokens=made.d,
        training_flops=made.flops,
        loss=float(group.quality[index]),
        tpot_s=float(placements.latency[index]),
        cost_per_hour=cost,
        power_w=power,
        cost_per_million=cost / 3600 / tokens_per_s * MILLION,
        kwh_per_million=power / tokens_per_s * MILLION / JOULES_PER_KWH,
        outside=law.outside(made.n, made.d, made.granularity, made.flops),
    )


def _rows_mbps(fleet: Fleet, option: Option, machines: int, d_model: int) -> float:
    traffic = fleet.traffic
    if option.part.below is None:
        return 0.0
    rows = traffic.requests_per_second * traffic.peak * option.part.arrives
    return rows * (traffic.prompt_tokens + traffic.output_tokens) * row_bytes(CODEC, d_model) * 8e-6 / machines


def _times(option: Option, k: int, parts: int) -> TierTimes:
    held, hop = option.held, option.hop
    return TierTimes(
        hop.answer_s,
        hop.prompt_s * parts,
        hop.row_s,
        float(held.prefill_s[k]),
        float(held.step_s[k]),
        held.exit_ttft_s,
        held.exit_tpot_s,
    )
