"""The parts that graphs are made of. What the graphs read and write is in `family.graphs`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from onnx import NodeProto, helper

DOMAIN = "com.microsoft"
"""Of the operators that are ONNX Runtime's own."""
VALUES, SCALES, ZEROS = "_q", "_scales", "_zeros"
"""What the tensors of a quantized weight are called after its own name."""
HEAD_ROWS = "/head/rows"
"""The head's input inside every exit: normed rows, [w, d_model]."""


@dataclass(frozen=True)
class Tensor:
    """A weight: its ONNX type and shape, and its bytes as they lie in a file."""

    data_type: int
    dims: tuple[int, ...]
    data: memoryview


def tensor(content: npt.NDArray[np.generic]) -> Tensor:
    """A weight of the array's content, shape and type."""
    lying = np.ascontiguousarray(content)
    return Tensor(helper.np_dtype_to_tensor_dtype(content.dtype), content.shape, lying.data.cast("B"))


def f32_tensor(content: npt.NDArray[np.float32]) -> Tensor:
    """An f32 weight of the array's content."""
    return tensor(content.astype(np.float32, copy=False))


def f32_array(weight: Tensor) -> npt.NDArray[np.float32]:
    """What `f32_tensor` made a weight of."""
    return np.frombuffer(weight.data, np.float32).reshape(weight.dims)


def read_only(nodes: Sequence[NodeProto], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights that nodes read, by their names in order."""
    read = {name for node in nodes for name in node.input}
    return {name: weights[name] for name in sorted(read & weights.keys())}


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
