"""Cuts the builder's graphs at the residual stream: segments of the trunk, and exits with and without a branch.

The residual stream enters layer l at the layer's input norm, a `SkipSimplifiedLayerNormalization(residual, update)`
that first adds the two. A graph that ends there ends with that addition; a graph that begins there begins with
`SkipSimplifiedLayerNormalization(rows, 0 * rows)`, which gives the same bits as the uncut graph.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from onnx import NodeProto, helper

from exporter.attention import ATTENTION, bind_attention, pick
from exporter.errors import VERSIONS, ExportError
from exporter.graphs import HEAD_ROWS, Part, Piece, Tensor
from exporter.nodes import ancestors, constant, renamed
from family.graphs import LOGITS, ROWS_IN, ROWS_OUT, WANTED

SKIP_NORM = "SkipSimplifiedLayerNormalization"
NORMS = (SKIP_NORM, "SimplifiedLayerNormalization")


def segment(base: Part, embedding: Part, first_layer: int, last_layer: int) -> Piece:
    """Trunk layers first_layer..last_layer - 1 of the base's graph; with the embedding where first_layer is 0."""
    end = norm_before(base, last_layer)
    entry = norm_before(base, first_layer).name if first_layer else None
    nodes = ancestors(base.nodes, end.input[:2], entry)
    nodes = enter(nodes, entry, ROWS_IN) if entry else [*embedding.nodes, *nodes]
    add = helper.make_node("Add", list(end.input[:2]), [ROWS_OUT], name=f"/{ROWS_OUT}/Add")
    return finish([*nodes, add], {**base.weights, **embedding.weights}, ROWS_OUT)


def branch_exit(branch: Part, head: Part) -> Piece:
    """An exit with a branch: the branch's one-layer graph, then `head` on the rows that are wanted.

    All q rows pass attention, since later rows attend to them; what follows it, only those that are wanted.
    """
    norms = [node for node in branch.nodes if node.op_type in NORMS]
    rows = norms[0].input[0]
    attention = next(node for node in branch.nodes if node.op_type == ATTENTION)
    after = branch.nodes.index(attention) + 1
    before = enter([renamed(node, {rows: ROWS_IN}) for node in branch.nodes[:after]], norms[0].name, ROWS_IN)
    wanted = {attention.output[0]: "/wanted/attention", rows: "/wanted/rows"}
    gathers = [pick(attention.output[0], WANTED, "/wanted/attention"), pick(ROWS_IN, WANTED, "/wanted/rows")]
    rest = [renamed(node, wanted) for node in branch.nodes[after:]]
    return exit_piece([*before, *gathers, *rest], norms[-1], branch.weights, head)


def plain_exit(base: Part, n_layers: int, head: Part, norm_weight: Tensor | None = None) -> Piece:
    """An exit without a branch: a norm and the head, on the rows that are wanted.

    The norm is the base's final one, with `norm_weight` for its weight where an early exit has its own.
    """
    norm = norm_before(base, n_layers)
    nodes = [pick(ROWS_IN, WANTED, "/wanted/rows"), *enter([norm], norm.name, "/wanted/rows")]
    weights = dict(base.weights)
    if norm_weight is not None:
        weights[norm.input[-1]] = norm_weight
    return exit_piece(nodes, norm, weights, head)


def exit_piece(nodes: Sequence[NodeProto], norm: NodeProto, weights: Mapping[str, Tensor], head: Part) -> Piece:
    """`nodes` up to the last norm, [1, w, d_model], then the head on its rows."""
    width = weights[norm.input[-1]].dims[0]
    flat = [
        constant("/head/shape", [-1, width]),
        helper.make_node("Reshape", [norm.output[0], "/head/shape"], [HEAD_ROWS], name="/head/Reshape"),
    ]
    return finish([*nodes, *flat, *head.nodes], {**weights, **head.weights}, LOGITS)


def finish(nodes: Sequence[NodeProto], weights: Mapping[str, Tensor], output: str) -> Piece:
    """Bind attention to the bundle's inputs and outputs; keep only what `output` depends on."""
    bound, kv_layers = bind_attention(nodes)
    kept = ancestors(bound, [output])
    read = {name for node in kept for name in node.input}
    return Piece(kept, {name: weights[name] for name in sorted(read & set(weights))}, output, kv_layers)


def norm_before(base: Part, layer: int) -> NodeProto:
    """The skip norm that the residual stream enters layer `layer` by (the final norm after the last layer)."""
    names = [f"/model/layers.{layer}/{kind}_layernorm/SkipLayerNorm" for kind in ("input", "final_norm")]
    for node in base.nodes:
        if node.name in names and node.op_type == SKIP_NORM:
            return node
    raise ExportError(
        f"the model builder's graph has no skip norm before layer {layer}: this architecture, or this release of "
        f"onnxruntime-genai, is not supported; give another base, or {VERSIONS}"
    )


def enter(nodes: Sequence[NodeProto], norm: str, rows: str) -> list[NodeProto]:
    """Let the norm named `norm` read `rows`: a skip norm of rows and nothing."""
    i = next(i for i, node in enumerate(nodes) if node.name == norm)
    entry = [
        constant("/entry/zero", 0, np.float32),
        helper.make_node("Mul", [rows, "/entry/zero"], ["/entry/nothing"], name="/entry/Mul"),
        skip_norm(nodes[i], rows, "/entry/nothing"),
    ]
    return [*nodes[:i], *entry, *nodes[i + 1 :]]


def skip_norm(norm: NodeProto, rows: str, update: str) -> NodeProto:
    """The skip norm of rows + update, with `norm`'s weight and outputs."""
    epsilon = next(a.f for a in norm.attribute if a.name == "epsilon")
    return helper.make_node(
        SKIP_NORM,
        [rows, update, norm.input[-1]],
        list(norm.output),
        name=norm.name,
        domain="com.microsoft",
        epsilon=epsilon,
    )
