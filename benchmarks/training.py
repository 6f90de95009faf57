"""What a family costs in training over a dense model of the same trunk: memory, and time for its arithmetic.

A step is forward, backward and AdamW on a batch of windows with everything trained; the loss is cross-entropy, chunked
for both. G = 4 has exits after every quarter of the layers, with block branches or norms alone; G = 1 is the trunk with
its head. Memory is the peak of the bytes of all tensors alive in a step (weights, gradients, AdamW's moments,
activations, chunks of logits), each in a fresh process; `resident_mib` is what the process's peak resident memory grew
by, which depends on the allocator too. Time is the median over rounds, in which each model makes one step; FLOPs are
those of `training.flops`.

`memory_ratio_g4` is G = 4 with block branches over G = 1; `step_overhead_vs_flops_g4` the ratio of their times over the
ratio of their FLOPs.
"""

import multiprocessing
import resource
import statistics
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from benchmarks import report

if TYPE_CHECKING:
    from training.modeling import FamilyForCausalLM

BRANCHES = ("norm", "block")
WARM_UP = 1
"""Steps before anything is counted; AdamW has its moments then."""


@dataclass(frozen=True)
class Size:
    """What is trained on what."""

    n_layers: int = 8
    d_model: int = 256
    d_ff: int = 768
    n_heads: int = 4
    vocab_size: int = 8192
    windows: int = 8
    window: int = 512
    rounds: int = 5


def measure(size: Size = Size()) -> dict[str, Any]:
    """Both figures, and what they are made of."""
    import torch

    memory = {kind: _in_fresh_process(size, kind) for kind in ("dense", *BRANCHES)}
    seconds, flops = _times(size)
    ratios = {
        kind: {
            "memory": round(memory[kind]["tensor_mib"] / memory["dense"]["tensor_mib"], 3),
            "time": round(statistics.median(_quotients(seconds[kind], seconds["dense"])), 3),
            "flops": round(flops[kind] / flops["dense"], 3),
        }
        for kind in BRANCHES
    }
    return {
        "size": asdict(size),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "memory_ratio_g4": ratios["block"]["memory"],
        "step_overhead_vs_flops_g4": round(ratios["block"]["time"] / ratios["block"]["flops"], 3),
        "g4_over_g1": ratios,
        "memory": memory,
        "step_s": {kind: round(statistics.median(found), 3) for kind, found in seconds.items()},
        "step_gflop": {kind: round(found / 1e9, 1) for kind, found in flops.items()},
    }


def table(result: dict[str, Any]) -> str:
    """The ratios as a Markdown table."""
    lines = ["| branches, G = 4 over G = 1 | memory | time | FLOPs | time / FLOPs |", "|---|---|---|---|---|"]
    for kind, of in result["g4_over_g1"].items():
        overhead = of["time"] / of["flops"]
        lines.append(f"| {kind} | {of['memory']:.3f} | {of['time']:.3f} | {of['flops']:.3f} | {overhead:.3f} |")
    return "\n".join(lines) + "\n"


def _quotients(over: list[float], under: list[float]) -> list[float]:
    return [a / b for a, b in zip(over, under, strict=True)]


class _Step:
    """A family with its optimizer and a batch."""

    def __init__(self, size: Size, kind: str) -> None:
        import torch

        torch.manual_seed(0)
        self.family = _family(size, kind)
        self.optimizer = torch.optim.AdamW(self.family.parameters(), lr=1e-4, fused=True)
        self.ids = torch.randint(0, size.vocab_size, (size.windows, size.window))

    def __call__(self) -> None:
        self.family(self.ids, labels=self.ids).loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


def _family(size: Size, kind: str) -> "FamilyForCausalLM":
    from transformers import LlamaConfig

    from family.spec import Exit
    from training.config import FamilyConfig
    from training.modeling import FamilyForCausalLM

    decoder = LlamaConfig(
        num_hidden_layers=size.n_layers,
        hidden_size=size.d_model,
        intermediate_size=size.d_ff,
        num_attention_heads=size.n_heads,
        vocab_size=size.vocab_size,
        max_position_embeddings=size.window,
        tie_word_embeddings=True,
    )
    early = [] if kind == "dense" else [Exit(size.n_layers * g // 4, kind) for g in (1, 2, 3)]
    family = FamilyForCausalLM(FamilyConfig(decoder=decoder, exits=[*early, Exit(size.n_layers, "norm")]))
    family.train()
    return family


def _times(size: Size) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Seconds of every step and FLOPs of one, by model."""
    from training.flops import shape_of, training_flops

    steps = {kind: _Step(size, kind) for kind in ("dense", *BRANCHES)}
    tokens = size.windows * size.window
    flops = {
        kind: training_flops(shape_of(step.family.config), size.window).total * tokens for kind, step in steps.items()
    }
    seconds: dict[str, list[float]] = {kind: [] for kind in steps}
    for count in range(WARM_UP + size.rounds):
        for kind, step in steps.items():
            start = time.perf_counter()
            step()
            if count >= WARM_UP:
                seconds[kind].append(time.perf_counter() - start)
    return seconds, flops


def _in_fresh_process(size: Size, kind: str) -> dict[str, float]:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_memory, (size, kind))


def _memory(size: Size, kind: str) -> dict[str, float]:
    """Peak MiB of a step after the first ones."""
    import transformers.models.llama.modeling_llama  # noqa: F401  (not to be counted)

    import training.modeling  # noqa: F401
    from benchmarks.tensors import peak_tensor_bytes

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step = _Step(size, kind)
    for _ in range(WARM_UP):
        step()
    tensors = peak_tensor_bytes(step)
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {"tensor_mib": round(tensors / 2**20, 1), "resident_mib": round(resident / 2**10, 1)}


if __name__ == "__main__":
    report.main("training", __doc__, measure, table)
