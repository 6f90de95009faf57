"""Tokens per second of single texts, as owners of machines published them."""

import csv
from collections.abc import Iterator

from benchmarks import report
from benchmarks.published import MODELS, Row, held, text_seconds, weights_of

JETSON = "hardware/hw-devices/jetson_orin_nx_8gb_25w_ollama.csv"
JETSON_ROW = "Jetson Orin NX 8GB with Ollama"
LAYERS = {
    "DeepSeek R1 1.5": 28, "DeepSeek R1 7": 28, "Llama 3.2 1": 16, "Llama 3.2 Instruct 1": 16, "Llama 3.2 3": 28,
    "Llama 2 7": 32, "TinyLlama 1.1": 22, "Qwen 2.5 0.5": 24, "Qwen 2.5 1.5": 28, "Gemma 2 2": 26, "Mistral 7": 32,
}  # fmt: skip
DECODE = report.ROOT / "experiments" / "plan" / "decode-rates.csv"


def ollama() -> list[Row]:
    """Tokens of the Jetson, in the middle of the range that is published."""
    from scaling.plan.hardware import hardware

    machine = hardware(JETSON_ROW)
    assert machine.layer_s is not None
    rows = []
    for name, bytes_, deep, seconds, calibrated in ollama_rows():
        rows.append(Row(name, seconds, bytes_ / machine.bandwidth_bytes + deep * machine.layer_s, calibrated))
    return rows


def ollama_rows() -> Iterator[tuple[str, float, int, float, bool]]:
    """Model, bytes, layers, seconds per token, and whether the Jetson's row is calibrated on it (every other one)."""
    with report.data(JETSON).open(newline="") as file:
        for i, line in enumerate(csv.DictReader(file)):
            name = f"{line['model']} {line['params_b']}"
            rate = (float(line["tok_s_low"]) + float(line["tok_s_high"])) / 2
            yield f"{name}B {line['quant']}", float(line["size_mb"]) * 1e6, LAYERS[name], 1 / rate, i % 2 == 0


def decode() -> list[Row]:
    """Rates that owners of machines published."""
    from scaling.plan.hardware import hardware

    rows = []
    with DECODE.open(newline="") as file:
        for line in csv.DictReader(file):
            spec, machine, size = MODELS[line["model"]], hardware(line["hardware"]), float(line["weights_gb"]) * 1e9
            each = size / weights_of(spec)
            precision = "f16" if each > 1.5 else "int8" if each > 0.8 else "int4"
            prefill = line["phase"] == "prefill"
            n, context = (512.0, 0.0) if prefill else (1.0, 64.0)
            seconds = text_seconds(spec, machine, held(precision, each, 2.0, each), n, context) / n
            name = f"{line['hardware']}, {line['engine']}, {line['model']} {precision} {line['phase']}"
            rows.append(Row(name, 1 / float(line["tokens_per_s"]), seconds, line["use"] == "calibrate"))
    return rows
