"""`BundleDocument`: `plan.json` of a bundle that is to be run."""

from dataclasses import dataclass

from scaling.findings import Finding
from scaling.plan.deployment import ConfidenceExit, FixedExit, Policy, SpeculativeExit
from scaling.plan.explain import Explanation
from scaling.plan.fleet import Objective

BUNDLE_PLAN_VERSION = 2


@dataclass(frozen=True)
class NodePlan:
    """One tier's node."""

    tier: str
    precision: str
    segments: tuple[int, ...]
    machines: int | None
    """At the traffic's peak; missing where no number is enough."""
    available: int | None
    """Machines that there are; missing: as many as it takes, or the users' own."""
    load: float
    """Share of the time at the peak in which a machine computes; users' own machines serve a text at a time."""
    sessions: float
    """Texts under way on a machine at the peak."""
    memory_gb: float
    """With those."""
    room_gb: float
    """What the goals leave of a machine's memory."""
    busy_s_per_text: float
    basis: str
    """`profile` or `hardware`."""


@dataclass(frozen=True)
class Leg:
    """A tier, or the link to it: mean seconds of a text there, without waiting for others."""

    where: str
    tier: bool
    first_s: float
    """From the request to the first token: work, or the way up."""
    first_back_s: float
    """Of a link, the way back."""
    token_s: float
    """Of a further token."""
    token_back_s: float


@dataclass(frozen=True)
class BundleChoice:
    """One way to run the bundle."""

    nodes: tuple[NodePlan, ...]
    policy: str
    send: str
    codec: str
    ttft_s: float
    """At the goals' percentile of texts at the traffic's peak."""
    tpot_s: float
    """The same, of tokens after the first; at least their mean."""
    ttft_mean_s: float
    """At the traffic's peak."""
    tpot_mean_s: float
    agreement: float | None
    text_s: float
    """From the request to the last token: the mean at the peak."""
    bytes_up_text: float
    """Over all links."""
    cost_per_hour: float
    power_w: float
    misses: tuple[str, ...]
    """Goals that it does not keep, as the fleet file has them."""
    missed_by: float
    """By which shares of their limits, all together."""
    outside: tuple[str, ...]
    """What lies beyond what was measured of its machines."""
    legs: tuple[Leg, ...]
    """From the user up."""


@dataclass(frozen=True)
class BundleDocument:
    """`plan.json` of a bundle."""

    schema_version: int
    fleet: str
    bundle: str
    family: str
    precision: str
    exit_layers: tuple[int, ...]
    objective: Objective
    percentile: float
    """At which the times of the choices are given, and judged by the goals."""
    candidates: int
    """Deployments that were scored and ranked: all that there are."""
    best: BundleChoice
    others: tuple[BundleChoice, ...]
    pareto: tuple[BundleChoice, ...]
    """Those that keep the goals and that no other beats in cost, time, agreement and power at once."""
    findings: tuple[Finding, ...]
    explanation: Explanation | None = None
    """With `--explain`."""


def policy_text(policy: Policy) -> str:
    """As the SDK's constructors have it."""
    match policy:
        case FixedExit(exit=exit_, burst=burst):
            return f"FixedExit({exit_}{f', burst={burst}' if burst else ''})"
        case ConfidenceExit(epsilon=epsilon):
            return f"ConfidenceExit(epsilon={epsilon:g})"
        case SpeculativeExit(exit=exit_, draft_exit=draft, length=length):
            return f"SpeculativeExit(exit={exit_}, draft_exit={draft}{f', length={length}' if length else ''})"
