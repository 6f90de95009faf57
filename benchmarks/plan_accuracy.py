"""What the planner predicts, against what really ran here."""

import argparse
import asyncio
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks import report
from benchmarks.plan.configurations import CONFIGURATIONS, TIERS, Configuration
from family.files import write_atomic
from family.profile import load_profile
from scaling.plan.model import predict
from scaling.plan.profiled import machine
from scaling.plan.statistics import load_statistics

FOLDER = report.ROOT / "experiments" / "plan"
MEASURED = FOLDER / "measured.jsonl"


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


def profile_of(precision: str) -> Path:
    """The stored profile of this machine."""
    return FOLDER / f"profile-{precision}.json"


def stored() -> dict[str, dict[str, Any]]:
    """What was measured, by the configurations' names; the newest of each."""
    lines = MEASURED.read_text(encoding="utf-8").splitlines() if MEASURED.exists() else []
    return {row["name"]: row for row in map(json.loads, lines)}


def errors(configuration: Configuration, measured: Mapping[str, Any]) -> Iterator[Error]:
    """Predicted against measured, quantity by quantity."""
    profile = load_profile(profile_of(configuration.precision))
    spec = profile.bundle(configuration.precision).spec
    found = predict(
        configuration.deployment(spec),
        dict.fromkeys(TIERS, machine(profile, configuration.precision)),
        measured["prompt_tokens"],
        configuration.tokens,
        configuration.sessions,
        load_statistics(FOLDER / "statistics.json").statistics(),
    )
    yield Error(configuration, "ttft_ms", float(found.ttft_s) * 1e3, measured["ttft_ms"])
    yield Error(configuration, "tpot_ms", float(found.tpot_s) * 1e3, measured["tpot_ms"])
    for i, size in enumerate(measured["bytes"]):
        each = found.link_up_token[i] + found.link_down_token[i]
        if size:
            yield Error(configuration, "bytes", float(found.link_up_prompt[i] + each * configuration.tokens), size)
    for tier, size in measured["memory_bytes"].items():
        yield Error(configuration, "memory_bytes", float(found.memory_bytes[tier]), size)


def measure(budget_s: float, only: str) -> None:
    """Run what is not stored yet, as far as the time goes."""
    from benchmarks.plan.runs import run

    started = time.perf_counter()
    for configuration in CONFIGURATIONS:
        if configuration.name in stored() or only not in configuration.name:
            continue
        if time.perf_counter() - started > budget_s:
            break
        row = asyncio.run(run(configuration))
        lines = MEASURED.read_text(encoding="utf-8") if MEASURED.exists() else ""
        write_atomic(MEASURED, lines + json.dumps(row) + "\n")


def result(*, held_out: bool) -> dict[str, Any]:
    """The figures."""
    rows = stored()
    found = [e for c in CONFIGURATIONS if c.name in rows for e in errors(c, rows[c.name])]
    groups = {"calibrated": [e for e in found if not e.configuration.held_out]}
    if held_out:
        groups["held_out"] = [e for e in found if e.configuration.held_out]
    return {name: _figures(group) for name, group in groups.items() if group}


def _figures(found: Sequence[Error]) -> dict[str, Any]:
    return {
        quantity: {
            "count": len(values),
            "median_error": round(median(values), 4),
            "worst_decile_error": round(float(np.quantile(values, 0.9)), 4),
        }
        for quantity in ("ttft_ms", "tpot_ms", "bytes", "memory_bytes")
        if (values := [abs(e.relative) for e in found if e.quantity == quantity])
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--measure", type=float, default=0)
    parser.add_argument("--only", default="")
    parser.add_argument("--held-out", action="store_true")
    given = parser.parse_args()
    if given.measure:
        measure(given.measure, given.only)
    rows = stored()
    for c in CONFIGURATIONS:
        if c.name in rows and (given.held_out or not c.held_out) and given.only in c.name:
            print(c.name)
            for e in errors(c, rows[c.name]):
                print(f"    {e.quantity:14} {e.predicted:14.2f} {e.measured:14.2f} {e.relative:+.1%}")
    print(json.dumps(result(held_out=given.held_out), indent=1))
