"""The planner: what it takes, what it finds beside the paper's layouts, and how sure it is.

`candidates_per_second`: placements judged in full (times, machines, money, memory, the loss of each exit) by one core.
`whole_plan_s`: `plan-family` from the fleet file to the report, with intervals, on the example that `init` writes.
`five_tier_plan_s`: the same on a fleet of five tiers with goals; `five_tier_free_plan_s`: without any goal, so that
nothing keeps the placements few.
`five_tier_bundle_plan_s`: the same for the bundle at int4, in place of a family that is to be trained;
`five_tier_bundle_explain_s`: with `--explain`.
`table_2`: the paper's family layouts (arXiv 2512.23407, Table 2) at its largest budget, 1e21 FLOPs, and what the law
of the planner holds to be best with the same G and budget, where the first exit may not stand deeper than the paper's:
on the paper's trunk, and on any. Best is the mean over the exits, which is how the paper weighs them; the law is
Chinchilla's, each exit read as a dense model of its own size.
"""

import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report import ROOT, bundle, main
from scaling.law import LEVEL
from scaling.plan.bundleplan import plan_bundle
from scaling.plan.exitlaw import ExitLaw, shipped, shipped_law
from scaling.plan.fleet import Fleet, Goals, Link, Training, Trunk
from scaling.plan.fleetfile import example, read_fleet
from scaling.plan.hardware import hardware
from scaling.plan.outputs import write, write_bundle
from scaling.plan.placement import place_all
from scaling.plan.planner import plan
from scaling.plan.search import ceilings, limits_of, loss_table
from scaling.plan.shapes import Made, make, trunks
from scaling.plan.stages import Stages
from scaling.quantiles import bounds
from training.presets import EARLY_EXITS, PRESETS

FOLDER = ROOT / "experiments" / "plan"
BUDGET = 1e21
WINDOW = 4096
REPEATS = 5


def measure() -> dict[str, Any]:
    """All figures."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "fleet.yaml"
        path.write_text(example(), encoding="utf-8")
        fleet = read_fleet(path)
        out = Path(folder) / "plan"

        def whole(one: Fleet) -> float:
            return _timed(lambda: write(plan(one, _law(one)), one, out))

        whole_s = min(_timed(lambda: whole(read_fleet(path))) for _ in range(REPEATS))
        five = five_tiers(fleet)
        five_s = min(whole(five) for _ in range(REPEATS))
        free_s = whole(replace(five, goals=Goals()))

        def placed(explained: bool) -> float:
            found = [bundle("int4")], FOLDER / "statistics.json"
            return _timed(lambda: write_bundle(plan_bundle(five, *found, explained=explained), five, out))

        bundle_s, explain_s = (
            min(placed(explained) for _ in range(times)) for explained, times in ((False, 3), (True, 1))
        )
    law = _law(fleet)
    seconds, candidates = _search_speed(fleet, law)
    return {
        "candidates_per_second": candidates / seconds,
        "candidates": candidates,
        "whole_plan_s": whole_s,
        "five_tier_plan_s": five_s,
        "five_tier_free_plan_s": free_s,
        "five_tier_bundle_plan_s": bundle_s,
        "five_tier_bundle_explain_s": explain_s,
        "draws": len(law.draws),
        "budget_flops": BUDGET,
        "table_2": [row for name in EARLY_EXITS for row in _layouts(name, shipped("chinchilla-dense"))],
    }


def _law(fleet: Fleet) -> ExitLaw:
    return shipped_law(fleet.training.budget)


def _timed(work: Any) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def five_tiers(fleet: Fleet) -> Fleet:
    """The example with five tiers: two kinds of box near the users, two pools."""
    device, edge, cloud = fleet.tiers
    base = replace(edge, name="base", hardware=hardware("Jetson AGX Orin 64GB"))
    region, core = replace(cloud, name="region"), replace(cloud, name="core", hardware=hardware("H100 SXM"))
    near, far = fleet.links
    tiers = (device, edge, base, region, replace(core, price_per_hour=3.0))
    links = (near, Link(0.008, 2e8, 2e8, 0.001), far, Link(0.03, 1e9, 1e9, 0.002))
    shares = {"device": 0.5, "edge": 0.2, "base": 0.1, "region": 0.1, "core": 0.1}
    goals = replace(
        fleet.goals,
        loss={"device": 2.5, "edge": 2.35, "core": 2.25},
        memory_free={tier.name: 0.1 for tier in tiers},
    )
    return replace(fleet, tiers=tiers, links=links, traffic=replace(fleet.traffic, decided=shares), goals=goals)


def _search_speed(fleet: Fleet, law: ExitLaw) -> tuple[float, int]:
    """Seconds and placements of a search that drops none: all trunks, tiers and layers of the example."""
    best, candidates = float("inf"), 0
    for _ in range(REPEATS):
        begin, candidates = time.process_time(), 0
        for trunk in trunks(fleet.training, law):
            for m in range(1, len(fleet.tiers) + 1):
                made = make(trunk, m, fleet.training, law)
                stages, losses = Stages(fleet, made.spec, trunk.tied), loss_table(law, law.theta, made)[0]
                for used in combinations(range(len(fleet.tiers)), m):
                    options = [[option.stage for option in tier] for tier in stages.of(used)]
                    every = place_all(options, trunk.n_layers, limits_of(fleet))
                    kept = (losses[every.layers - 1] <= ceilings(fleet, used)).all(axis=1)
                    candidates += len(kept)
        best = min(best, time.process_time() - begin)
    return best, candidates


def _layouts(size: str, law: ExitLaw) -> list[dict[str, Any]]:
    """The paper's layout of a family, and the planner's on its trunk and on any, with the same G and budget."""
    shape = PRESETS[f"family-{size}"]
    paper = [e.layer for e in shape.exits]
    depth = paper[0] / shape.n_layers
    settings = Trunk(
        head_dim=shape.head_dim,
        queries_per_key=2,
        ff_ratio=3.0,
        vocab_size=shape.vocab_size,
        tied=shape.tied,
        context=WINDOW,
    )
    training = Training(compute_flops=BUDGET, trunk=settings)
    made = make(replace(shape, exits=shape.exits[-1:]), shape.granularity, training, law)
    others = [make(trunk, shape.granularity, training, law) for trunk in trunks(training, law)]
    best = min(others, key=lambda one: _best(law, one, depth)[1])
    return [
        _row(size, "paper", paper, made, law),
        _row(size, "first exit no deeper", _best(law, made, depth)[0], made, law),
        _row(size, "first exit no deeper, any trunk", _best(law, best, depth)[0], best, law),
    ]


def _best(law: ExitLaw, made: Made, depth: float) -> tuple[list[int], float]:
    """Exits of the least mean loss, the first at most that deep, and that loss."""
    n_layers, g = made.spec.n_layers, made.granularity
    first = range(1, max(int(depth * n_layers), 1) + 1)
    every = [(a, *rest, n_layers) for a in first for rest in combinations(range(a + 1, n_layers), g - 2)]
    layers = np.array(every, np.int64)
    mean = loss_table(law, law.theta, made)[0][layers - 1].mean(axis=1)
    return layers[mean.argmin()].tolist(), float(mean.min())


def _row(size: str, layout: str, layers: Sequence[int], made: Made, law: ExitLaw) -> dict[str, Any]:
    at = np.array(layers) - 1
    losses, drawn = loss_table(law, law.theta, made)[0][at], loss_table(law, law.draws, made)[:, at]
    low, high = bounds(drawn, losses, LEVEL)
    return {
        "family": size,
        "layout": layout,
        "exits": list(layers),
        "d_model": made.spec.d_model,
        "n_layers": made.spec.n_layers,
        "n": made.n,
        "d": made.d,
        "losses": losses.tolist(),
        "low": low.tolist(),
        "high": high.tolist(),
        "mean_loss": float(losses.mean()),
    }


def table(result: Any) -> str:
    """The figures for people."""
    lines = [
        f"{result['candidates_per_second']:,.0f} placements per second on one core ({result['candidates']:,})",
        f"a whole plan with intervals ({result['draws']:,} draws): {result['whole_plan_s']:.2f} s; of five tiers "
        f"{result['five_tier_plan_s']:.2f} s, without any goal {result['five_tier_free_plan_s']:.1f} s",
        f"\nTable 2 at {result['budget_flops']:.0e} FLOPs: layout, trunk, exits, mean loss, loss of each exit (90%)",
    ]
    for row in result["table_2"]:
        losses = ", ".join(
            f"{x:.3f} ({a:.3f} to {b:.3f})" for x, a, b in zip(row["losses"], row["low"], row["high"], strict=True)
        )
        exits = ",".join(map(str, row["exits"]))
        trunk = f"{row['d_model']}x{row['n_layers']}"
        lines.append(f"{row['family']:4}{row['layout']:34}{trunk:10}{exits:14}{row['mean_loss']:.3f}  {losses}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main("plan_search", __doc__, measure, table)
