"""MLPerf Inference v5.1: rows of Llama 3.1 8B, which reads a news article and answers with 128 tokens.

128 is `max_tokens` of the reference (mlcommons/inference, language/llama3.1-8b, SUT_VLLM.py; issue 2256: the model is
verbose), and the logs of the Arc Pro B60 have 128.0 tokens a sample in 5,000. The mean prompt is stated nowhere; it
follows from the data set: 57,732,436 bytes in 13,368 examples of cnn_dailymail's validation split (its card), less 52
for the id and about 315 for the highlights, are 3,950 of article; 4.72 bytes a token by Llama 3's tokenizer on the 80
articles of it in Spec-Bench; 24 tokens of instruction and beginning of text (download_cnndm.py). 860 in all, within
15.
"""

import csv
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from benchmarks import report
from benchmarks.published import MODELS, Row, held, text_seconds, weights_of

if TYPE_CHECKING:
    from scaling.plan.hardware import Hardware
    from scaling.plan.roofline import Format

MLPERF = "hardware/hw-mlperf-edge/mlperf_inference_v5.1_llm_results.csv"
PROMPT, OUTPUT = 860, 128
MEMORY_USED = 0.9
MOST_TEXTS = 2048
ACCELERATORS = {
    "NVIDIA H100-SXM-80GB": ("H100 SXM", 1), "NVIDIA H200-SXM-141GB": ("H200 SXM", 1), "NVIDIA L40S": ("L40S", 1),
    "NVIDIA H200-NVL-141GB": ("H200 NVL", 1), "NVIDIA B200-SXM-180GB": ("B200", 1),
    "NVIDIA H100-NVL-94GB": ("H100 NVL", 1), "NVIDIA L4-PCIe-24GB": ("L4", 1),
    "NVIDIA RTX PRO 6000 Blackwell Server Edition": ("RTX PRO 6000 Blackwell Server", 1),
    "[MAXSUN] MS-Intel Arc Pro B60 Dual 48G Turbo": ("Arc Pro B60", 2),
    "NVIDIA GeForce RTX 4090": ("RTX 4090", 1), "NVIDIA Jetson AGX Thor 128G": ("Jetson AGX Thor", 1),
    "INTEL(R) XEON(R) 6787P": ("Xeon 6787P", 2), "INTEL(R) XEON(R) 6980P": ("Xeon 6980P", 2),
}  # fmt: skip
"""The table's machine, and how many of it one accelerator or node of MLPerf has."""
TYPES = {"Jetson-Thor_TRT": "W4A16"}
"""By platform, where the submission's own code (W4A16_engine_build.sh) says another weight type than its table, fp4."""
REFERENCE = "reference"
"""In the platform of runs of MLPerf's reference program. It hands texts to the engine in batches of a size that is not
published (1 by default), so it is neither of the two scenarios that are predicted here."""
HELD = {
    "fp4": ("int4", 0.5625, 1.0),
    "UINT4": ("int4", 0.5, 1.0),
    "W4A16": ("f16", 0.53125, 2.0),
    "INT4": ("int4", 0.53125, 2.0),
    "fp8": ("int8", 1.0, 1.0),
    "INT8": ("int8", 1.0, 2.0),
    "fp16": ("f16", 2.0, 2.0),
    "fp32": ("f32", 4.0, 4.0),
}
"""By MLPerf's weight type: precision of products, bytes per weight, bytes per number of keys and values. UINT4 is
Intel's on the Arc Pro B60: a scale per channel, products of int8, keys and values of int8 (its init_env_shared and
SUT.py)."""


def mlperf(suite: str) -> tuple[list[Row], int]:
    """Rows of Llama 3.1 8B of one suite, and how many others it has that are not predicted."""
    from scaling.plan.hardware import hardware

    rows, left = [], 0
    with report.data(MLPERF).open(newline="") as file:
        lines = [line for line in csv.DictReader(file) if line["Suite"] == suite]
    for line in lines:
        found = ACCELERATORS.get(line["Accelerator"] or line["Processor"])
        scenario, small = line["Scenario"], line["UsedModel"].replace("_", ".").startswith("llama3.1-8b")
        wanted = scenario == "Offline" or (suite == "edge" and scenario == "SingleStream")
        types = TYPES.get(line["Platform"], line["weight_data_types"])
        if found is None or not small or not wanted or types not in HELD or REFERENCE in line["Platform"]:
            left += 1
            continue
        precision, each, kv = HELD[types]
        machine, form = hardware(found[0]), held(precision, each, kv, max(each, 2.0))
        result = float(line["Performance_Result"])
        name = f"{line['Submitter']}, {line['a#'] or 1} x {found[0]}, {types}, {scenario}"
        if scenario == "SingleStream":
            rows.append(Row(name, result / 1e3, single_stream(machine, form)))
        else:
            count = int(line["a#"] or 1) * int(line["Nodes"]) * found[1]
            together = 2 if weights_of(MODELS["llama3.1-8b"]) * each > machine.memory_bytes * MEMORY_USED else 1
            rate = offline(parallel(machine, together), form) * count / together
            calibrated = found[0] == "Xeon 6787P"
            rows.append(Row(name, 1 / result, 1 / rate, calibrated))
    return rows, left


def single_stream(machine: "Hardware", form: "Format") -> float:
    """Seconds of one text alone."""
    spec = MODELS["llama3.1-8b"]
    tokens = text_seconds(spec, machine, form, 1.0, PROMPT + OUTPUT / 2)
    return text_seconds(spec, machine, form, PROMPT, 0.0) + (OUTPUT - 1) * tokens


def offline(machine: "Hardware", form: "Format") -> float:
    """Tokens per second of one machine that is never without work."""
    from scaling.plan.roofline import roofline

    spec = MODELS["llama3.1-8b"]
    made = roofline(spec, machine, form=form, tied=False)
    each = sum(made.kv_bytes_per_position.values()) * (PROMPT + OUTPUT)
    free = machine.memory_bytes * MEMORY_USED - sum(made.weight_bytes.values())
    texts = float(np.clip(free / each, 1.0, MOST_TEXTS))
    step = text_seconds(spec, machine, form, texts, PROMPT + OUTPUT / 2, texts)
    return OUTPUT / (text_seconds(spec, machine, form, PROMPT, 0.0) + OUTPUT * step / texts)


def parallel(machine: "Hardware", count: int) -> "Hardware":
    """Several as one, each with its share of every matrix."""
    flops = {name: value * count for name, value in machine.flops.items()}
    bandwidth, memory = machine.bandwidth_bytes * count, machine.memory_bytes * count
    return replace(machine, flops=flops, bandwidth_bytes=bandwidth, memory_bytes=memory)
