"""Quantizes the matrices of a graph: `MatMulNBits` in place of products, `GatherBlockQuantized` of the embedding.

The kernel knows symmetric grids only (rounded zero points lose 5%, float ones are a hundred times slower), so a block's
offset is added beside it, exactly: with S the sums of x over blocks of 32, x W = x (W - offsets) + S offsets. The sums
are made once for all matrices that read x.
"""

from collections.abc import Mapping

import numpy as np
from onnx import NodeProto, TensorProto, helper

from exporter.blocks import BLOCK, F32, Blocks, eight_bits, exact_four_bits, four_bits
from exporter.graphs import Piece, Tensor, f32_tensor
from exporter.head import EMBEDDED

QUANTIZED, QUANTIZED_EMBEDDING = "MatMulNBits", "GatherBlockQuantized"
VALUES, SCALES, OFFSETS = "_q", "_scales", "_offsets"
"""What the tensors of a quantized weight are called after its own name."""
INT8_ACTIVATIONS = 4
"""The kernel's accuracy level that rounds x to 8 bits, block by block: the fast one."""
DOMAIN = "com.microsoft"

Quantized = tuple[list[NodeProto], dict[str, Tensor]]
"""What takes a node's place, and the tensors that it reads."""


def quantize(piece: Piece, bits: int) -> Piece:
    """The graph with its products' matrices in `bits` bits, 4 or 8; the head and the embedding are in 8.

    Raises `ExportError` for a matrix that does not fall into blocks.
    """
    nodes: list[NodeProto] = []
    weights: dict[str, Tensor] = {}
    known: set[str] = set()
    for node in piece.nodes:
        made, tensors = _quantized(node, piece.weights, bits)
        nodes += [one for one in made if one.output[0] not in known]  # another matrix may have had the same sums made
        known |= {one.output[0] for one in made}
        weights |= tensors
    read = {name for node in nodes for name in node.input}
    weights |= {name: tensor for name, tensor in piece.weights.items() if name in read}
    return Piece(nodes, dict(sorted(weights.items())), piece.output, piece.kv_layers)


def _quantized(node: NodeProto, weights: Mapping[str, Tensor], bits: int) -> Quantized:
    if node.op_type == "MatMul" and node.input[1] in weights:
        matrix = np.ascontiguousarray(_array(weights[node.input[1]]).T)
        return product(node, eight_bits(matrix) if bits == 8 else exact_four_bits(matrix) or four_bits(matrix))
    if node.op_type == "Gemm" and node.input[1] in weights:
        return product(node, eight_bits(_array(weights[node.input[1]])))
    if node.op_type == "Gather" and EMBEDDED in node.output:
        return embedding(node, eight_bits(_array(weights[node.input[0]])))
    return [node], {}


def product(node: NodeProto, blocks: Blocks) -> Quantized:
    """The product of x and a constant matrix: that without offsets, and their share beside it."""
    (x, weight), (out,) = node.input, node.output
    rows, n_blocks = blocks.scales.shape
    tensors = {weight + VALUES: _u8_tensor(blocks.packed()), weight + SCALES: f32_tensor(blocks.scales)}
    plain = out if blocks.offsets is None else f"{out}/plain"
    times = helper.make_node(
        QUANTIZED,
        [x, weight + VALUES, weight + SCALES],
        [plain],
        name=node.name,
        domain=DOMAIN,
        K=n_blocks * BLOCK,
        N=rows,
        bits=blocks.bits,
        block_size=BLOCK,
        accuracy_level=INT8_ACTIVATIONS,
    )
    if blocks.offsets is None:
        return [times], tensors
    pool = f"/sums/{n_blocks}"
    tensors[pool] = f32_tensor(np.repeat(np.eye(n_blocks, dtype=np.float32), BLOCK, axis=0))
    tensors[weight + OFFSETS] = f32_tensor(blocks.offsets.T)
    sums, share = f"{x}/sums", f"{out}/offsets"
    return [
        helper.make_node("MatMul", [x, pool], [sums], name=f"{sums}/MatMul"),
        helper.make_node("MatMul", [sums, weight + OFFSETS], [share], name=f"{share}/MatMul"),
        times,
        helper.make_node("Add", [plain, share], [out], name=f"{out}/Add"),
    ], tensors


def embedding(node: NodeProto, blocks: Blocks) -> Quantized:
    """The rows of a quantized embedding. Its bytes are those that a tied head has."""
    weight, ids = node.input
    rows = len(blocks.scales)
    gather = helper.make_node(
        QUANTIZED_EMBEDDING,
        [weight + VALUES, ids, weight + SCALES],
        list(node.output),
        name=node.name,
        domain=DOMAIN,
        bits=blocks.bits,
        block_size=BLOCK,
        gather_axis=0,
        quantize_axis=1,
    )
    values = _u8_tensor(blocks.packed().reshape(rows, -1))
    return [gather], {weight + VALUES: values, weight + SCALES: f32_tensor(blocks.scales)}


def _array(tensor: Tensor) -> F32:
    return np.frombuffer(tensor.data, np.float32).reshape(tensor.dims)


def _u8_tensor(array: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> Tensor:
    array = np.ascontiguousarray(array)
    return Tensor(TensorProto.UINT8, array.shape, array.data.cast("B"))
