"""Attention's inputs and outputs: the rows of several sequences in one call, each with its own keys and values.

Everything else in a graph works row by row and is given the rows of all sequences one after the other. Attention is
given them by sequence, padded to the longest; `query_seqlens` tells it how many count. One of these is a dummy: the
kernel takes another path for one row than for several, and the two differ in the last bit. What is padding, and which
row is the dummy, is the caller's to say (`family.graphs`).
"""

from collections.abc import Sequence

from onnx import NodeProto, helper

from exporter.nodes import copied
from family.graphs import PADDED_ROWS, QUERY_SEQLENS, SEQLENS_K, TOTAL, TRUE_ROWS, past_names, present_names

ATTENTION = "GroupQueryAttention"
QUERY_KEY_VALUE = range(3)
PAST = (3, 4)
SEQLENS_INPUT, TOTAL_INPUT = 5, 6
QUERY_SEQLENS_INPUT = 16


def bind_attention(nodes: Sequence[NodeProto]) -> tuple[list[NodeProto], int]:
    """Bind attention to the bundle's inputs and outputs. Returns the nodes and its layers' number."""
    result: list[NodeProto] = []
    layers = 0
    for node in nodes:
        if node.op_type == ATTENTION:
            result.extend(by_sequence(node, layers))
            layers += 1
        else:
            result.append(node)
    return result, layers


def by_sequence(attention: NodeProto, layer: int) -> list[NodeProto]:
    """The attention node over rows [b, s, width], and what makes these of rows [1, q, width], and of its output."""
    node = copied(attention)
    before = []
    for i in QUERY_KEY_VALUE:
        if node.input[i]:
            before += regrouped(node.input[i], PADDED_ROWS, f"{node.input[i]}/by_sequence")
            node.input[i] = f"{node.input[i]}/by_sequence"
    for i, name in zip(PAST, past_names(layer), strict=True):
        node.input[i] = name
    node.input[SEQLENS_INPUT] = SEQLENS_K
    node.input[TOTAL_INPUT] = TOTAL
    node.input.extend([""] * (QUERY_SEQLENS_INPUT + 1 - len(node.input)))
    node.input[QUERY_SEQLENS_INPUT] = QUERY_SEQLENS
    rows = node.output[0]
    node.output[0] = f"{rows}/by_sequence"
    for i, name in enumerate(present_names(layer), start=1):
        node.output[i] = name
    return [*before, node, *regrouped(node.output[0], TRUE_ROWS, rows)]


def regrouped(rows: str, which: str, name: str) -> list[NodeProto]:
    """Rows [i, j, width], one after the other, in the order and the shape of their indices `which` [k, l]."""
    flat = f"{name}/flat"
    return [
        helper.make_node("Flatten", [rows], [flat], name=f"{flat}/Flatten", axis=2),
        helper.make_node("Gather", [flat, which], [name], name=f"{name}/Gather", axis=0),
    ]


def pick(rows: str, which: str, name: str) -> NodeProto:
    """The rows of [1, q, width] with the indices `which`."""
    return helper.make_node("Gather", [rows, which], [name], name=f"{name}/Gather", axis=1)
