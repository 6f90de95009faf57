"""Decoder layers without attention, as Vidur measured them (arXiv 2405.05465)."""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks import report
from benchmarks.published import Row

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from scaling.plan.roofline import Efficiency, Work

VIDUR = "hardware/hw-vidur-gpu/profiling/compute/{}/{}/mlp.csv"
GPUS = {"a100": "A100 80GB", "h100": "H100 SXM", "a40": "A40"}
CALIBRATE = ("meta-llama/Llama-2-70b-hf", "internlm/internlm-20b", "meta-llama/Meta-Llama-3-70B")
OTHERS = (
    "meta-llama/Llama-2-7b-hf",
    "codellama/CodeLlama-34b-Instruct-hf",
    "Qwen/Qwen-72B",
    "meta-llama/Meta-Llama-3-8B",
)
MOST_TOKENS = 4096
OPERATIONS = (
    "attn_pre_proj",
    "attn_rope",
    "attn_post_proj",
    "mlp_up_proj",
    "mlp_act",
    "mlp_down_proj",
    "add",
    "input_layernorm",
    "post_attention_layernorm",
)


@dataclass(frozen=True, eq=False)
class Layers:
    """One Vidur profile: layers without attention; arrays (K,)."""

    work: "Work"
    rows: "NDArray[np.float64]"
    seconds: "NDArray[np.float64]"
    """Measured."""

    def predicted(self, device: str, reached: "Efficiency") -> "NDArray[np.float64]":
        """Seconds on a device that reaches so much of its data sheet."""
        from scaling.plan.hardware import hardware
        from scaling.plan.roofline import RooflineCost

        machine = hardware(GPUS[device])
        cost = RooflineCost(
            self.work,
            flops=machine.matmul_flops("f16") * reached.compute,
            head_flops=1.0,
            attention_flops=1.0,
            bandwidth_bytes=machine.bandwidth_bytes * reached.memory,
            kv_bytes=2.0,
            layer_s=reached.layer_s,
        )
        return np.asarray(cost.seconds(self.rows, 0.0))


def layers() -> list[Row]:
    """Every layer of every profile that is there."""
    from scaling.plan.roofline import EFFICIENCY

    rows = []
    for device in GPUS:
        for model in CALIBRATE + OTHERS:
            try:
                path = report.data(VIDUR.format(device, model))
            except report.MissingInputError:
                if (device, model) == ("a100", CALIBRATE[0]):
                    raise
                continue
            profile, calibrated = read_layers(path), device == "a100" and model in CALIBRATE
            pairs = zip(profile.seconds, profile.predicted(device, EFFICIENCY["gpu"]), strict=True)
            rows += [Row(f"{device} {model}", float(m), float(p), calibrated) for m, p in pairs]
    return rows


def read_layers(path: Path) -> Layers:
    """A profile's layers of up to 4,096 rows."""
    from scaling.plan.roofline import Work

    with path.open(newline="") as file:
        lines = [line for line in csv.DictReader(file) if int(line["num_tokens"]) <= MOST_TOKENS]

    def column(name: str) -> "NDArray[np.float64]":
        return np.array([float(line[name] or 0) for line in lines])

    d, parts = column("n_embd"), column("num_tensor_parallel_workers")
    ff, queries = column("n_expanded_embd") / parts, d / parts
    keys = queries / column("n_head") * column("n_kv_head")
    weights = d * (queries + 2 * keys) + queries * d + 3 * d * ff
    activations = 10 * d + 2 * (queries + keys) + 3 * ff
    milliseconds = sum((column(f"time_stats.{op}.median") for op in OPERATIONS), start=np.zeros(len(lines)))
    return Layers(Work(1.0, weights, 2 * weights, activations, 0.0, 0.0), column("num_tokens"), milliseconds / 1e3)


def fit_layers() -> "Efficiency":
    """What the A100 reaches on the three models: least mean |log error|."""
    from scipy.optimize import minimize

    from scaling.plan.roofline import Efficiency

    profiles = [read_layers(report.data(VIDUR.format("a100", model))) for model in CALIBRATE]

    def distance(log: "NDArray[np.float64]") -> float:
        reached = Efficiency(*map(float, np.exp(log)))
        errors = [np.abs(np.log(profile.predicted("a100", reached) / profile.seconds)) for profile in profiles]
        return float(np.mean(np.concatenate(errors)))

    found = minimize(distance, np.log([0.6, 0.8, 5e-5]), method="Nelder-Mead", options={"maxiter": 400})
    return Efficiency(*map(float, np.exp(found.x)))
