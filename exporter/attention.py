"""Attention's inputs and outputs, and the dummy row that makes a row's result independent of its chunk.

The kernel takes another path for one row than for several, and the two differ in the last bit. So every call has a
row more: a copy of the last one, at the next position, whose output is dropped and whose slot the next call overwrites.
Rows are picked by `Gather`, which costs a third of `Slice` here.
"""

from collections.abc import Sequence

import numpy as np
from onnx import NodeProto, helper

from exporter.nodes import constant, copied
from family.graphs import SEQLENS_K, TOTAL, past_names, present_names

ATTENTION = "GroupQueryAttention"
QUERY_KEY_VALUE = range(3)
PAST = (3, 4)
SEQLENS_INPUT, TOTAL_INPUT = 5, 6
PADDED_SEQLENS, PADDED_TOTAL = f"/pad/{SEQLENS_K}", f"/pad/{TOTAL}"
TRUE_ROWS, PADDED_ROWS = "/pad/true_rows", "/pad/rows"
"""Indices 0 .. q - 1, and 0 .. q - 1, q - 1."""


def bind_attention(nodes: Sequence[NodeProto]) -> tuple[list[NodeProto], int]:
    """Bind attention to the bundle's inputs and outputs, with a dummy row. Returns the nodes and its layers' number."""
    result: list[NodeProto] = []
    layers = 0
    for node in nodes:
        if node.op_type != ATTENTION:
            result.append(node)
            continue
        if layers == 0:
            result.extend(indices(node.input[0]))
        result.extend(padded(node, layers))
        layers += 1
    return result, layers


def indices(rows: str) -> list[NodeProto]:
    """What all attention layers of a graph share: both lengths and one, and the indices of `rows` [1, q, width]."""
    return [
        constant("/pad/one", 1, np.int32),
        helper.make_node("Add", [SEQLENS_K, "/pad/one"], [PADDED_SEQLENS], name=f"{PADDED_SEQLENS}/Add"),
        helper.make_node("Add", [TOTAL, "/pad/one"], [PADDED_TOTAL], name=f"{PADDED_TOTAL}/Add"),
        constant("/pad/zero", 0),
        constant("/pad/step", 1),
        constant("/pad/last", [-1]),
        helper.make_node("Shape", [rows], ["/pad/shape"], name="/pad/Shape", start=1, end=2),
        helper.make_node("Squeeze", ["/pad/shape"], ["/pad/count"], name="/pad/Squeeze"),
        helper.make_node("Range", ["/pad/zero", "/pad/count", "/pad/step"], [TRUE_ROWS], name=f"{TRUE_ROWS}/Range"),
        helper.make_node("Add", ["/pad/shape", "/pad/last"], ["/pad/last_row"], name="/pad/last_row/Add"),
        helper.make_node("Concat", [TRUE_ROWS, "/pad/last_row"], [PADDED_ROWS], name=f"{PADDED_ROWS}/Concat", axis=0),
    ]


def padded(attention: NodeProto, layer: int) -> list[NodeProto]:
    """The attention node over one row more, and what adds and drops that row."""
    node = copied(attention)
    before = []
    for i in QUERY_KEY_VALUE:
        if node.input[i]:
            before.append(pick(node.input[i], PADDED_ROWS, f"{node.input[i]}/padded"))
            node.input[i] = f"{node.input[i]}/padded"
    for i, name in zip(PAST, past_names(layer), strict=True):
        node.input[i] = name
    node.input[SEQLENS_INPUT] = PADDED_SEQLENS
    node.input[TOTAL_INPUT] = PADDED_TOTAL
    true_rows = node.output[0]
    node.output[0] = f"{true_rows}/padded"
    for i, name in enumerate(present_names(layer), start=1):
        node.output[i] = name
    return [*before, node, pick(node.output[0], TRUE_ROWS, true_rows)]


def pick(rows: str, which: str, name: str) -> NodeProto:
    """The rows of [1, q, width] with the indices `which`."""
    return helper.make_node("Gather", [rows, which], [name], name=f"{name}/Gather", axis=1)
