"""Single forwards that this project measured of its own bundles (`relay-node profile`, `experiments/plan`)."""

import json
from pathlib import Path

from benchmarks import report
from benchmarks.published import Row
from family.profile import Profile
from family.strict import from_json

FOLDER = report.ROOT / "experiments" / "plan"
MACHINE = "One core of a cloud EPYC"


def forwards() -> list[Row]:
    """Every forward of every graph; the machine's row is fitted to every other one."""
    return [row for path in sorted(FOLDER.glob("profile-*.json")) for row in _read(path)]


def _read(path: Path) -> list[Row]:
    from scaling.plan.hardware import hardware
    from scaling.plan.roofline import roofline

    profile = from_json(Profile, json.loads(path.read_text(encoding="utf-8")))
    rows = []
    for bundle in profile.bundles:
        machine = roofline(bundle.spec, hardware(MACHINE), bundle.precision)
        for graph in bundle.graphs:
            cost = (machine.segments if graph.kind == "segment" else machine.exits)[graph.index]
            name = f"{bundle.precision} {graph.kind}-{graph.index}"
            for i, seen in enumerate(graph.forwards):
                seconds = float(cost.seconds(seen.rows, seen.context, seen.wanted, seen.sessions))
                rows.append(Row(name, seen.ms / 1e3, seconds, i % 2 == 0))
    return rows
