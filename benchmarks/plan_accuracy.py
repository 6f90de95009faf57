"""What the planner predicts of a relay, against what it did: deployments that really ran here, on real nodes.

Each configuration had nodes of its own, a thread each, links by the project's shaper, and prompts of Spec-Bench. What
was measured lies in experiments/plan/measured.jsonl; the planner is given this machine's profiles and links as
`relay-node profile` measured them, how often exits decide and drafts are right on other prompts, and the configuration.
Every third configuration is held out: nothing was chosen by it.

`median_error` and `worst_decile_error` are of |predicted / measured - 1| over configurations; `quantities` has the same
for TTFT (median), TPOT (mean), the bytes of each link and the memory of each node, `held_out` and `rest` for the two
parts. `--measure SECONDS` first runs what is not stored, for about so long; let nothing else run meanwhile.
"""

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import median
from typing import Any

import numpy as np

from benchmarks import report
from benchmarks.plan.configurations import CONFIGURATIONS, TIERS, Configuration
from family.files import write_atomic
from family.profile import Profile, load_profile
from scaling.plan.model import predict
from scaling.plan.profiled import machine
from scaling.plan.statistics import load_statistics

FOLDER = report.ROOT / "experiments" / "plan"
MEASURED = FOLDER / "measured.jsonl"
QUANTITIES = ("ttft_ms", "tpot_ms", "bytes", "memory_bytes")


@dataclass(frozen=True)
class Error:
    """One quantity of one configuration."""

    configuration: Configuration
    quantity: str
    predicted: float
    measured: float

    @property
    def relative(self) -> float:
        return self.predicted / self.measured - 1


@lru_cache
def profile_of(precision: str) -> Profile:
    """This machine's stored profile."""
    return load_profile(FOLDER / f"profile-{precision}.json")


def stored() -> dict[str, dict[str, Any]]:
    """What was measured, by the configurations' names."""
    lines = MEASURED.read_text(encoding="utf-8").splitlines() if MEASURED.exists() else []
    return {row["name"]: row for row in map(json.loads, lines)}


def errors(configuration: Configuration, measured: Mapping[str, Any]) -> Iterator[Error]:
    """Predicted against measured, quantity by quantity."""
    profile = profile_of(configuration.precision)
    found = predict(
        configuration.deployment(profile.bundle(configuration.precision).spec),
        dict.fromkeys(TIERS, machine(profile, configuration.precision)),
        measured["prompt_tokens"],
        configuration.tokens,
        configuration.sessions,
        load_statistics(FOLDER / "statistics.json").statistics(),
    )
    yield Error(configuration, "ttft_ms", float(found.ttft_s) * 1e3, measured["ttft_ms"])
    yield Error(configuration, "tpot_ms", float(found.tpot_s) * 1e3, measured["tpot_ms"])
    for i, size in enumerate(measured["bytes"]):
        if size:
            each = float(found.link_up_token[i] + found.link_down_token[i])
            whole = float(found.link_up_prompt[i]) + each * (measured["written"] - 1)
            yield Error(configuration, "bytes", whole, size)
    for tier, size in measured["memory_bytes"].items():
        yield Error(configuration, "memory_bytes", float(found.memory_bytes[tier]), size)


def run_missing(budget_s: float) -> None:
    """Run what is not stored yet, as far as the time goes."""
    from benchmarks.plan.runs import run

    started = time.perf_counter()
    for configuration in CONFIGURATIONS:
        if configuration.name not in stored() and time.perf_counter() - started < budget_s:
            row = asyncio.run(run(configuration))
            lines = MEASURED.read_text(encoding="utf-8") if MEASURED.exists() else ""
            write_atomic(MEASURED, lines + json.dumps(row) + "\n")
            if sys.stderr.isatty():
                sys.stderr.write(configuration.name + "\n")


def measure() -> dict[str, Any]:
    """The figures."""
    rows = stored()
    found = [error for c in CONFIGURATIONS if c.name in rows for error in errors(c, rows[c.name])]
    parts: dict[str, Callable[[Error], bool]] = {
        "rest": lambda error: not error.configuration.held_out,
        "held_out": lambda error: error.configuration.held_out,
    }
    return {
        "configurations": len({error.configuration.name for error in found}),
        **_figures(found),
        "quantities": _by_quantity(found),
        **{name: _by_quantity([error for error in found if holds(error)]) for name, holds in parts.items()},
        "errors": {
            c.name: {
                q: [round(e.relative, 3) for e in found if e.configuration is c and e.quantity == q] for q in QUANTITIES
            }
            for c in CONFIGURATIONS
        },
    }


def _by_quantity(found: Sequence[Error]) -> dict[str, Any]:
    return {q: _figures([error for error in found if error.quantity == q]) for q in QUANTITIES}


def _figures(found: Sequence[Error]) -> dict[str, Any]:
    sizes = [abs(error.relative) for error in found]
    return {
        "median_error": round(median(sizes), 4),
        "worst_decile_error": round(float(np.quantile(sizes, 0.9)), 4),
    }


def table(result: Mapping[str, Any]) -> str:
    """The figures as a Markdown table, and each configuration's."""
    lines = ["| | TTFT | TPOT | bytes | memory |", "|---|---|---|---|---|"]
    for name in ("quantities", "rest", "held_out"):
        cells = [f"{f['median_error']:.1%}, {f['worst_decile_error']:.1%}" for f in result[name].values()]
        lines.append(f"| {'all' if name == 'quantities' else name} | {' | '.join(cells)} |")
    lines += ["", "| configuration | TTFT | TPOT | bytes | memory |", "|---|---|---|---|---|"]
    for name, found in result["errors"].items():
        cells = [", ".join(f"{value:+.0%}" for value in values) for values in found.values()]
        lines.append(f"| {name.replace('|', ', ')} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """The command line."""
    parser = report.parser("plan_accuracy", __doc__)
    parser.add_argument("--measure", type=float, default=0.0, metavar="SECONDS", help="first run what is not stored")
    given: argparse.Namespace = parser.parse_args()

    def work() -> dict[str, Any]:
        run_missing(given.measure)
        return measure()

    report.publish("plan_accuracy", given, work, table)


if __name__ == "__main__":
    main()
