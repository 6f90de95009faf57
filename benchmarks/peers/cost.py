"""What one decode step of a bundle has to read and compute, counted in its graphs.

Bytes: every weight once, except tables of which a step reads a few rows (embedding, rotary angles), and the keys and
values of all positions so far. Floating-point operations: two for every weight of a matrix product and cached number.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import onnx

from family.manifest import Graph, Manifest

TABLES = {"Gather": (0,), "GatherBlockQuantized": (0, 2, 3), "GroupQueryAttention": (7, 8)}
"""Inputs of a node that are tables."""
BYTES_PER_CACHED = 4
"""Keys and values are f32."""


@dataclass(frozen=True)
class Cost:
    """Of one decode step."""

    weight_bytes: int
    cache_bytes: int
    flops: int

    @property
    def bytes_read(self) -> int:
        return self.weight_bytes + self.cache_bytes


def step_cost(bundle: Path, manifest: Manifest, exit_: int, position: int) -> Cost:
    """A step at `position` (positions before it) that ends at an exit."""
    graphs = [manifest.graph("segment", index) for index in range(1, exit_ + 1)] + [manifest.graph("exit", exit_)]
    counted = [_weights(bundle, graph) for graph in graphs]
    spec = manifest.spec
    layers = sum(graph.kv_layers for graph in graphs)
    cached = 2 * layers * spec.kv_heads * spec.head_dim * (position + 1)
    attention = 4 * layers * spec.n_heads * spec.head_dim * (position + 1)
    return Cost(
        weight_bytes=sum(read for read, _ in counted),
        cache_bytes=cached * BYTES_PER_CACHED,
        flops=sum(flops for _, flops in counted) + attention,
    )


def _weights(bundle: Path, graph: Graph) -> tuple[int, int]:
    """Bytes of the weights that a step reads in a graph, and the operations of its matrix products."""
    model = onnx.load(str(bundle / graph.files[0]), load_external_data=False).graph
    stored = {tensor.name: tensor for tensor in model.initializer}
    read: set[str] = set()
    flops = 0
    for node in model.node:
        tables = TABLES.get(node.op_type, ())
        read |= {name for i, name in enumerate(node.input) if name in stored and i not in tables}
        if node.op_type == "MatMulNBits":
            sizes = {attribute.name: attribute.i for attribute in node.attribute}
            flops += 2 * sizes["K"] * sizes["N"]
        elif node.op_type in ("MatMul", "MatMulIntegerToFloat", "Gemm") and node.input[1] in stored:
            flops += 2 * math.prod(stored[node.input[1]].dims)
    return sum(_bytes(stored[name]) for name in read), flops


def _bytes(tensor: onnx.TensorProto) -> int:
    where = {entry.key: entry.value for entry in tensor.external_data}
    if "length" in where:
        return int(where["length"])
    return int(onnx.numpy_helper.to_array(tensor).nbytes)
