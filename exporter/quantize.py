"""Quantizes the matrices of a graph: products in blocks of 4 bits or in whole numbers; head and embedding in 8 bits.

Whole numbers are `exporter.integer`'s. Blocks are here: `MatMulNBits` of products and of the head, which reads few rows
and shares its bytes with the embedding, and `GatherBlockQuantized` of that.

The kernel of `MatMulNBits` knows blocks with a whole zero point only: rounding the offsets to it loses 5%, and float
zero points are a hundred times slower. So a product whose matrix has offsets reads x and the sums of x over blocks of
32, and the matrix has the offsets as further columns (`exporter.blocks`), which is less work than a product of its own
beside it. The sums are made once for all matrices that read x.
"""

from collections.abc import Mapping

import numpy as np
from onnx import NodeProto, helper

from exporter.blocks import (
    BLOCK,
    Blocks,
    digits,
    eight_bits,
    four_bits,
    packed,
    with_columns,
)
from exporter.graphs import DOMAIN, SCALES, VALUES, ZEROS, Piece, Tensor, f32_array, f32_tensor, read_only, tensor
from exporter.head import EMBEDDED
from exporter.integer import integer_products

QUANTIZED, QUANTIZED_EMBEDDING = "MatMulNBits", "GatherBlockQuantized"
INT8_ACTIVATIONS = 4
"""The kernel's accuracy level that rounds x to 8 bits, block by block: the fast one."""


def quantize(piece: Piece, bits: int) -> Piece:
    """The graph with its products' matrices in blocks of 4 bits or in whole numbers of 8; head and embedding are in 8.

    Raises `ExportError` for a matrix that does not fall into blocks.
    """
    if bits == 8:
        piece = integer_products(piece)
    found = {id(node): blocks for node in piece.nodes if (blocks := blocks_of(node, piece.weights))}
    copies: dict[str, int] = {}
    for node in piece.nodes:
        if id(node) in found and (offsets := found[id(node)].offsets) is not None:
            copies[node.input[0]] = max(copies.get(node.input[0], 0), len(digits(offsets)))
    nodes: list[NodeProto] = []
    weights: dict[str, Tensor] = {}
    extended: set[str] = set()
    for node in piece.nodes:
        blocks = found.get(id(node))
        if blocks is None:
            nodes.append(node)
        elif node.op_type == "Gather":
            nodes.append(embedding(node, blocks))
            weights |= tensors(node.input[0], blocks, flat=True)
        elif blocks.offsets is None:
            nodes.append(product(node, node.input[0], blocks))
            weights |= tensors(node.input[1], blocks)
        else:
            x = node.input[0]
            if x not in extended:
                extended.add(x)
                nodes += with_sums(x, blocks.scales.shape[1], copies[x], weights)
            blocks = with_columns(blocks, copies[x])
            nodes.append(product(node, f"{x}/extended", blocks))
            weights |= tensors(node.input[1], blocks)
    return Piece(nodes, read_only(nodes, {**piece.weights, **weights}), piece.output, piece.kv_layers)


def blocks_of(node: NodeProto, weights: Mapping[str, Tensor]) -> Blocks | None:
    """The matrix of a product in 4 bits, of the head or of the embedding in 8; none for other nodes."""
    if node.op_type == "MatMul" and node.input[1] in weights:
        return four_bits(np.ascontiguousarray(f32_array(weights[node.input[1]]).T))
    if node.op_type == "Gemm" and node.input[1] in weights:
        return eight_bits(f32_array(weights[node.input[1]]))
    if node.op_type == "Gather" and EMBEDDED in node.output:
        return eight_bits(f32_array(weights[node.input[0]]))
    return None


def with_sums(x: str, blocks: int, copies: int, weights: dict[str, Tensor]) -> list[NodeProto]:
    """The nodes that make `x/extended`: x, and `copies` times its sums, filled up to blocks with zeros.

    Their one weight, which is the same for all x of a width, is put into `weights`.
    """
    pool, sums = f"/sums/{blocks}", f"{x}/sums"
    ones = np.repeat(np.eye(blocks, -(-blocks // BLOCK) * BLOCK, dtype=np.float32), BLOCK, axis=0)
    weights[pool] = f32_tensor(ones)
    return [
        helper.make_node("MatMul", [x, pool], [sums], name=f"{sums}/MatMul"),
        helper.make_node("Concat", [x, *[sums] * copies], [f"{x}/extended"], name=f"{x}/extended/Concat", axis=-1),
    ]


def product(node: NodeProto, x: str, blocks: Blocks) -> NodeProto:
    """What takes the place of a product with a constant: one of `x` with the constant's blocks."""
    weight = node.input[1]
    zeros = [weight + ZEROS] if blocks.zeros is not None else []
    rows, n_blocks = blocks.scales.shape
    return helper.make_node(
        QUANTIZED,
        [x, weight + VALUES, weight + SCALES, *zeros],
        list(node.output),
        name=node.name,
        domain=DOMAIN,
        K=n_blocks * blocks.size,
        N=rows,
        bits=blocks.bits,
        block_size=blocks.size,
        accuracy_level=INT8_ACTIVATIONS,
    )


def embedding(node: NodeProto, blocks: Blocks) -> NodeProto:
    """What takes the place of the embedding. It reads the bytes that a tied head has."""
    weight, ids = node.input
    return helper.make_node(
        QUANTIZED_EMBEDDING,
        [weight + VALUES, ids, weight + SCALES],
        list(node.output),
        name=node.name,
        domain=DOMAIN,
        bits=blocks.bits,
        block_size=blocks.size,
        gather_axis=0,
        quantize_axis=1,
    )


def tensors(weight: str, blocks: Blocks, *, flat: bool = False) -> dict[str, Tensor]:
    """The tensors of a quantized weight; `flat` has the values in two dimensions."""
    values = packed(blocks.q, blocks.bits)
    found = {
        weight + VALUES: tensor(values.reshape(len(values), -1) if flat else values),
        weight + SCALES: f32_tensor(blocks.scales),
    }
    if blocks.zeros is not None:
        found[weight + ZEROS] = tensor(packed(blocks.zeros, blocks.bits))
    return found
