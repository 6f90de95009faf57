"""Does the promise of `calibrate-family` hold? Over random splits of the prompts whose risks were measured.

The table in the family's folder has, for every prompt and tested rule, how many tokens of the rule's own text the
last exit would not have chosen, and which exits decided (`exporter.confidence`). Each split certifies on one half of
the prompts, as the command does, and looks at the other half: `violations` counts the splits in which the mean risk
there is over epsilon. That mean is of a few hundred prompts and strays from the expected risk itself, so this asks
for more than was promised. In `violations_of_expected` the calibration is drawn from all prompts with replacement,
and its rule is held against their mean: there the expected risk is known, and only the promise is tested. `bar`: of
so many splits that each violate with probability delta, more than this do with probability at most 5%.

`exits` are shares of the tokens that each exit decided on the other half, `agreement` the share that the last exit
would have chosen too, means over the splits in which something was certified (`certified`).

`frontier` has every tested rule over all prompts: `agreement`, `early`, the share of tokens that leave before the last
exit, and `cloud_flops`, what a cloud with the last segment alone computes for a decided token, over what it computes
where it decides every token: the row of every token passes its segment sooner or later (its keys and values are exact),
but the head runs only for the tokens that it decides. `cloud_flops_at_95` is the least at an agreement of 95% or more.
"""

import math
from typing import Any

import numpy as np

from benchmarks import report
from benchmarks.wan import flops
from exporter.confidence import DELTA
from exporter.confidence.certify import certify, last_kept
from exporter.confidence.table import Table, load_table
from family.spec import load_spec
from family.strict import to_json
from relay.client.types import Work

TABLE = f"families/{report.FAMILY}/confidence-int4.jsonl"
SPLITS = 100


def measure(splits: int = SPLITS) -> dict[str, Any]:
    """All statistics and epsilons."""
    measured = load_table(report.ROOT / TABLE)
    header = measured.header
    figures = {
        statistic: {f"{epsilon:g}": split_often(measured, statistic, epsilon, splits) for epsilon in header.epsilons}
        for statistic in header.statistics
    }
    points = frontier(measured)
    counts = [one for by_epsilon in figures.values() for one in by_epsilon.values()]
    return {
        "prompts": header.prompts,
        "prompts_sha256": header.prompts_sha256,
        "tested_prompts": len(measured.rows),
        "tokens": header.tokens,
        "splits": splits,
        "delta": DELTA,
        "bar": bar(splits, DELTA),
        "violations": max(one["violations"] for one in counts),
        "violations_of_expected": max(one["violations_of_expected"] for one in counts),
        "cloud_flops_at_95": min(p["cloud_flops"] for p in points if p["agreement"] >= 0.95),
        "by_statistic": figures,
        "frontier": points,
        "certificate": to_json(certify(measured, header.epsilons, DELTA).rules),
    }


def split_often(measured: Table, statistic: str, epsilon: float, splits: int, seed: int = 0) -> dict[str, Any]:
    """One statistic and epsilon."""
    own = [i for i, rule in enumerate(measured.header.rules) if rule.statistic == statistic]
    risks, shares = measured.risks[:, own], measured.shares[:, own]
    prompts, half = len(risks), len(risks) // 2
    rng = np.random.default_rng(seed)
    seen, violations, of_expected = [], 0, 0
    for _ in range(splits):
        order = rng.permutation(prompts)
        calibration, test = order[:half], order[half:]
        if (kept := last_kept(risks[calibration], epsilon, DELTA)) is not None:
            risk = risks[test, kept].mean()
            violations += int(risk > epsilon)
            seen.append([risk, *shares[test, kept].mean(axis=0)])
        drawn = rng.integers(0, prompts, half)
        if (kept := last_kept(risks[drawn], epsilon, DELTA)) is not None:
            of_expected += int(risks[:, kept].mean() > epsilon)
    means = np.mean(seen, axis=0) if seen else None
    return {
        "certified": len(seen),
        "violations": violations,
        "violations_of_expected": of_expected,
        "agreement": None if means is None else round(1 - float(means[0]), 4),
        "exits": None if means is None else [round(float(share), 3) for share in means[1:]],
    }


def frontier(measured: Table) -> list[dict[str, Any]]:
    """What each rule agrees with the last exit in, and what it spares the cloud."""
    spec = load_spec(report.ROOT / "families" / report.FAMILY / "spec.json")
    last = spec.granularity
    every = {f"segment-{last}": Work(1, 0), f"exit-{last}": Work(1, 1)}
    row, whole = flops(spec, {f"segment-{last}": Work(1, 0)}), flops(spec, every)
    points = []
    for rule, risk, shares in zip(
        measured.header.rules, measured.risks.mean(axis=0), measured.shares.mean(axis=0), strict=True
    ):
        points.append(
            {
                "statistic": rule.statistic,
                "agreement": round(1 - float(risk), 4),
                "early": round(1 - float(shares[-1]), 3),
                "cloud_flops": round((row + float(shares[-1]) * (whole - row)) / whole, 3),
            }
        )
    return points


def bar(trials: int, probability: float) -> int:
    """The most events that are still likely: more than this happen with probability at most 5%."""
    below = 0.0
    for count in range(trials + 1):
        below += math.comb(trials, count) * probability**count * (1 - probability) ** (trials - count)
        if below >= 0.95:
            return count
    return trials


def table(result: dict[str, Any]) -> str:
    """The figures as a Markdown table."""
    lines = [
        "| statistic | epsilon | certified | violations | of expected | agreement | exits |",
        "|---|---|---|---|---|---|---|",
    ]
    for statistic, by_epsilon in result["by_statistic"].items():
        for epsilon, one in by_epsilon.items():
            agreement = "-" if one["agreement"] is None else f"{one['agreement']:.1%}"
            exits = "-" if one["exits"] is None else " ".join(f"{share:.1%}" for share in one["exits"])
            counts = f"{one['certified']} | {one['violations']} | {one['violations_of_expected']}"
            lines.append(f"| {statistic} | {epsilon} | {counts} | {agreement} | {exits} |")
    lines.append(f"of {result['splits']} splits; bar {result['bar']}")
    lines.append(f"cloud FLOPs at 95% agreement: {result['cloud_flops_at_95']} of per-token relay's")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    report.main("confidence", __doc__, measure, table)
