"""The contract of a bundle's graphs: what they read and write. The exporter makes it, the engine relies on it.

Every graph works on q rows, f32 at its boundaries: the next positions of b sequences, one sequence after the other.
How many each has is its own affair.

| graph | inputs | outputs |
|---|---|---|
| `segment-1` | `input_ids` int64[1, q] and attention's inputs | `rows_out` f32[1, q, d_model] and attention's outputs |
| `segment-g` | `rows_in` f32[1, q, d_model] and attention's inputs | the same |
| `exit-g` | `rows_in`, `wanted` int64[w] (indices into q) and, with a branch, attention's | `logits` f32[w, vocab] |

Attention sees the rows by sequence, padded to s: those that are new, then a dummy, then anything. The dummy is any row,
at the next position; kernels have another path for one row than for several, and with it no sequence has one row.
Attention's inputs are, for each sequence, `seqlens_k` int32[b], its positions after this call with the dummy's, less
one; `query_seqlens` int32[b], its new rows and the dummy (0: the sequence takes no part); `padded_rows` int64[b, s],
which of the q rows stands where; and `true_rows` int64[1, q], where in b * s each of the q rows stands. Then
`total_sequence_length` int32[], the largest of the positions; `past_key_i` and `past_value_i`, f32[b, kv_heads, slots,
head_dim]. Its outputs are `present_key_i` and `present_value_i` of the same shape, to be bound to the same memory: a
call writes the slots of the new positions and one more, which is scratch. `slots` is at least a sequence's positions
before the call plus s, for every sequence. Going back is to call with fewer positions. i counts the graph's own
attention layers from 0.

A row's result does not depend on the rows that are computed with it, its own sequence's or others'.
"""

INPUT_IDS = "input_ids"
ROWS_IN = "rows_in"
ROWS_OUT = "rows_out"
WANTED = "wanted"
LOGITS = "logits"
SEQLENS_K = "seqlens_k"
QUERY_SEQLENS = "query_seqlens"
TOTAL = "total_sequence_length"
PADDED_ROWS = "padded_rows"
TRUE_ROWS = "true_rows"


def past_names(layer: int) -> tuple[str, str]:
    """Inputs that hold the keys and values of a graph's attention layer `layer`."""
    return f"past_key_{layer}", f"past_value_{layer}"


def present_names(layer: int) -> tuple[str, str]:
    """Outputs that hold the keys and values of a graph's attention layer `layer`."""
    return f"present_key_{layer}", f"present_value_{layer}"
