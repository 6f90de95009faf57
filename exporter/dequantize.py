"""Reads the quantized matrices of a written graph back as f32, under the names that they have in PyTorch."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from onnx import NodeProto

from exporter.blocks import F32, U8, Blocks, unpacked
from exporter.build import maps_of, read_part
from exporter.graphs import VALUES, Part, Tensor
from exporter.integer import INTEGER, stored
from exporter.quantize import QUANTIZED, QUANTIZED_EMBEDDING
from family.spec import FamilySpec


def stored_matrices(path: Path, spec: FamilySpec, first_layer: int = 0) -> dict[str, F32]:
    """The quantized matrices of an ONNX file, [out, in] each, by the parameter's name in a Hugging Face causal LM.

    `first_layer` is the number that the graph's layer 0 has in PyTorch: exit g's branch is layer l_g of its sub-model.
    """
    part = read_part(path)
    makers = {node.output[0]: node for node in part.nodes}
    found: dict[str, F32] = {}
    for node in part.nodes:
        if node.op_type == QUANTIZED:
            matrix = without_columns(blocks_in(node, part.weights, *node.input[1:]).matrix(), node, makers, part)
            found.update(_parameters(node.input[1], matrix, spec, first_layer))
        elif node.op_type == INTEGER:
            weight = node.input[1].removesuffix(VALUES)
            found.update(_parameters(weight, stored(weight, part.weights).matrix(), spec, first_layer))
        elif node.op_type == QUANTIZED_EMBEDDING:
            values, _, scales = node.input
            found["model.embed_tokens.weight"] = blocks_in(node, part.weights, values, scales).matrix()
    return found


def blocks_in(
    node: NodeProto, weights: Mapping[str, Tensor], values: str, scales: str, zeros: str | None = None
) -> Blocks:
    """A quantized node's matrix, from the tensors of these names."""
    bits, size = (next(a.i for a in node.attribute if a.name == name) for name in ("bits", "block_size"))
    rows = weights[scales].dims[0]

    def whole(name: str, width: int) -> U8:
        return unpacked(np.frombuffer(weights[name].data, np.uint8).reshape(-1, width), bits)

    step = np.frombuffer(weights[scales].data, np.float32).reshape(rows, -1)
    width = len(weights[zeros].data) // rows if zeros else 0
    return Blocks(
        bits,
        whole(values, size * bits // 8).reshape(rows, -1, size),
        step,
        whole(zeros, width)[:, : step.shape[1]] if zeros else None,
    )


def without_columns(matrix: F32, node: NodeProto, makers: Mapping[str, NodeProto], part: Part) -> F32:
    """A product's matrix [out, in], the columns for sums of x put back into the weights that they belong to."""
    extended = makers.get(node.input[0])
    if extended is None or extended.op_type != "Concat":
        return matrix
    _, *sums = extended.input
    ones = part.weights[makers[sums[0]].input[1]]
    inputs, width = ones.dims
    offsets = matrix[:, inputs:].reshape(len(matrix), len(sums), width).sum(1)
    found: F32 = matrix[:, :inputs] + offsets @ np.frombuffer(ones.data, np.float32).reshape(inputs, width).T
    return found


def _parameters(weight: str, matrix: F32, spec: FamilySpec, first_layer: int) -> dict[str, F32]:
    """The matrices of a graph's weight, by the parameters' names in PyTorch."""
    if not weight.startswith("model.layers."):
        return {weight.removesuffix(VALUES): matrix}
    layer, maps = maps_of(weight)
    query, key = spec.n_heads * spec.head_dim, spec.kv_heads * spec.head_dim
    sides = np.split(matrix, [query, query + key]) if len(maps) > 1 else [matrix]
    prefix = f"model.layers.{layer + first_layer}"
    return {f"{prefix}.{name}.weight": rows for name, rows in zip(maps, sides, strict=True)}
