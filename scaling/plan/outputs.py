"""The folder of a plan: `plan.json`, `family-spec.json`, the nodes' settings, replica counts, the report."""

from collections.abc import Mapping
from pathlib import Path

from family.files import write_atomic
from family.spec import save_spec
from family.strict import dumps
from scaling.errors import ScalingError
from scaling.plan.plan import Plan
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


def write(planned: Planned, out: Path) -> None:
    """Write everything; each file whole or not at all."""
    best = planned.document.best
    write_atomic(out / PLAN_NAME, dumps(planned.document))
    save_spec(planned.spec, out / SPEC_NAME)
    for name, text in node_settings(best).items():
        write_atomic(out / NODES_NAME / f"{name}.toml", text)
    write_atomic(out / REPLICAS_NAME, replicas(best))
    write_atomic(out / REPORT_NAME, report(planned.document))


def node_settings(best: Plan) -> Mapping[str, str]:
    """What `relay-node --config` takes, by tier. Addresses are to be filled in: `TIER.example`."""
    files = {}
    for i, tier in enumerate(best.tiers):
        lines = [
            f"# Tier {tier.tier}: layers {tier.first_layer} to {tier.exit_layer - 1} and the exit after them.",
            "[node]",
            f'tier = "{tier.tier}"',
            'bundle = "/srv/familial/bundle"',
            f'listen = "{"localhost" if i == 0 else "0.0.0.0"}:{PORT}"',
            f'segments = "{i + 1}-{i + 1}"',
        ]
        if i + 1 < len(best.tiers):
            lines.append(f'upstream = "{best.tiers[i + 1].tier}.example:{PORT}"')
        files[tier.tier] = "\n".join(lines) + "\n"
    return files


def replicas(best: Plan) -> str:
    """How many nodes of each tier: an override of `deploy/compose.yaml`."""
    lines = ["# docker compose --file deploy/compose.yaml --file replicas.yaml ...", "services:"]
    for tier in best.tiers:
        lines += [f"  {tier.tier}:", "    deploy:", f"      replicas: {tier.machines}"]
    return "\n".join(lines) + "\n"
