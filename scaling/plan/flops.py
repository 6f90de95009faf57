"""FLOPs of a family's graphs: two for each weight that a row is multiplied with; attention's own products left out."""

from family.spec import FamilySpec


def layer_flops(spec: FamilySpec) -> float:
    """A row through one decoder layer."""
    attention = 2 * spec.d_model * spec.head_dim * (spec.n_heads + spec.kv_heads)
    return 2.0 * (attention + 3 * spec.d_model * spec.d_ff)


def branch_flops(spec: FamilySpec, exit_: int, layer: float) -> float:
    """A row through an exit's branch, without its head; `layer` are those of a decoder layer."""
    found = spec.exits[exit_ - 1]
    if found.branch == "norm":
        return 0.0
    if found.branch == "block":
        return layer
    q, kv = spec.n_heads * spec.head_dim, spec.kv_heads * spec.head_dim
    maps = [(spec.d_model, q), (spec.d_model, kv), (spec.d_model, kv), (q, spec.d_model)]
    maps += [(spec.d_model, spec.d_ff)] * 3
    return 2.0 * sum(min(found.rank or 0, a, b) * (a + b) for a, b in maps)


def head_flops(spec: FamilySpec) -> float:
    """The logits of a row."""
    return 2.0 * spec.d_model * spec.vocab_size
