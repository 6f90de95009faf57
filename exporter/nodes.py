"""Small surgery on lists of ONNX nodes in topological order."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
from onnx import NodeProto, helper, numpy_helper


def constant(name: str, value: npt.ArrayLike, kind: type[np.generic] = np.int64) -> NodeProto:
    """A constant node that gives `name`."""
    tensor = numpy_helper.from_array(np.array(value, kind))
    return helper.make_node("Constant", [], [name], name=f"{name}/Constant", value=tensor)


def copied(node: NodeProto) -> NodeProto:
    """A copy, to be changed."""
    copy = NodeProto()
    copy.CopyFrom(node)
    return copy


def renamed(node: NodeProto, inputs: Mapping[str, str]) -> NodeProto:
    """A copy of `node` that reads the new names."""
    copy = copied(node)
    for i, name in enumerate(copy.input):
        copy.input[i] = inputs.get(name, name)
    return copy


def ancestors(nodes: Sequence[NodeProto], outputs: Iterable[str], entry: str | None = None) -> list[NodeProto]:
    """The nodes that `outputs` depend on, in their order, down to the node named `entry` and no further."""
    needed = set(outputs)
    kept = []
    for node in reversed(nodes):
        if needed.isdisjoint(filter(None, node.output)):
            continue
        kept.append(node)
        if entry is None or node.name != entry:
            needed.update(node.input)
    return kept[::-1]
