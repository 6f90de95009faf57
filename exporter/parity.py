"""Compares every graph of a bundle with PyTorch, on real text, in one shot and row by row.

Each graph is on its own: it gets PyTorch's rows at its input boundary, so that its error is not its predecessors'.
Quantized graphs are checked in two halves, each of which has a tight bound: the stored weights against the family's,
matrix by matrix, and the graph against PyTorch with those stored weights, and inputs rounded where whole numbers are
multiplied. How far the graph then is from the family
before quantization is what the precision costs; it is reported and has no bound.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.func import functional_call

from exporter.blocks import EXACT, grids, in_blocks
from exporter.dequantize import stored_matrices
from exporter.errors import VERSIONS, ExportError
from exporter.integer import STEPS
from exporter.runner import F32, I64, GraphRunner
from exporter.smooth import integer_blocks
from family.manifest import Graph, Parity, graph_name
from training.loaded import LoadedFamily

POSITIONS = 64
ADVICE = f"no bundle was written; export it again, and should it fail again, {VERSIONS}"
F32_BOUND = 1e-4
"""Bound on `max_error` where weights are f32."""
QUANTIZED_BOUND = 0.07
"""Bound on `rms_error` where weights are quantized. Kernels round what they read to 8 bits: in blocks, which PyTorch
does not here, or in whole numbers, which differ by one where f32's last bit decides. That gives 0.009 to 0.040 on
SmolLM2-135M and up to 0.017 on random weights; a matrix or a norm left out, 0.106 and more."""
ROW_BOUND = 0.4
"""Bound on the rms of a quantized matrix row's error over the row's rms. Rounding blocks of 32 to 4 bits hardly
reaches it: half a step is 1/16 of a block's largest value, which is at most sqrt(32) of the block's rms. Found: 0.19 on
SmolLM2-135M; a row lost is 1."""

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

    def given(self, graph: Graph) -> F32 | I64:
        """What a graph reads."""
        if graph.kind == "exit":
            return self.rows[graph.index]
        return self.rows[graph.index - 1] if graph.index > 1 else self.ids

    def wanted(self, graph: Graph) -> F32:
        """What it should give for that."""
        return self.rows[graph.index] if graph.kind == "segment" else self.logits[graph.index]


def reference(family: LoadedFamily, stored: Callable[[int], Mapping[str, F32]] = lambda _: {}) -> Reference:
    """Run every sub-model in PyTorch on the text of this file, `POSITIONS` tokens of it or what the context holds.

    `stored` gives the matrices, by the parameter's name, that take the place of sub-model g's own.
    """
    tokenizer: Any = family.base.tokenizer
    ids = np.asarray(tokenizer(TEXT, add_special_tokens=False)["input_ids"], np.int64)
    ids = ids[: min(POSITIONS, family.spec.context)]
    rows, logits = {}, {}
    for g, exit_ in enumerate(family.spec.exits, start=1):
        model: Any = family.submodel(g)
        after = [*model.model.layers, model.model.norm][exit_.layer]
        rows[g], logits[g] = _run(model, after, ids, stored(g))
    return Reference(ids, rows, logits)


def stored_submodels(folder: Path, graphs: tuple[Graph, ...], family: LoadedFamily) -> Callable[[int], dict[str, F32]]:
    """Gives the quantized matrices of sub-model g as the bundle's files hold them.

    Here and there raises `ExportError` for the first matrix that is not the family's, rounded.
    """
    files = {graph.name: folder / graph.files[0] for graph in graphs}
    precisions = {graph.name: graph.precision for graph in graphs}
    trunk: dict[str, F32] = {}
    for segment in family.spec.segments:
        name = graph_name("segment", segment.index)
        matrices = stored_matrices(files[name], family.spec)
        check_matrices(name, matrices, family.base.model, keeps_grids=precisions[name] == "int4")
        trunk |= matrices

    def submodel(g: int) -> dict[str, F32]:
        name, model = graph_name("exit", g), family.submodel(g)
        own = stored_matrices(files[name], family.spec, family.spec.exit(g).layer)
        check_matrices(name, own, model)
        parameters = model.state_dict()
        return {name: matrix for name, matrix in (trunk | own).items() if name in parameters}

    return submodel


@contextlib.contextmanager
def rounded_inputs(blocks: Iterable[nn.Module]) -> Iterator[None]:
    """Let the matrices of these blocks, and of sub-models made meanwhile, read what they do in whole numbers."""

    def rounded(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor]:
        largest = inputs[0].abs().amax(-1, keepdim=True)
        whole = (inputs[0] / largest * STEPS).round().nan_to_num()
        return (whole / STEPS * largest,)

    matrices = [m for block in blocks for m in block.modules() if isinstance(m, nn.Linear)]
    hooks = [matrix.register_forward_pre_hook(rounded) for matrix in matrices]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def check_matrices(
    graph: str, matrices: Mapping[str, F32], model: torch.nn.Module, *, keeps_grids: bool = False
) -> None:
    """Raise `ExportError` for the first that is too far from the model's parameter of that name.

    `keeps_grids` demands that blocks that lie on a 4-bit grid are exact.
    """
    parameters = model.state_dict()
    for name, matrix in matrices.items():
        exact = parameters[name].numpy()
        error = worst_row(matrix, exact)
        if not error <= ROW_BOUND:
            raise ExportError(
                f"{graph}: {name} as stored has a row {error:.2g} of its size away from the family's, over the bound "
                f"of {ROW_BOUND:.2g}; {ADVICE}"
            )
        if keeps_grids and not on_their_grids(matrix, exact):
            raise ExportError(f"{graph}: {name} as stored has lost 4-bit weights that the family's has; {ADVICE}")


def on_their_grids(found: F32, expected: F32) -> bool:
    """Whether every block of `expected` that lies on a 4-bit grid is in `found`, to f32 rounding."""
    blocks = in_blocks(expected)
    off = np.abs(in_blocks(found) - blocks).max(-1)
    return bool((off <= EXACT * np.abs(blocks).max(-1))[grids(blocks)[1]].all())


def worst_row(found: F32, expected: F32) -> float:
    """The largest over rows of the difference's rms over the row's rms; infinite for shapes that differ."""
    if found.shape != expected.shape:
        return float("inf")
    off = np.linalg.norm(found - expected, axis=1)
    size = np.linalg.norm(expected, axis=1)
    return float((off[off > 0] / size[off > 0]).max(initial=0.0))


def _run(model: Any, module: torch.nn.Module, ids: I64, matrices: Mapping[str, F32]) -> tuple[F32, F32]:
    """The rows that `module` of the model reads, [n, d_model], and the model's logits, [n, vocab]."""
    seen: list[torch.Tensor] = []
    hook = module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    inputs = {"input_ids": torch.from_numpy(ids)[None], "use_cache": False}
    parameters = {name: torch.from_numpy(matrix) for name, matrix in matrices.items()}
    try:
        with torch.no_grad():
            logits = functional_call(model, parameters, (), inputs, tie_weights=False).logits
    finally:
        hook.remove()
    return seen[0][0].numpy(), logits[0].numpy()


def measure(runner: GraphRunner, ref: Reference) -> tuple[float, float]:
    """The worse of one shot and row by row; the row-by-row pass goes over the first pass's buffers again."""
    rows, wanted = ref.given(runner.graph), ref.wanted(runner.graph)
    whole = runner.run(rows, 0)
    single = np.concatenate([runner.run(rows[i : i + 1], i) for i in range(len(rows))])
    errors = [compare(whole, wanted), compare(single, wanted)]
    return max(e[0] for e in errors), max(e[1] for e in errors)


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


def check(folder: Path, graphs: tuple[Graph, ...], family: LoadedFamily, given: LoadedFamily) -> dict[str, Parity]:
    """Parity of every graph. Raises `ExportError` for the first that does not run or is over its bound.

    `given` is the family with the weights that the graphs were made of: itself, or one that was calibrated or smoothed.
    """
    exact = reference(family)
    ref, precisions = exact, {graph.index: graph.precision for graph in graphs}
    if {*precisions.values()} != {"f32"}:
        with rounded_inputs(integer_blocks(given, precisions)):
            ref = reference(given, stored_submodels(folder, graphs, given))
    found = {}
    for graph in graphs:
        quantized = graph.precision != "f32"
        try:
            runner = GraphRunner(folder, graph, family.spec)
            max_error, rms_error = measure(runner, ref)
            f32_error = compare(runner.run(exact.given(graph), 0), exact.wanted(graph))[1] if quantized else rms_error
        except Exception as reason:  # onnxruntime's errors have no common base
            raise ExportError(
                f"{graph.name}: onnxruntime cannot run it ({' '.join(str(reason).split())}); {ADVICE}"
            ) from reason
        bound = QUANTIZED_BOUND if quantized else F32_BOUND
        error, kind = (rms_error, "rms_error") if quantized else (max_error, "max_error")
        if not error <= bound:
            raise ExportError(
                f"{graph.name}: {kind} {error:.2g} against PyTorch is over the bound of {bound:.2g}; {ADVICE}"
            )
        found[graph.name] = Parity(max_error, rms_error, bound, f32_error)
    return found
