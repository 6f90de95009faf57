"""Attention's inputs and outputs, and the dummy row that makes a row's result independent of its chunk.

The kernel takes another path for one row than for several, and the two differ in the last bit. So every call has a
row more: a copy of the last one, at the next position, whose output is dropped and whose slot the next call overwrites.
"""

from collections.abc import Sequence

import numpy as np
from onnx import NodeProto, helper

from exporter.graphs import SEQLENS_K, TOTAL, past_names, present_names
from exporter.nodes import constant, copied

ATTENTION = "GroupQueryAttention"
QUERY_KEY_VALUE = range(3)
PAST = (3, 4)
SEQLENS_INPUT, TOTAL_INPUT = 5, 6
PADDED_SEQLENS, PADDED_TOTAL = f"/pad/{SEQLENS_K}", f"/pad/{TOTAL}"


def bind_attention(nodes: Sequence[NodeProto]) -> tuple[list[NodeProto], int]:
    """Bind attention to the bundle's inputs and outputs, with a dummy row. Returns the nodes and its layers' number."""
    result: list[NodeProto] = []
    layers = 0
    for node in nodes:
        if node.op_type != ATTENTION:
            result.append(node)
            continue
        if layers == 0:
            result.extend(pad_lengths())
        result.extend(padded(node, layers))
        layers += 1
    return result, layers


def pad_lengths() -> list[NodeProto]:
    """Both lengths and one, once for the graph, and the constants that cut rows."""
    return [
        constant("/pad/one", 1, np.int32),
        constant("/pad/first", [0]),
        constant("/pad/last", [-1]),
        constant("/pad/end", [np.iinfo(np.int64).max]),
        constant("/pad/axis", [1]),
        helper.make_node("Add", [SEQLENS_K, "/pad/one"], [PADDED_SEQLENS], name=f"{PADDED_SEQLENS}/Add"),
        helper.make_node("Add", [TOTAL, "/pad/one"], [PADDED_TOTAL], name=f"{PADDED_TOTAL}/Add"),
    ]


def padded(attention: NodeProto, layer: int) -> list[NodeProto]:
    """The attention node over one row more, and what adds and drops that row."""
    node = copied(attention)
    before = []
    for i in QUERY_KEY_VALUE:
        if node.input[i]:
            before.extend(repeat_last(node.input[i]))
            node.input[i] = f"{node.input[i]}/padded"
    for i, name in zip(PAST, past_names(layer), strict=True):
        node.input[i] = name
    node.input[SEQLENS_INPUT] = PADDED_SEQLENS
    node.input[TOTAL_INPUT] = PADDED_TOTAL
    true_rows = node.output[0]
    node.output[0] = f"{true_rows}/padded"
    for i, name in enumerate(present_names(layer), start=1):
        node.output[i] = name
    drop = helper.make_node(
        "Slice",
        [node.output[0], "/pad/first", "/pad/last", "/pad/axis"],
        [true_rows],
        name=f"{true_rows}/drop",
    )
    return [*before, node, drop]


def repeat_last(rows: str) -> list[NodeProto]:
    """`rows` [1, q, width] with their last row twice."""
    last, both = f"{rows}/last", f"{rows}/padded"
    return [
        helper.make_node("Slice", [rows, "/pad/last", "/pad/end", "/pad/axis"], [last], name=f"{last}/Slice"),
        helper.make_node("Concat", [rows, last], [both], name=f"{both}/Concat", axis=1),
    ]
