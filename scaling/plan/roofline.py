"""A machine's times from its figures alone: the roofline of a family's shape on a `Hardware`.

A forward of a graph computes and reads; the slower of both decides, and near the ridge they add up as the sides of a
right angle, which fits measured layers better than the larger of the two (`benchmarks.plan_hardware`):

    linear maps: sqrt((2·W·rows / F)² + (bytes of W / M)²)
    attention:   sqrt((4·n_heads·head_dim·rows·positions / F)² + (bytes of keys and values / M)²)
    head:        as linear maps, for the wanted rows
    and:         activations / M, and a fixed time for each layer

F and M are the machine's matmul operations and memory reads per second times an efficiency. All is arithmetic by
element, so a `Work` may hold arrays, one element for each candidate. No time grows when F, M or memory do.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from family.spec import Exit, FamilySpec
from scaling.errors import ScalingError
from scaling.plan.cost import Machine, NodeCost, Number
from scaling.plan.hardware import Hardware, Unit

ACTIVATION_BYTES = 2.0
"""Of a number between two kernels."""


@dataclass(frozen=True)
class Efficiency:
    """What programs reach of a data sheet's figures."""

    compute: float
    """Share of matmul operations."""
    memory: float
    """Share of memory bandwidth."""
    layer_s: float
    """Fixed time of a layer: starts of its kernels, waits between them."""


EFFICIENCY: Mapping[Unit, Efficiency] = {
    "gpu": Efficiency(compute=0.71, memory=0.77, layer_s=42e-6),
    "soc": Efficiency(compute=0.71, memory=0.77, layer_s=42e-6),
    "cpu": Efficiency(compute=0.19, memory=0.55, layer_s=100e-6),
}
"""Of machines known by data sheet, by what multiplies. gpu: layers of three models on an A100 (Vidur's profiles,
arXiv 2405.05465), fitted by `benchmarks.plan_hardware`, which states the errors on all else. soc: the same, which
holds for Apple, AMD and NVIDIA chips under llama.cpp, MLC and TensorRT. cpu: an Intel N150 under llama.cpp (memory),
MLPerf's Xeon 6787P (compute), this project's engine (layer). Of an engine that starts every kernel from Python (no
graphs) none of this holds: others measured 0.3 to 1.2 ms a layer, behind which the reads are hidden."""


@dataclass(frozen=True)
class Format:
    """How a model is held at a precision."""

    precision: str
    """Of the products with the trunk's and the branches' weights."""
    weight_bytes: float
    """Of a trunk weight, scales included."""
    branch_bytes: float
    """Of a branch weight."""
    head_bytes: float
    """Of a weight of the head."""
    kv_bytes: float
    """Of a number in keys and values."""
    head_precision: str
    """Of the products with the head."""
    attention: str
    """Precision of attention's products."""
    keys_on_cpu: float = 1.0
    """Share of the bandwidth that a CPU reaches at which the engine's attention reads keys and values there."""


FORMATS: Mapping[str, Format] = {
    "f32": Format("f32", 4.0, 4.0, 4.0, 4.0, "f32", "f32", keys_on_cpu=0.2),
    "int8": Format("int8", 1.01, 1.01, 1.2, 4.0, "int8", "f32", keys_on_cpu=0.2),
    "int4": Format("int4", 0.78, 1.01, 1.2, 4.0, "int8", "f32", keys_on_cpu=0.2),
}
"""Of this project's bundles by precision, as `export-family` writes them (bytes are those of SmolLM2-135M's, keys and
values of the profile in `experiments/plan`)."""


@dataclass(frozen=True)
class Work:
    """What a forward of one graph computes and reads; numbers, or arrays of one shape."""

    layers: Number
    """Decoder layers, a branch's block included."""
    weights: Number
    """Multiplications per row: weights of the linear maps."""
    weight_bytes: Number
    activations: Number
    """Numbers that a row moves between kernels."""
    score_width: Number
    """n_heads · head_dim, summed over the layers."""
    kv_width: Number
    """2 · kv_heads · head_dim, summed over the layers: numbers kept of a position."""
    head_weights: Number = 0.0
    head_bytes: Number = 0.0


@dataclass(frozen=True)
class RooflineCost:
    """A `GraphCost` of a graph's work and a machine's rates."""

    work: Work
    flops: Number
    """Operations per second that products with weights reach."""
    head_flops: Number
    attention_flops: Number
    bandwidth_bytes: Number
    kv_bytes: Number
    """Of a number in keys and values, where all memory is read equally fast; more where they are read more slowly."""
    layer_s: Number

    def seconds(self, rows: Number, context: Number, wanted: Number = 0, sessions: Number = 1) -> Number:
        """One forward (`scaling.plan.cost.GraphCost`)."""
        work, memory = self.work, self.bandwidth_bytes
        linear = _side(2 * work.weights * rows / self.flops, work.weight_bytes / memory)
        each = rows / sessions
        attended = 4 * work.score_width * rows * (context + (each + 1) / 2)
        held = work.kv_width * self.kv_bytes * sessions * (context + each)
        attention = _side(attended / self.attention_flops, held / memory)
        asked = np.minimum(wanted, 1)
        head = _side(2 * work.head_weights * wanted / self.head_flops, work.head_bytes * asked / memory)
        moved = work.activations * ACTIVATION_BYTES * rows / memory
        seconds: Number = linear + attention + head + moved + self.layer_s * (work.layers + asked)
        return seconds


def roofline(
    spec: FamilySpec,
    hardware: Hardware,
    precision: str = "int4",
    form: Format | None = None,
    tied: bool = True,
    node: NodeCost | None = None,
) -> Machine:
    """What a machine takes for each graph of a family.

    Args:
        spec: the family's shape.
        hardware: the machine.
        precision: of one of this project's bundles.
        form: another way of holding the weights, in place of `precision`.
        tied: whether the head is the embedding, which is held once then.
        node: a node's own time; none by default.

    Raises:
        ScalingError: no such precision.
    """
    form = form or form_of(precision)
    branches = {g: branch_work(spec, spec.exit(g), form) for g in range(1, spec.granularity + 1)}
    trunk = {s.index: trunk_work(spec, s.n_layers, form) for s in spec.segments}
    named = {f"segment-{g}": work for g, work in trunk.items()} | {f"exit-{g}": work for g, work in branches.items()}
    head = spec.vocab_size * spec.d_model * form.head_bytes
    weights = {name: float(work.weight_bytes) for name, work in named.items()} | {"shared": head}
    if not tied:
        weights["segment-1"] += head
    return Machine(
        segments={g: cost_of(work, hardware, form) for g, work in trunk.items()},
        exits={g: cost_of(work, hardware, form) for g, work in branches.items()},
        weight_bytes=weights,
        kv_bytes_per_position={name: float(work.kv_width) * form.kv_bytes for name, work in named.items()},
        memory_bytes=hardware.memory_bytes,
        node=node or NodeCost(),
    )


def form_of(precision: str) -> Format:
    """How this project's bundles hold a model at a precision. Raises `ScalingError`."""
    if precision not in FORMATS:
        raise ScalingError(f"no precision {precision!r} of bundles; expected one of {', '.join(FORMATS)}")
    return FORMATS[precision]


def cost_of(work: Work, hardware: Hardware, form: Format) -> RooflineCost:
    """The times of a graph on a machine."""
    reached = EFFICIENCY[hardware.unit]
    if hardware.basis == "measured":
        reached = replace(reached, compute=1.0, memory=1.0)
    return RooflineCost(
        work,
        flops=hardware.matmul_flops(form.precision) * reached.compute,
        head_flops=hardware.matmul_flops(form.head_precision) * reached.compute,
        attention_flops=hardware.matmul_flops(form.attention) * reached.compute,
        bandwidth_bytes=hardware.bandwidth_bytes * reached.memory,
        kv_bytes=form.kv_bytes / (form.keys_on_cpu if hardware.unit == "cpu" else 1.0),
        layer_s=reached.layer_s if hardware.layer_s is None else hardware.layer_s,
    )


def trunk_work(spec: FamilySpec, layers: Number, form: Format) -> Work:
    """Of a segment with that many layers of the trunk; `layers` may be an array."""
    return _blocks(spec, layers, form.weight_bytes, None)


def branch_work(spec: FamilySpec, exit_: Exit, form: Format) -> Work:
    """Of an exit: its branch, norm and head."""
    branch = _blocks(spec, 0.0 if exit_.branch == "norm" else 1.0, form.branch_bytes, exit_.rank)
    head = float(spec.vocab_size * spec.d_model)
    return replace(branch, head_weights=head, head_bytes=head * form.head_bytes)


def matrices(spec: FamilySpec) -> tuple[tuple[int, int], ...]:
    """(in, out) of a block's linear maps: q, k, v, o, gate, up, down."""
    d, ff, queries, keys = spec.d_model, spec.d_ff, spec.n_heads * spec.head_dim, spec.kv_heads * spec.head_dim
    return ((d, queries), (d, keys), (d, keys), (queries, d), (d, ff), (d, ff), (ff, d))


def _blocks(spec: FamilySpec, layers: Number, weight_bytes: float, rank: int | None) -> Work:
    """Of decoder blocks of the trunk's shape, with each map in two at a rank."""
    weights = sum(min(rank, i, o) * (i + o) if rank else i * o for i, o in matrices(spec))
    queries, keys = spec.n_heads * spec.head_dim, spec.kv_heads * spec.head_dim
    # Two norms and two sums with the residual; rotary embeddings; the MLP's gate.
    activations = (2 * 2 + 2 * 3) * spec.d_model + 2 * (queries + keys) + 3 * spec.d_ff
    return Work(
        layers=layers,
        weights=layers * weights,
        weight_bytes=layers * (weights * weight_bytes),
        activations=layers * activations,
        score_width=layers * queries,
        kv_width=layers * (2 * keys),
    )


def _side(a: Number, b: Number) -> Number:
    side: Number = np.hypot(a, b)
    return side
