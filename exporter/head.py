"""The embedding and the LM head, which a tied model stores once for all graphs.

The builder ties them by a transpose or a reshape of the head's weight; a runtime would fold that into a second copy.
Here one tensor, a row per token, is read by both: as it is by the embedding, transposed by the head.
"""

import numpy as np
from onnx import helper

from exporter.cut import HEAD_ROWS, head_node
from exporter.errors import ExportError
from exporter.graphs import INPUT_IDS, LOGITS, Part, Tensor
from exporter.nodes import ancestors, copied

HEAD_WEIGHT = "lm_head.weight"


def head_of(base: Part) -> Part:
    """The node that gives the logits and its weights. At f32 the weight lies row by token, [vocab, d_model]."""
    node = next((node for node in base.nodes if LOGITS in node.output), None)
    if node is None or node.op_type not in ("MatMul", "MatMulNBits"):
        raise ExportError("the model builder's graph has no plain LM head; this architecture is not supported")
    if node.op_type == "MatMulNBits":
        return Part([head_node(node)], {name: base.weights[name] for name in node.input[1:] if name})
    gemm = helper.make_node("Gemm", [HEAD_ROWS, HEAD_WEIGHT], [LOGITS], name=node.name, transB=1)
    return Part([gemm], {HEAD_WEIGHT: transposed(base.weights[node.input[1]])})


def embed_from(base: Part, head: Part) -> Part:
    """The base with an embedding that reads the head's bytes as they lie, where the two are tied."""
    gather = next(node for node in base.nodes if INPUT_IDS in node.input)
    made = next((node for node in base.nodes if node.output[0] == gather.input[0]), None)
    if made is None:
        return base
    weights = dict(base.weights)
    if made.op_type == "Transpose":
        name = HEAD_WEIGHT
        weights[name] = head.weights[HEAD_WEIGHT]
    else:
        name, source = "embed_tokens.weight", weights[made.input[0]]
        weights[name] = Tensor(source.data_type, (source.dims[0], source.data.nbytes // source.dims[0]), source.data)
    copy = copied(gather)
    copy.input[0] = name
    nodes = [copy if node.name == gather.name else node for node in base.nodes]
    return Part(ancestors(nodes, [LOGITS]), weights)


def transposed(tensor: Tensor) -> Tensor:
    """An f32 matrix, transposed."""
    rows, columns = tensor.dims
    matrix = np.ascontiguousarray(np.frombuffer(tensor.data, np.float32).reshape(rows, columns).T)
    return Tensor(tensor.data_type, (columns, rows), matrix.data.cast("B"))
