"""The folder of a plan: `plan.json`, `family-spec.json`, the nodes' settings, replica counts, the report."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from family.files import write_atomic
from family.spec import save_spec
from family.strict import dumps
from scaling.errors import ScalingError
from scaling.plan.bundledocument import BundleDocument
from scaling.plan.bundlereport import bundle_report
from scaling.plan.plan import TierPlan
from scaling.plan.planner import Planned
from scaling.plan.report import report

PLAN_NAME, SPEC_NAME, REPLICAS_NAME, NODES_NAME = "plan.json", "family-spec.json", "replicas.yaml", "nodes"
REPORT_NAME = "report.html"
PORT = 7001


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
    codec: str = "f32"
    send: str = "rows"
    comment: str = ""


def write(planned: Planned, out: Path) -> None:
    """Write the plan of a family that is to be trained; each file whole or not at all."""
    write_atomic(out / PLAN_NAME, dumps(planned.document))
    save_spec(planned.spec, out / SPEC_NAME)
    write_nodes([_node(i, tier) for i, tier in enumerate(planned.document.best.tiers, 1)], out)
    write_atomic(out / REPORT_NAME, report(planned.document))


def write_bundle(document: BundleDocument, out: Path) -> None:
    """Write the plan of a bundle."""
    best = document.best
    write_atomic(out / PLAN_NAME, dumps(document))
    nodes = [NodeFile(n.tier, n.segments, n.machines or 1, best.codec, best.send, best.policy) for n in best.nodes]
    write_nodes(nodes, out)
    write_atomic(out / REPORT_NAME, bundle_report(document))


def write_nodes(nodes: Sequence[NodeFile], out: Path) -> None:
    """Settings of each node, and how many there are."""
    for i, node in enumerate(nodes):
        upstream = nodes[i + 1].tier if i + 1 < len(nodes) else None
        write_atomic(out / NODES_NAME / f"{node.tier}.toml", node_settings(node, i == 0, upstream))
    write_atomic(out / REPLICAS_NAME, replicas(nodes))


def node_settings(node: NodeFile, first: bool, upstream: str | None) -> str:
    """What `relay-node --config` takes. Addresses and the bundle's folder are to be filled in: `TIER.example`."""
    lines = [
        f"# Tier {node.tier}" + (f": {node.comment}" if node.comment else ""),
        "[node]",
        f'tier = "{node.tier}"',
        'bundle = "/srv/familial/bundle"',
        f'listen = "{"localhost" if first else "0.0.0.0"}:{PORT}"',
        f'segments = "{node.segments[0]}-{node.segments[-1]}"',
    ]
    if upstream is not None:
        lines += [f'upstream = "{upstream}.example:{PORT}"', f'codec = "{node.codec}"', f'send = "{node.send}"']
    return "\n".join(lines) + "\n"


def replicas(nodes: Sequence[NodeFile]) -> str:
    """How many nodes of each tier: an override of `deploy/compose.yaml`."""
    lines = [
        "# docker compose --file deploy/compose.yaml --file replicas.yaml ...",
        "# Services are named as the plan's tiers; compose.yaml has device, edge and cloud.",
        "services:",
    ]
    for node in nodes:
        lines += [f"  {node.tier}:", "    deploy:", f"      replicas: {node.machines}"]
    return "\n".join(lines) + "\n"


def _node(index: int, tier: TierPlan) -> NodeFile:
    comment = f"layers {tier.first_layer} to {tier.exit_layer - 1} and the exit after them"
    return NodeFile(tier.tier, (index,), tier.machines, comment=comment)
