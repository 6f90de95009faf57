"""Reads the quantized matrices of a written graph back as f32, under the names that they have in PyTorch."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from onnx import NodeProto

from exporter.blocks import BLOCK, F32, Blocks, unpacked
from exporter.build import read_part
from exporter.graphs import Tensor
from exporter.quantize import OFFSETS, QUANTIZED, QUANTIZED_EMBEDDING, VALUES
from family.spec import FamilySpec


def stored_matrices(path: Path, spec: FamilySpec, first_layer: int = 0) -> dict[str, F32]:
    """The quantized matrices of an ONNX file, [out, in] each, by the parameter's name in a Hugging Face causal LM.

    `first_layer` is the number that the graph's layer 0 has in PyTorch: exit g's branch is layer l_g of its sub-model.
    """
    part = read_part(path)
    found: dict[str, F32] = {}
    for node in part.nodes:
        if node.op_type == QUANTIZED:
            matrix = _blocks(node, node.input[1], node.input[2], part.weights).matrix()
            found.update(_parameters(node.input[1].partition(".MatMul.")[0], matrix, spec, first_layer))
        elif node.op_type == QUANTIZED_EMBEDDING:
            found["model.embed_tokens.weight"] = _blocks(node, node.input[0], node.input[2], part.weights).matrix()
    return found


def _blocks(node: NodeProto, values: str, scales: str, weights: Mapping[str, Tensor]) -> Blocks:
    """A quantized node's matrix from its tensors."""
    bits = next(a.i for a in node.attribute if a.name == "bits")
    q = unpacked(np.frombuffer(weights[values].data, np.uint8).reshape(-1, BLOCK * bits // 8), bits)
    offsets = weights.get(values.removesuffix(VALUES) + OFFSETS)
    rows = weights[scales].dims[0]
    return Blocks(
        bits,
        q.reshape(rows, -1, BLOCK),
        np.frombuffer(weights[scales].data, np.float32).reshape(rows, -1),
        None if offsets is None else np.frombuffer(offsets.data, np.float32).reshape(-1, rows).T,
    )


def _parameters(builder_name: str, matrix: F32, spec: FamilySpec, first_layer: int) -> Iterator[tuple[str, F32]]:
    """`model.layers.0.attn.qkv_proj` as q_proj, k_proj and v_proj; others under their one name."""
    if not builder_name.startswith("model.layers."):
        yield f"{builder_name.removesuffix('.weight' + VALUES)}.weight", matrix
        return
    _, _, layer, module, projection = builder_name.split(".")
    prefix = f"model.layers.{int(layer) + first_layer}.{'self_attn' if module == 'attn' else module}"
    if projection != "qkv_proj":
        yield f"{prefix}.{projection}.weight", matrix
        return
    query, key = spec.n_heads * spec.head_dim, spec.kv_heads * spec.head_dim
    for name, rows in zip("qkv", np.split(matrix, [query, query + key]), strict=True):
        yield f"{prefix}.{name}_proj.weight", rows
