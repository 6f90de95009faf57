"""`BundleDocument`: `plan.json` of a bundle that is to be run."""

from dataclasses import dataclass

from scaling.findings import Finding
from scaling.plan.deployment import ConfidenceExit, FixedExit, Policy, SpeculativeExit

BUNDLE_PLAN_VERSION = 1


@dataclass(frozen=True)
class NodePlan:
    """One tier's node."""

    tier: str
    precision: str
    segments: tuple[int, ...]
    machines: int | None
    """At the traffic's peak; missing where no number is enough."""
    memory_gb: float
    busy_s_per_text: float
    basis: str
    """`profile` or `hardware`."""


@dataclass(frozen=True)
class BundleChoice:
    """One way to run the bundle."""

    nodes: tuple[NodePlan, ...]
    policy: str
    send: str
    codec: str
    ttft_s: float
    tpot_s: float
    agreement: float | None
    text_s: float
    """From the request to the last token."""
    bytes_up_text: float
    """Over all links."""
    cost_per_hour: float
    power_w: float
    misses: tuple[str, ...]
    """Goals that it does not keep."""
    outside: tuple[str, ...]
    """What lies beyond what was measured of its machines."""


@dataclass(frozen=True)
class BundleDocument:
    """`plan.json` of a bundle."""

    schema_version: int
    fleet: str
    bundle: str
    family: str
    precision: str
    objective: str
    best: BundleChoice
    others: tuple[BundleChoice, ...]
    findings: tuple[Finding, ...]


def policy_text(policy: Policy) -> str:
    """As the SDK's constructors have it."""
    match policy:
        case FixedExit(exit=exit_, burst=burst):
            return f"FixedExit({exit_}{f', burst={burst}' if burst else ''})"
        case ConfidenceExit(epsilon=epsilon):
            return f"ConfidenceExit(epsilon={epsilon:g})"
        case SpeculativeExit(exit=exit_, draft_exit=draft, length=length):
            return f"SpeculativeExit(exit={exit_}, draft_exit={draft}{f', length={length}' if length else ''})"
