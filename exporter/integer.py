"""Products in whole numbers: x in 8 bits, a scale for each row; weights in 8 bits, a scale for each output.

The sums of products are 32-bit integers, which are exact in any order: how many rows a call has, and which kernel a CPU
picks for them, changes no bit. x is rounded once for all products that read it.

x86 CPUs without VNNI first add the products of each two neighbouring inputs in 16 bits, which saturate where both
weights are large, of one sign, and their inputs large and positive. Rows do not depend on their chunk there either, but
are not those of other CPUs. What cannot saturate costs more than it gives, in nats on SmolLM2-135M: weights of 7 bits
0.0096, weights of 8 bits whose neighbours are within 128 together 0.029.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from onnx import NodeProto, helper

from exporter.blocks import F32
from exporter.graphs import DOMAIN, SCALES, VALUES, Piece, Tensor, f32_array, f32_tensor, read_only, tensor

INTEGER = "MatMulIntegerToFloat"
LARGEST = 127
"""Of a weight's size."""
STEPS = 127
"""Of a row's largest number."""
STEP, ZERO, AXIS = "/integer/step", "/integer/zero", "/integer/axis"
"""Weights that all of these products share: a step of x / max|x|, what stands for 0, the axis of a row."""

I8 = npt.NDArray[np.int8]


@dataclass(frozen=True)
class Whole:
    """A matrix [out, in] in whole numbers: weight = scale * q."""

    q: I8
    """[out, in]."""
    scales: F32
    """[out]."""

    def matrix(self) -> F32:
        """The weights, [out, in]."""
        found: F32 = self.q * self.scales[:, None]
        return found


def integer_products(piece: Piece) -> Piece:
    """The graph with its products with constant matrices in whole numbers. The head, a `Gemm`, is none of them."""
    nodes: list[NodeProto] = []
    weights = dict(piece.weights)
    done: set[str] = set()
    for node in piece.nodes:
        if node.op_type != "MatMul" or node.input[1] not in piece.weights:
            nodes.append(node)
            continue
        x, weight = node.input
        if x not in done:
            done.add(x)
            nodes += rounded(x, weights)
        nodes += product(node)
        weights |= tensors(weight, whole(f32_array(piece.weights[weight]).T))
    return Piece(nodes, read_only(nodes, weights), piece.output, piece.kv_layers)


def whole(matrix: F32) -> Whole:
    """The nearest whole numbers of 1/127 of each output's largest weight."""
    scales = np.abs(matrix).max(1) / np.float32(LARGEST)
    q = np.rint(matrix / np.where(scales == 0, np.float32(1), scales)[:, None])
    return Whole(q.astype(np.int8), scales)


def rounded(x: str, weights: dict[str, Tensor]) -> list[NodeProto]:
    """The nodes that make `x/largest`, each row's largest size [1, q, 1], and `x/whole`, x in steps of 1/127 of it.

    A row of zeros gives zeros: 0 / 0 rounds to some whole number, which its products multiply by a largest size of 0.
    Their weights, which are the same for all x, are put into `weights`.
    """
    weights[STEP] = tensor(np.array(1 / STEPS, np.float32))
    weights[ZERO] = tensor(np.array(128, np.uint8))
    weights[AXIS] = tensor(np.array([-1], np.int64))
    size, largest, share = f"{x}/size", f"{x}/largest", f"{x}/share"
    return [
        helper.make_node("Abs", [x], [size], name=f"{size}/Abs"),
        helper.make_node("ReduceMax", [size, AXIS], [largest], name=f"{largest}/ReduceMax", keepdims=1),
        helper.make_node("Div", [x, largest], [share], name=f"{share}/Div"),
        helper.make_node("QuantizeLinear", [share, STEP, ZERO], [f"{x}/whole"], name=f"{x}/whole/QuantizeLinear"),
    ]


def product(node: NodeProto) -> list[NodeProto]:
    """What takes the place of a product with a constant, where its x is `rounded`."""
    x, weight = node.input
    shares = f"{node.output[0]}/shares"
    return [
        helper.make_node(
            INTEGER,
            [f"{x}/whole", weight + VALUES, STEP, weight + SCALES, ZERO],
            [shares],
            name=node.name,
            domain=DOMAIN,
        ),
        helper.make_node("Mul", [shares, f"{x}/largest"], list(node.output), name=f"{shares}/Mul"),
    ]


def tensors(weight: str, matrix: Whole) -> dict[str, Tensor]:
    """The tensors of a weight in whole numbers; the kernel reads them as [in, out]."""
    return {weight + VALUES: tensor(matrix.q.T), weight + SCALES: f32_tensor(matrix.scales)}


def stored(weight: str, weights: Mapping[str, Tensor]) -> Whole:
    """What `tensors` made tensors of."""
    values = weights[weight + VALUES]
    q = np.frombuffer(values.data, np.int8).reshape(values.dims).T
    return Whole(q, np.frombuffer(weights[weight + SCALES].data, np.float32))
