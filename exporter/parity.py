"""Compares every graph of a bundle with PyTorch, on real text, in one shot and row by row.

Each graph is on its own: it gets PyTorch's rows at its input boundary, so that its error is not its predecessors'.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from exporter.errors import ExportError
from exporter.runner import F32, I64, GraphRunner
from family.manifest import Graph, Parity
from training.model import FamilyModel

POSITIONS = 64
F32_BOUND = 1e-4
"""Bound on `max_error` where weights are f32."""
QUANTIZED_BOUND = {"segment": 0.25, "exit": 0.15}
"""Bounds on `rms_error` where weights are quantized, by kind of graph. Found: 0.17 and 0.02 on SmolLM2-135M, 0.16 and
0.09 on random weights."""

TEXT = """The lighthouse keeper had not slept since the storm began. Every hour she climbed the hundred and twelve
steps, wiped the salt from the glass, and counted the seconds between two flashes: five, always five. At four
in the morning a ship answered. It was closer than it should have been, and it was not turning. She ran down
to the boathouse, found the old flare gun behind the paint tins, and fired the only cartridge that was still
dry. For a long moment nothing happened; then, slowly, the red light on the bow became a green one, and the
ship went round the reef."""


@dataclass(frozen=True)
class Reference:
    """What PyTorch computes on the ids: the input of every segment, its output rows, and every exit's logits."""

    ids: I64
    rows: Mapping[int, F32]
    """Rows [n, d_model] at boundary g, after segment g."""
    logits: Mapping[int, F32]
    """Logits [n, vocab] of exit g."""


def reference(family: FamilyModel, tokenizer: Any) -> Reference:
    """Run every sub-model in PyTorch on the text of this file, `POSITIONS` tokens of it or what the context holds."""
    ids = np.asarray(tokenizer(TEXT, add_special_tokens=False)["input_ids"], np.int64)
    ids = ids[: min(POSITIONS, family.spec.context)]
    rows, logits = {}, {}
    for g, exit_ in enumerate(family.spec.exits, start=1):
        model: Any = family.submodel(g)
        after = [*model.model.layers, model.model.norm][exit_.layer]
        rows[g], logits[g] = _run(model, after, ids)
    return Reference(ids, rows, logits)


def _run(model: Any, module: torch.nn.Module, ids: I64) -> tuple[F32, F32]:
    """The rows that `module` of the model reads, [n, d_model], and the model's logits, [n, vocab]."""
    seen: list[torch.Tensor] = []
    hook = module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        with torch.no_grad():
            logits = model(torch.from_numpy(ids)[None], use_cache=False).logits
    finally:
        hook.remove()
    return seen[0][0].numpy(), logits[0].numpy()


def measure(folder: Path, graph: Graph, family: FamilyModel, ref: Reference, bound: float) -> Parity:
    """The worse of one shot and row by row; the row-by-row pass goes over the first pass's buffers again."""
    rows = (
        ref.ids if graph.kind == "segment" and graph.index == 1 else ref.rows[graph.index - (graph.kind == "segment")]
    )
    wanted = ref.rows[graph.index] if graph.kind == "segment" else ref.logits[graph.index]
    runner = GraphRunner(folder, graph, family.spec)
    whole = runner.run(rows, 0)
    single = np.concatenate([runner.run(rows[i : i + 1], i) for i in range(len(rows))])
    errors = [compare(whole, wanted), compare(single, wanted)]
    return Parity(max(e[0] for e in errors), max(e[1] for e in errors), bound)


def compare(found: F32, expected: F32) -> tuple[float, float]:
    """(max_error, rms_error) of rows [n, width], each row on its own scale, as some rows are a thousand times larger.

    max_error: the largest over rows of the largest difference over the row's range. rms_error: root mean square over
    rows of the difference's rms over the row's rms. Infinite where the output is not finite.
    """
    if found.shape != expected.shape or not np.isfinite(found).all():
        return float("inf"), float("inf")
    off = found.astype(np.float64) - expected
    spans = np.ptp(expected.astype(np.float64), axis=1)
    powers = (expected.astype(np.float64) ** 2).mean(1)
    return float((np.abs(off).max(1) / spans).max()), float(np.sqrt(((off**2).mean(1) / powers).mean()))


def check(folder: Path, graphs: tuple[Graph, ...], family: FamilyModel, tokenizer: Any) -> dict[str, Parity]:
    """Parity of every graph. Raises `ExportError` for the first that does not run or is over its bound."""
    ref = reference(family, tokenizer)
    found = {}
    for graph in graphs:
        exact = graph.precision == "f32"
        try:
            parity = measure(folder, graph, family, ref, F32_BOUND if exact else QUANTIZED_BOUND[graph.kind])
        except Exception as reason:  # onnxruntime's errors have no common base
            raise ExportError(f"{graph.name}: onnxruntime cannot run it ({reason}); no bundle was written") from reason
        error, kind = (parity.max_error, "max_error") if exact else (parity.rms_error, "rms_error")
        if not error <= parity.bound:
            raise ExportError(
                f"{graph.name}: {kind} {error:.2g} against PyTorch is over the bound of {parity.bound:.2g}; "
                "no bundle was written"
            )
        found[graph.name] = parity
    return found
