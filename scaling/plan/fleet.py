"""The planner's nouns: what machines there are, what they are asked for, and what the answer has to keep.

Plain data, in SI units (seconds, bytes, bits per second where the name says so); `scaling.plan.fleetfile` reads them
from YAML.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from scaling.plan.hardware import Hardware

Objective = Literal["cost", "latency", "quality", "energy", "pareto"]
OBJECTIVES: tuple[Objective, ...] = get_args(Objective)


@dataclass(frozen=True)
class Tier:
    """One kind of place where a part of the family may run."""

    name: str
    hardware: Hardware
    count: int | None = None
    """Machines that there are; None: as many as it takes."""
    precisions: tuple[str, ...] = ("int4",)
    """Of the weights; the planner chooses one of these."""
    profile: Path | None = None
    """What `relay-node profile` measured on such a machine, for a bundle."""
    price_per_hour: float | None = None
    """Of one machine, in the budget's currency; None: its purchase, written off (`scaling.plan.money`)."""


@dataclass(frozen=True)
class Link:
    """What lies between a tier and the next one up."""

    rtt_s: float
    up_bps: float
    """Bits per second towards the upper tier."""
    down_bps: float
    jitter_s: float = 0.0
    """Standard deviation of a round trip."""
    loss: float = 0.0
    """Share of packets."""


@dataclass(frozen=True)
class Traffic:
    """What users ask for. Every request comes from one of the first tier's machines."""

    requests_per_second: float
    """Of the whole fleet, in the mean."""
    prompt_tokens: float
    output_tokens: float
    """Means, by request."""
    prompt_cv: float = 1.0
    """Standard deviation of the prompts' lengths over their mean."""
    peak: float = 1.0
    """The busiest minute over the mean."""
    decided: Mapping[str, float] = field(default_factory=dict)
    """By tier, the share of requests whose tokens its deepest exit decides; they sum to 1. Where a plan leaves a tier
    out, the next one up that has an exit decides its share."""


@dataclass(frozen=True)
class Goals:
    """What a plan has to keep. None, or a tier that is missing: no such goal."""

    ttft_s: float | None = None
    tpot_s: float | None = None
    percentile: float = 95.0
    """Of requests (TTFT) and tokens (TPOT), at the traffic's peak."""
    loss: Mapping[str, float] = field(default_factory=dict)
    """By tier, the most that the loss of what it decides may be, nats per token."""
    agreement: float | None = None
    """Of a bundle: the least share of tokens that are the last exit's."""
    memory_free: Mapping[str, float] = field(default_factory=dict)
    """By tier, the share of each machine's memory that the node leaves to others; none where a tier is missing."""
    budget_per_hour: float | None = None
    """For all machines, in the currency of their prices."""


@dataclass(frozen=True)
class Trunk:
    """Which trunks may be trained: the planner tries every width with every depth that its aspect allows."""

    widths: tuple[int, ...] = ()
    """d_model; empty: those of `scaling.plan.shapes`."""
    layers: tuple[int, ...] = ()
    """n_layers; empty: about d_model / aspect."""
    aspect: float = 64.0
    """d_model / n_layers, where `layers` does not say."""
    head_dim: int = 64
    queries_per_key: int = 4
    """Query heads that share a key-value head, where their number allows it; else each has its own."""
    ff_ratio: float = 8 / 3
    """d_ff / d_model."""
    vocab_size: int = 49152
    tied: bool = True
    """Whether the head is the embedding."""
    context: int = 4096
    """Positions of a session, and of a training window."""
    branch: str = "norm"
    """What an early exit adds: `norm`, `block` or `lowrank`."""
    rank: int | None = None


@dataclass(frozen=True)
class Training:
    """What the run may take: `compute`, or N and D."""

    compute_flops: float | None = None
    parameters: float | None = None
    tokens: float | None = None
    trunk: Trunk = field(default_factory=Trunk)

    @property
    def budget(self) -> float:
        """C, FLOPs; 6ND where N and D are fixed."""
        return self.compute_flops or 6 * (self.parameters or 0.0) * (self.tokens or 0.0)


@dataclass(frozen=True)
class Fleet:
    """The whole question."""

    name: str
    tiers: tuple[Tier, ...]
    """In the order of the relay, the users' own machines first."""
    links: tuple[Link, ...]
    """One fewer: `links[i]` is between `tiers[i]` and `tiers[i + 1]`."""
    traffic: Traffic
    goals: Goals
    training: Training = field(default_factory=Training)
    objective: Objective = "cost"

    def tier(self, name: str) -> Tier:
        """The tier of that name."""
        return next(tier for tier in self.tiers if tier.name == name)

    @property
    def decided(self) -> tuple[float, ...]:
        """Shares of requests by tier, in order; without any in the traffic, all of them at the last tier."""
        shares = self.traffic.decided or {self.tiers[-1].name: 1.0}
        return tuple(shares.get(tier.name, 0.0) for tier in self.tiers)
