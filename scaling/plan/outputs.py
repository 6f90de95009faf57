"""The folder of a plan: `plan.json`, `family-spec.json`, the nodes' settings, replica counts, the report.

It is one plan's: what an earlier one wrote there and this one does not have is removed.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from family.files import write_atomic
from family.spec import save_spec
from family.strict import dumps
from scaling.errors import ScalingError
from scaling.plan.bundledocument import BundleDocument
from scaling.plan.bundlereport import bundle_report
from scaling.plan.fleet import Fleet
from scaling.plan.plan import TierPlan
from scaling.plan.planner import Planned
from scaling.plan.report import report

PLAN_NAME, SPEC_NAME, REPLICAS_NAME, NODES_NAME = "plan.json", "family-spec.json", "replicas.yaml", "nodes"
REPORT_NAME = "report.html"
HEAD = "# Tier"
"""Of the settings of a node."""
PORT = 7001
LEAST_SESSIONS = 64
"""What a node holds by default."""


def check_out(out: Path) -> None:
    """Refuse, before the work, a place that no folder can be written to."""
    if out.exists() and not out.is_dir():
        raise ScalingError(f"--out {out}: is a file; name a folder")
    if wrong := next((parent for parent in out.parents if parent.is_file()), None):
        raise ScalingError(f"--out {out}: {wrong} is a file, so nothing can be written under it")


@dataclass(frozen=True)
class NodeFile:
    """What a tier's node is told."""

    tier: str
    segments: tuple[int, ...]
    machines: int
    own: bool
    """Whether it is on the users' own machines."""
    sessions: float = 0.0
    """At a time on a machine at the peak, in the mean."""
    codec: str = "f32"
    send: str = "rows"
    comment: str = ""


def write(planned: Planned, fleet: Fleet, out: Path) -> None:
    """Write the plan of a family that is to be trained; each file whole or not at all."""
    write_atomic(out / PLAN_NAME, dumps(planned.document))
    save_spec(planned.spec, out / SPEC_NAME)
    write_nodes([_node(i, tier, fleet) for i, tier in enumerate(planned.document.best.tiers, 1)], out)
    write_atomic(out / REPORT_NAME, report(planned.document))


def write_bundle(document: BundleDocument, fleet: Fleet, out: Path) -> None:
    """Write the plan of a bundle."""
    best, first = document.best, fleet.tiers[0].name
    write_atomic(out / PLAN_NAME, dumps(document))
    sent = best.codec, best.send, f"{document.bundle}, {best.policy}"
    write_nodes(
        [NodeFile(n.tier, n.segments, n.machines or 1, n.tier == first, n.sessions, *sent) for n in best.nodes], out
    )
    (out / SPEC_NAME).unlink(missing_ok=True)
    write_atomic(out / REPORT_NAME, bundle_report(document))


def write_nodes(nodes: Sequence[NodeFile], out: Path) -> None:
    """Settings of each node, and how many there are."""
    written = [out / NODES_NAME / f"{node.tier}.toml" for node in nodes]
    for i, (node, path) in enumerate(zip(nodes, written, strict=True)):
        write_atomic(path, node_settings(node, nodes[i + 1].tier if i + 1 < len(nodes) else None))
    for path in (out / NODES_NAME).glob("*.toml"):
        if path not in written and path.read_text(encoding="utf-8").startswith(HEAD):
            path.unlink()
    write_atomic(out / REPLICAS_NAME, replicas(nodes))


def node_settings(node: NodeFile, upstream: str | None) -> str:
    """What `relay-node --config` takes. Addresses and the bundle's folder are to be filled in: `TIER.example`."""
    lines = [
        f"{HEAD} {node.tier}" + (f": {node.comment}" if node.comment else ""),
        "[node]",
        f'tier = "{node.tier}"',
        'bundle = "/srv/familial/bundle"',
        f'listen = "{"localhost" if node.own else "0.0.0.0"}:{PORT}"',
        f'segments = "{node.segments[0]}-{node.segments[-1]}"',
    ]
    if not node.own:
        lines.append(f"max-sessions = {max(LEAST_SESSIONS, math.ceil(node.sessions + 4 * math.sqrt(node.sessions)))}")
    if upstream is not None:
        lines += [f'upstream = "{upstream}.example:{PORT}"', f'codec = "{node.codec}"', f'send = "{node.send}"']
    return "\n".join(lines) + "\n"


def replicas(nodes: Sequence[NodeFile]) -> str:
    """How many nodes of each tier: an override of `deploy/compose.yaml` that also has the plan's segments."""
    lines = [
        "# docker compose --file deploy/compose.yaml --file replicas.yaml ... (Compose 2.24 or newer)",
        "# Services are named as the plan's tiers; compose.yaml has device, edge and cloud. Replicas on one machine",
        "# cannot share a port, so they publish none: services find them by the tier's name.",
        *(
            f"# {node.tier}: {node.machines:,} of the users' own machines, with a node each"
            for node in nodes
            if node.own
        ),
        "services:" if any(not node.own for node in nodes) else "services: {}",
    ]
    for node in nodes:
        if not node.own:
            lines += [f"  {node.tier}:", "    deploy:", f"      replicas: {node.machines}"]
            lines += ["    ports: !reset []"] * (node.machines > 1)
            lines += ["    environment:", f'      RELAY_SEGMENTS: "{node.segments[0]}-{node.segments[-1]}"']
    return "\n".join(lines) + "\n"


def _node(index: int, tier: TierPlan, fleet: Fleet) -> NodeFile:
    comment = f"layers {tier.first_layer} to {tier.exit_layer - 1} and the exit after them"
    own = tier.tier == fleet.tiers[0].name
    return NodeFile(tier.tier, (index,), tier.machines, own, tier.sessions, comment=comment)
