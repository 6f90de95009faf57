"""The embedding and the LM head. Where they are tied, one tensor with a row per token is stored for all graphs.

The builder ties them by a transpose or a reshape of the head's weight, which a runtime would fold into a second copy.
Here the embedding reads the head's bytes as they lie: f32 rows, or the blocks of a quantized matrix.
"""

from typing import Any

import numpy as np
from onnx import NodeProto, helper

from exporter.errors import VERSIONS, ExportError
from exporter.graphs import HEAD_ROWS, Part, Tensor, f32_tensor
from exporter.nodes import copied
from family.graphs import INPUT_IDS, LOGITS

EMBEDDED = "inputs_embeds"
"""The builder's name of the embedding's rows, [1, q, d_model], where it leaves the embedding out."""
HEAD_WEIGHT = "lm_head.weight"
EMBEDDING_WEIGHT = "embed_tokens.weight"
QUANTIZED = "MatMulNBits"
QUANTIZED_EMBEDDING = "GatherBlockQuantized"


def head_of(base: Part) -> Part:
    """The node that makes `logits` of `HEAD_ROWS`, and its weights. At f32 the weight has a row per token."""
    node = next((node for node in base.nodes if LOGITS in node.output), None)
    if node is not None and node.op_type == QUANTIZED:
        head = copied(node)
        head.input[0] = HEAD_ROWS
        return Part([head], {name: base.weights[name] for name in node.input[1:] if name})
    if node is not None and node.op_type == "MatMul":
        gemm = helper.make_node("Gemm", [HEAD_ROWS, HEAD_WEIGHT], [LOGITS], name=node.name, transB=1)
        return Part([gemm], {HEAD_WEIGHT: _transposed(base.weights[node.input[1]])})
    raise ExportError(
        "the model builder's graph has no plain LM head: this architecture, or this release of onnxruntime-genai, is "
        f"not supported; give another base, or {VERSIONS}"
    )


def embedding_of(head: Part, model: Any) -> Part:
    """The node that makes `EMBEDDED` of the token ids: from the head's weights where they are tied, else in f32."""
    node = head.nodes[0]
    if model.config.tie_word_embeddings and node.op_type == QUANTIZED:
        return _from_blocks(node, head)
    if model.config.tie_word_embeddings:
        name, weights = HEAD_WEIGHT, dict(head.weights)
    else:
        name = EMBEDDING_WEIGHT
        weights = {name: f32_tensor(model.model.embed_tokens.weight.detach().float().numpy())}
    gather = helper.make_node("Gather", [name, INPUT_IDS], [EMBEDDED], name="/embed_tokens/Gather")
    return Part([gather], weights)


def _from_blocks(head_node: NodeProto, head: Part) -> Part:
    """An embedding that reads the blocks of a quantized head. The tensors are the head's, in two dimensions."""
    given = {a.name: a.i for a in head_node.attribute}
    names, weights = [], {}
    for name in filter(None, head_node.input[1:]):
        source = head.weights[name]
        names.append(f"embed_tokens/{name}")
        dims = (given["N"], int(np.prod(source.dims)) // given["N"])
        weights[names[-1]] = Tensor(source.data_type, dims, source.data)
    gather = helper.make_node(
        QUANTIZED_EMBEDDING,
        [names[0], INPUT_IDS, *names[1:]],
        [EMBEDDED],
        name="/embed_tokens/Gather",
        domain="com.microsoft",
        bits=given["bits"],
        block_size=given["block_size"],
        gather_axis=0,
        quantize_axis=1,
    )
    return Part([gather], weights)


def _transposed(tensor: Tensor) -> Tensor:
    return f32_tensor(np.frombuffer(tensor.data, np.float32).reshape(tensor.dims).T)
