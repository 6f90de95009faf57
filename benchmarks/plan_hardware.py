"""Times that the planner predicts from a machine's figures alone, against what others measured and published.

- `own`: single forwards of this project's bundles on one core (`relay-node profile`, `experiments/plan`). The core's
  row and how fast attention reads on CPUs are fitted to every other forward; the rest is predicted.
- `layers`: decoder layers without attention, 1 to 4,096 rows, on A100, H100 and A40 (Vidur, arXiv 2405.05465). Compute,
  memory and layer time of `gpu` are fitted to three models on the A100; all else is predicted.
- `ollama`: tokens per second of 11 models on a Jetson Orin NX. Bandwidth and layer time of that row of the table are
  fitted to every other model; the rest is predicted.
- `decode`: tokens per second of one text with five engines on boards, laptops and GPUs (`experiments/plan`). Memory of
  `cpu` and the Pi's bandwidth are calibrated on three rows. Memory and layer time fitted to these rows in place of the
  A100's layers predict a machine that is left out no better: how much of the bandwidth a lone text reaches is the
  engine's (0.4 to 0.9), not the machine's.
- `mlperf_edge`: MLPerf Inference v5.1, edge, language models. Nothing is calibrated on them.
- `mlperf_datacenter`: the same, datacenter, Llama 3.1 8B offline. Compute of `cpu` is calibrated on the Xeon 6787P.

MLPerf's Llama 3.1 8B reads news of 860 tokens in the mean and answers with 128. Offline is continuous batching: a
machine holds as many texts as its memory has room for; a prompt is read by itself, and a token of all is one forward.
SingleStream is one text after the other (its 90th percentile is published, the mean text is predicted; in the log of
the Arc Pro B60 the mean is 4% less). Rows of encoder-decoders (Whisper), of systems whose accelerator is not in the
table and of the reference program, which batches as it is told, are left out and counted. An error is |predicted -
measured| / measured, of times.

Both SingleStream rows are engines, not machines: vLLM starts every kernel from Python on Intel's GPUs (25.3 ms a
token in that log, 0.79 ms a layer; others published 0.26 to 1.2 for such engines, so no constant would be honest),
and Jetson Thor made 31 tokens/s then, prompt included, and 50.8 with a later engine (`decode`).
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks import report
from benchmarks.published import Row
from benchmarks.published.decoding import decode, ollama
from benchmarks.published.layers import layers
from benchmarks.published.mlperf import mlperf
from benchmarks.published.own import forwards


def measure() -> dict[str, Any]:
    """Every data set; one that is not there says so."""
    sets: dict[str, Callable[[], tuple[list[Row], int]]] = {
        "own": lambda: (forwards(), 0),
        "layers": lambda: (layers(), 0),
        "ollama": lambda: (ollama(), 0),
        "decode": lambda: (decode(), 0),
        "mlperf_edge": lambda: mlperf("edge"),
        "mlperf_datacenter": lambda: mlperf("datacenter"),
    }
    result: dict[str, Any] = {}
    for name, read in sets.items():
        try:
            rows, left = read()
        except report.MissingInputError as error:
            result[name] = {"skipped": str(error)}
            continue
        result[name] = summary([row for row in rows if not row.calibrated]) | {"left_out": left}
        result[name]["calibrated_rows"] = sum(row.calibrated for row in rows)
        result[name]["by_name"] = by_name(rows)
    return {"sets": result}


def summary(rows: list[Row]) -> dict[str, Any]:
    """Errors of rows on which nothing was calibrated."""
    errors = np.array([row.error for row in rows])
    return {
        "rows": len(rows),
        "median_error": round(float(np.median(errors)), 3),
        "worst_decile_error": round(float(np.quantile(errors, 0.9)), 3),
    }


def by_name(rows: list[Row]) -> dict[str, Any]:
    """Median error and median predicted over measured time, of the rows of one name."""
    found = {}
    for name in dict.fromkeys(row.name for row in rows):
        mine = [row for row in rows if row.name == name]
        ratio = float(np.median([row.predicted_s / row.measured_s for row in mine]))
        found[name] = {"error": summary(mine)["median_error"], "predicted_over_measured": round(ratio, 3)}
        found[name] |= {"calibrated": True} if mine[0].calibrated else {}
    return found


def table(result: dict[str, Any]) -> str:
    """Data sets and their errors."""
    lines = ["| data | rows | median error | worst decile |", "|---|---|---|---|"]
    for name, found in result["sets"].items():
        if "skipped" in found:
            lines.append(f"| {name} | skipped: {found['skipped']} | | |")
        else:
            errors = f"{found['median_error']:.1%} | {found['worst_decile_error']:.1%}"
            lines.append(f"| {name} | {found['rows']} | {errors} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    report.main("plan_hardware", __doc__, measure, table)
