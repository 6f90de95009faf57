"""Writes the graphs of a bundle as ONNX files: the same bytes for the same weights, wherever and whenever."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from onnx import TensorProto, ValueInfoProto, helper

from exporter.graphs import Piece
from exporter.weights import write_weights
from family.graphs import (
    INPUT_IDS,
    LOGITS,
    PADDED_ROWS,
    QUERY_SEQLENS,
    ROWS_IN,
    ROWS_OUT,
    SEQLENS_K,
    TOTAL,
    TRUE_ROWS,
    WANTED,
    past_names,
    present_names,
)
from family.spec import FamilySpec

OPSETS = {"": 22, "com.microsoft": 1}
IR_VERSION = 10
PRODUCER = "familial"


def write_graphs(pieces: Mapping[str, Piece], spec: FamilySpec, folder: Path) -> None:
    """Write `<name>.onnx` for every piece, and the data files, into `folder`."""
    initializers = write_weights(pieces, folder)
    for name, piece in pieces.items():
        inputs, outputs = signature(piece, spec)
        graph = helper.make_graph(piece.nodes, name, inputs, outputs, initializers[name])
        opsets = [helper.make_opsetid(domain, version) for domain, version in OPSETS.items()]
        model = helper.make_model(graph, producer_name=PRODUCER, ir_version=IR_VERSION, opset_imports=opsets)
        for node in model.graph.node:
            node.ClearField("doc_string")
            node.ClearField("metadata_props")
        (folder / f"{name}.onnx").write_bytes(model.SerializeToString(deterministic=True))


def signature(piece: Piece, spec: FamilySpec) -> tuple[list[ValueInfoProto], list[ValueInfoProto]]:
    """Inputs and outputs of a graph, with their types and shapes, as `family.graphs` describes them."""
    read = {name for node in piece.nodes for name in node.input}
    inputs = []
    if INPUT_IDS in read:
        inputs.append(_value(INPUT_IDS, TensorProto.INT64, (1, "q")))
    if ROWS_IN in read:
        inputs.append(_value(ROWS_IN, TensorProto.FLOAT, (1, "q", spec.d_model)))
    if WANTED in read:
        inputs.append(_value(WANTED, TensorProto.INT64, ("w",)))
    if piece.kv_layers:
        inputs.append(_value(SEQLENS_K, TensorProto.INT32, ["b"]))
        inputs.append(_value(QUERY_SEQLENS, TensorProto.INT32, ["b"]))
        inputs.append(_value(TOTAL, TensorProto.INT32, []))
        inputs.append(_value(PADDED_ROWS, TensorProto.INT64, ["b", "s"]))
        inputs.append(_value(TRUE_ROWS, TensorProto.INT64, [1, "q"]))
    kv_shape = ("b", spec.kv_heads, "slots", spec.head_dim)
    shapes: dict[str, tuple[int | str, ...]] = {ROWS_OUT: (1, "q", spec.d_model), LOGITS: ("w", spec.vocab_size)}
    outputs = [_value(piece.output, TensorProto.FLOAT, shapes[piece.output])]
    for layer in range(piece.kv_layers):
        inputs.extend(_value(name, TensorProto.FLOAT, kv_shape) for name in past_names(layer))
        outputs.extend(_value(name, TensorProto.FLOAT, kv_shape) for name in present_names(layer))
    return inputs, outputs


def _value(name: str, kind: int, shape: Sequence[int | str]) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)
