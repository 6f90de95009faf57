"""The contract of a bundle's graphs: what they read and write. The exporter makes it, the engine relies on it.

Every graph works on one sequence (batch 1), with f32 at its boundaries. q rows are the positions of this call.

| graph | inputs | outputs |
|---|---|---|
| `segment-1` | `input_ids` int64[1, q] and attention's inputs | `rows_out` f32[1, q, d_model] and attention's outputs |
| `segment-g` | `rows_in` f32[1, q, d_model] and attention's inputs | the same |
| `exit-g` | `rows_in`, `wanted` int64[w] (indices into q) and, with a branch, attention's | `logits` f32[w, vocab] |

Attention's inputs are `seqlens_k` int32[1], the positions after this call less one; `total_sequence_length` int32[],
the positions after this call; `past_key_i` and `past_value_i`, f32[1, kv_heads, slots, head_dim]. Its outputs are
`present_key_i` and `present_value_i` of the same shape, to be bound to the same memory: a call writes the slots
total - q .. total, the last of which is scratch. So `slots` is at least the positions plus one, and going back is to
call with a smaller total. i counts the graph's own attention layers from 0.

A row's result does not depend on the rows that are computed with it.
"""

INPUT_IDS = "input_ids"
ROWS_IN = "rows_in"
ROWS_OUT = "rows_out"
WANTED = "wanted"
LOGITS = "logits"
SEQLENS_K = "seqlens_k"
TOTAL = "total_sequence_length"


def past_names(layer: int) -> tuple[str, str]:
    """Inputs that hold the keys and values of a graph's attention layer `layer`."""
    return f"past_key_{layer}", f"past_value_{layer}"


def present_names(layer: int) -> tuple[str, str]:
    """Outputs that hold the keys and values of a graph's attention layer `layer`."""
    return f"present_key_{layer}", f"present_value_{layer}"
