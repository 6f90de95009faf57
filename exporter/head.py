"""The embedding and the LM head. Where they are tied, one tensor with a row per token is stored for all graphs.

The builder ties them by a transpose or a reshape of the head's weight, which a runtime would fold into a second copy.
Here the embedding reads the head's bytes as they lie.
"""

from typing import Any

import numpy as np
from onnx import helper

from exporter.errors import VERSIONS, ExportError
from exporter.graphs import HEAD_ROWS, Part, Tensor, f32_tensor
from family.graphs import INPUT_IDS, LOGITS

EMBEDDED = "inputs_embeds"
"""The builder's name of the embedding's rows, [1, q, d_model], where it leaves the embedding out."""
HEAD_WEIGHT = "lm_head.weight"
EMBEDDING_WEIGHT = "embed_tokens.weight"


def head_of(base: Part) -> Part:
    """The node that makes `logits` of `HEAD_ROWS`, and its weight, which has a row per token."""
    node = next((node for node in base.nodes if LOGITS in node.output), None)
    if node is None or node.op_type != "MatMul":
        raise ExportError(
            "the model builder's graph has no plain LM head: this architecture, or this release of onnxruntime-genai, "
            f"is not supported; give another base, or {VERSIONS}"
        )
    gemm = helper.make_node("Gemm", [HEAD_ROWS, HEAD_WEIGHT], [LOGITS], name=node.name, transB=1)
    return Part([gemm], {HEAD_WEIGHT: _transposed(base.weights[node.input[1]])})


def embedding_of(head: Part, model: Any) -> Part:
    """The node that makes `EMBEDDED` of the token ids: from the head's weights where they are tied."""
    if model.config.tie_word_embeddings:
        name, weights = HEAD_WEIGHT, dict(head.weights)
    else:
        name = EMBEDDING_WEIGHT
        weights = {name: f32_tensor(model.model.embed_tokens.weight.detach().float().numpy())}
    gather = helper.make_node("Gather", [name, INPUT_IDS], [EMBEDDED], name="/embed_tokens/Gather")
    return Part([gather], weights)


def _transposed(tensor: Tensor) -> Tensor:
    return f32_tensor(np.frombuffer(tensor.data, np.float32).reshape(tensor.dims).T)
