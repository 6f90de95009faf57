"""The parts that graphs are made of. What the graphs read and write is in `family.graphs`."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from onnx import NodeProto, TensorProto

HEAD_ROWS = "/head/rows"
"""The head's input inside every exit: normed rows, [w, d_model]."""


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
