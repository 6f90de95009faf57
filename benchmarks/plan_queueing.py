"""A shared tier's load, sessions and times: formulas (`scaling.plan.sharing`) against machines played event by event.

A grid of machines, segments, lengths of prompts and texts, loads, and sessions that write on at once or are away
between two tokens, with requests that come as a Poisson stream. Then real traffic: as many machines as the busiest
minute of a public trace takes, one of which gets its share of the trace, drawn at random; the times that were planned
for the peak should hold in the busiest minutes, and more than hold over the whole trace. They do for code; for
conversations, whose prompts are of very different lengths, the first token's 95th percentile does not on this slow
machine, since attention makes a long prompt cost more than in proportion. An error is |formula - played| / played.
"""

from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks import report
from family.spec import load_spec

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from scaling.plan.queueing import Forward, Sized
    from scaling.plan.simulate import Simulated
    from scaling.plan.traffic import Requests

SPEC = report.ROOT / "families" / report.FAMILY / "spec.json"
TIERS = (("Two cores of a cloud Xeon", 1), ("Raspberry Pi 5", 3), ("Jetson Orin NX 16GB", 2))
"""Machine, and the first of its segments; the others up to the last follow."""
LENGTHS = ((60, 60), (400, 100))
"""Prompt and output, tokens."""
AWAY_S = (0.0, 0.03)
LOADS = (0.2, 0.45, 0.7)
PROMPT_CV = 0.7
REQUESTS = 1200
MANY = 1e6
TRACES = {
    "azure_conversation": "load/azure-llm-trace/AzureLLMInferenceTrace_conv.csv",
    "azure_code": "load/azure-llm-trace/AzureLLMInferenceTrace_code.csv",
}
TRACE_TIER = TIERS[0]
WINDOW_S = 60.0


def tier(machine: str, first: int) -> "Forward":
    """What a forward of some segments and the last exit takes on a machine."""
    from scaling.plan.hardware import hardware
    from scaling.plan.queueing import forward_of
    from scaling.plan.roofline import roofline

    spec = load_spec(SPEC)
    made = roofline(spec, hardware(machine))
    return forward_of([made.segments[g] for g in range(first, spec.granularity + 1)], made.exits[spec.granularity])


def grid(loads: tuple[float, ...] = LOADS, requests: int = REQUESTS) -> list[dict[str, Any]]:
    """Every point: formula and play."""
    from scaling.plan.queueing import Demand, sizing
    from scaling.plan.simulate import simulate
    from scaling.plan.traffic import poisson

    rows = []
    for (machine, first), (prompt, output), away, load in product(TIERS, LENGTHS, AWAY_S, loads):
        forward = tier(machine, first)
        demand = Demand(MANY, prompt, output, PROMPT_CV, away_s=away)
        found = sizing(forward, demand, busy=load)
        rate = MANY / float(found.machines)
        played = simulate(forward, poisson(rate, requests, prompt, output, PROMPT_CV), away_s=away)
        point = {"machine": machine, "prompt": prompt, "output": output, "away_s": away, "load": load, "rate": rate}
        rows.append(point | {"formula": planned(found), "played": seen(played)})
    return rows


def trace(name: str) -> dict[str, Any]:
    """One machine of those that a trace's busiest minute takes, through the whole trace."""
    from scaling.plan.queueing import Demand, sizing
    from scaling.plan.simulate import simulate
    from scaling.plan.traffic import Requests, read_trace

    all_ = read_trace(report.data(TRACES[name]))
    forward, peak = tier(*TRACE_TIER), all_.peak(WINDOW_S)
    output_cv = float(all_.output_tokens.std() / all_.output_tokens.mean())
    lengths = float(all_.prompt_tokens.mean()), float(all_.output_tokens.mean())
    found = sizing(forward, Demand(all_.rate * peak, *lengths, all_.prompt_cv, output_cv))
    mine = np.random.default_rng(0).random(len(all_)) < 1 / float(found.machines)
    part = Requests(all_.arrival_s[mine], all_.prompt_tokens[mine], all_.output_tokens[mine])
    played = simulate(forward, part)
    busiest = busy_minutes(all_, part)
    return {
        "requests_per_s": round(all_.rate, 3),
        "peak": round(peak, 2),
        "prompt_tokens": round(lengths[0]),
        "output_tokens": round(lengths[1]),
        "machines": int(found.machines),
        "planned_at_peak": planned(found),
        "played": seen(played),
        "ttft_p95_s_in_busy_minutes": round(float(np.quantile(played.ttft_s[busiest[-len(played.ttft_s) :]], 0.95)), 4),
    }


def busy_minutes(all_: "Requests", part: "Requests") -> "NDArray[np.bool_]":
    """Which of a machine's requests came in the trace's busiest tenth of minutes."""
    minute = (all_.arrival_s // WINDOW_S).astype(np.int64)
    counts = np.bincount(minute)
    busy = counts >= np.quantile(counts, 0.9)
    found: NDArray[np.bool_] = busy[(part.arrival_s // WINDOW_S).astype(np.int64)]
    return found


def planned(found: "Sized") -> dict[str, float]:
    """What the formulas say."""
    values = {
        "busy": found.busy,
        "sessions": found.sessions,
        "ttft_s": found.ttft_s,
        "ttft_p95_s": found.ttft(95),
        "tpot_s": found.tpot_s,
        "tpot_p95_s": found.tpot(95),
    }
    return {name: round(float(value), 6) for name, value in values.items()}


def seen(played: "Simulated") -> dict[str, float]:
    """What the play showed."""
    values = {
        "busy": played.busy,
        "sessions": played.sessions,
        "ttft_s": played.ttft_s.mean(),
        "ttft_p95_s": np.quantile(played.ttft_s, 0.95),
        "tpot_s": played.tpot_s.mean(),
        "tpot_p95_s": np.quantile(played.tpot_s, 0.95),
    }
    return {name: round(float(value), 6) for name, value in values.items()}


def errors(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Median and worst decile by quantity."""
    found = {}
    for name in rows[0]["played"]:
        off = [abs(row["formula"][name] / row["played"][name] - 1) for row in rows]
        found[name] = {
            "median_error": round(float(np.median(off)), 3),
            "worst_decile_error": round(float(np.quantile(off, 0.9)), 3),
        }
    return found


def measure() -> dict[str, Any]:
    """The grid, and the traces that are there."""
    rows = grid()
    result: dict[str, Any] = {"points": len(rows), **errors(rows)}
    result["by_load"] = {str(load): errors([row for row in rows if row["load"] == load]) for load in LOADS}
    result["traces"] = {}
    for name in TRACES:
        try:
            result["traces"][name] = trace(name)
        except report.MissingInputError as error:
            result["traces"][name] = {"skipped": str(error)}
    return result | {"rows": rows}


def table(result: dict[str, Any]) -> str:
    """Errors by quantity, then the traces."""
    lines = ["| | median error | worst decile |", "|---|---|---|"]
    for name in result["rows"][0]["played"]:
        lines.append(f"| {name} | {result[name]['median_error']:.1%} | {result[name]['worst_decile_error']:.1%} |")
    for name, found in result["traces"].items():
        if "skipped" in found:
            lines.append(f"\n{name}: skipped: {found['skipped']}")
        else:
            first, tokens = found["planned_at_peak"]["ttft_p95_s"], found["planned_at_peak"]["tpot_p95_s"]
            busy, all_ = found["ttft_p95_s_in_busy_minutes"], found["played"]
            lines.append(
                f"\n{name}: {found['machines']} machines; p95 of the first token planned {first:.2f} s, in the busiest "
                f"minutes {busy:.2f} s, over the trace {all_['ttft_p95_s']:.2f} s; of a token planned "
                f"{tokens * 1e3:.0f} ms, over the trace {all_['tpot_p95_s'] * 1e3:.0f} ms"
            )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    report.main("plan_queueing", __doc__, measure, table)
