"""Reads the quantized matrices of a written graph back as f32, under the names that they have in PyTorch.

Quantization is symmetric in blocks along the input: weight = scale * (q - 2^(bits - 1)). Two values of 4 bits share a
byte, the first in its low half.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from onnx import NodeProto

from exporter.build import read_part
from exporter.graphs import Tensor
from exporter.head import QUANTIZED, QUANTIZED_EMBEDDING
from family.spec import FamilySpec

F32 = npt.NDArray[np.float32]


def stored_matrices(path: Path, spec: FamilySpec, first_layer: int = 0) -> dict[str, F32]:
    """The quantized matrices of an ONNX file, [out, in] each, by the parameter's name in a Hugging Face causal LM.

    `first_layer` is the number that the graph's layer 0 has in PyTorch: exit g's branch is layer l_g of its sub-model.
    """
    part = read_part(path)
    found: dict[str, F32] = {}
    for node in part.nodes:
        if node.op_type == QUANTIZED:
            matrix = _matrix(node, part.weights[node.input[1]], part.weights[node.input[2]])
            found.update(_parameters(node.input[1].partition(".MatMul.")[0], matrix, spec, first_layer))
        elif node.op_type == QUANTIZED_EMBEDDING:
            matrix = _matrix(node, part.weights[node.input[0]], part.weights[node.input[2]])
            found["model.embed_tokens.weight"] = matrix
    return found


def _matrix(node: NodeProto, values: Tensor, scales: Tensor) -> F32:
    """A quantized node's matrix, [out, in], from its blocks' values and their scales."""
    given = {a.name: a.i for a in node.attribute}
    packed = np.frombuffer(values.data, np.uint8)
    if given["bits"] == 4:
        packed = np.stack([packed & 15, packed >> 4], axis=-1)
    blocks = packed.reshape(-1, given["block_size"]).astype(np.float32)
    blocks -= float(1 << (given["bits"] - 1))
    blocks *= np.frombuffer(scales.data, np.float32)[:, None]
    matrix = blocks.reshape(scales.dims[0], -1)
    return matrix[:, : given.get("K", matrix.shape[1])]


def _parameters(builder_name: str, matrix: F32, spec: FamilySpec, first_layer: int) -> Iterator[tuple[str, F32]]:
    """`model.layers.0.attn.qkv_proj` as q_proj, k_proj and v_proj; others under their one name."""
    if not builder_name.startswith("model.layers."):
        yield f"{builder_name}.weight", matrix
        return
    _, _, layer, module, projection = builder_name.split(".")
    prefix = f"model.layers.{int(layer) + first_layer}.{'self_attn' if module == 'attn' else module}"
    if projection != "qkv_proj":
        yield f"{prefix}.{projection}.weight", matrix
        return
    query, key = spec.n_heads * spec.head_dim, spec.kv_heads * spec.head_dim
    for name, rows in zip("qkv", np.split(matrix, [query, query + key]), strict=True):
        yield f"{prefix}.{name}_proj.weight", rows
