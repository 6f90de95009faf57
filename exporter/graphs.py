"""What a bundle's graphs read and write, and the parts that they are made of.

Every graph works on one sequence (batch 1), with f32 at its boundaries. q rows are the positions of this call.

| graph | inputs | outputs |
|---|---|---|
| `segment-1` | `input_ids` int64[1, q] and attention's inputs | `rows_out` f32[1, q, d_model] and attention's outputs |
| `segment-g` | `rows_in` f32[1, q, d_model] and attention's inputs | the same |
| `exit-g` | `rows_in`, `wanted` int64[w] (indices into q) and, with a branch, attention's | `logits` f32[w, vocab] |

Attention's inputs are `seqlens_k` int32[1], the positions after this call less one; `total_sequence_length` int32[],
the positions after this call; `past_key_i` and `past_value_i`, f32[1, kv_heads, slots, head_dim]. Its outputs are
`present_key_i` and `present_value_i` of the same shape, to be bound to the same memory: a call writes the slots
total - q .. total, the last of which is scratch. So `slots` is at least the positions plus one, and going back is to
call with a smaller total. i counts the graph's own attention layers from 0.

A row's result does not depend on the rows that are computed with it (`exporter.attention`).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from onnx import NodeProto, TensorProto

INPUT_IDS = "input_ids"
ROWS_IN = "rows_in"
ROWS_OUT = "rows_out"
WANTED = "wanted"
LOGITS = "logits"
SEQLENS_K = "seqlens_k"
TOTAL = "total_sequence_length"

HEAD_ROWS = "/head/rows"
"""The head's input inside every exit: normed rows, [w, d_model]."""


def past_names(layer: int) -> tuple[str, str]:
    """Inputs that hold the keys and values of a graph's attention layer `layer`."""
    return f"past_key_{layer}", f"past_value_{layer}"


def present_names(layer: int) -> tuple[str, str]:
    """Outputs that hold the keys and values of a graph's attention layer `layer`."""
    return f"present_key_{layer}", f"present_value_{layer}"


@dataclass(frozen=True)
class Tensor:
    """A weight: its ONNX type and shape, and its bytes as they lie in a file."""

    data_type: int
    dims: tuple[int, ...]
    data: memoryview


def f32_tensor(array: npt.NDArray[np.float32]) -> Tensor:
    """An f32 weight of the array's content."""
    array = np.ascontiguousarray(array, np.float32)
    return Tensor(TensorProto.FLOAT, array.shape, array.data.cast("B"))


@dataclass(frozen=True)
class Part:
    """Nodes in topological order and the weights that they read."""

    nodes: list[NodeProto]
    weights: Mapping[str, Tensor]


@dataclass(frozen=True)
class Piece(Part):
    """A graph of the bundle before it is written."""

    output: str
    """`rows_out` or `logits`."""
    kv_layers: int
