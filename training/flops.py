"""What a family costs: parameters, and the FLOPs of a token in training and in use, exactly, from its shape alone.

Conventions, those of `torch.utils.flop_counter`, with which the tests compare:

- Matrix products only, two FLOPs for a multiply and add; norms, activations, rotary embeddings and softmax are not
  counted, and a look-up in the embedding costs nothing.
- Attention is counted in full: every token attends to all T positions of its window, the causal half is not taken off.
- A backward costs twice its forward: one product for the gradient of what went in, one for that of the weights (in
  attention, one for each operand). Kernels that compute the scores again in backward do more than is counted here.
- Every exit's head counts. That makes a family dearer per token than a dense model of the same trunk, so that it sees
  fewer tokens at the same budget (arXiv 2512.23407, section 3.3, footnote 3). A window's last position has nothing to
  predict in training: heads work on T - 1 of its T tokens.
- A low-rank branch is trained at its full rank R in every other step and at 1..R, evenly, between (its components are
  nested: `training.lowrank.nested_rank`); training counts the mean of these.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from family.spec import Exit

Trained = Literal["all", "branches"]
"""What a run trains: everything, or only what the early exits add (trunk and head frozen, the last exit teaching)."""


@dataclass(frozen=True)
class FamilyShape:
    """The numbers that decide what a family costs."""

    d_model: int
    d_ff: int
    n_layers: int
    n_heads: int
    kv_heads: int
    head_dim: int
    vocab_size: int
    tied: bool
    """Whether the head is the embedding."""
    block_vectors: int
    """Parameters of a block that belong to no matrix: norms and biases."""
    exits: tuple[Exit, ...]

    @property
    def granularity(self) -> int:
        """G."""
        return len(self.exits)

    @property
    def matrices(self) -> tuple[tuple[int, int], ...]:
        """(in, out) of a block's linear maps: q, k, v, o, gate, up, down."""
        d, ff, queries, keys = self.d_model, self.d_ff, self.n_heads * self.head_dim, self.kv_heads * self.head_dim
        return ((d, queries), (d, keys), (d, keys), (queries, d), (d, ff), (d, ff), (ff, d))


@dataclass(frozen=True)
class Parameters:
    """How many numbers a family has."""

    embedding: int
    """Embedding and head: one matrix if they are tied, else two."""
    head: int
    """H: the head's matrix, which every exit multiplies by."""
    trunk: int
    """Decoder layers and the last norm."""
    branches: tuple[int, ...]
    """What each exit adds, its norm included; 0 for the last, whose norm is the trunk's."""

    @property
    def total(self) -> int:
        """N."""
        return self.embedding + self.non_embedding

    @property
    def non_embedding(self) -> int:
        """N without embedding and head."""
        return self.trunk + sum(self.branches)


@dataclass(frozen=True)
class Flops:
    """FLOPs of one token, by where they are spent."""

    trunk: float
    """Linear maps of the trunk's layers."""
    attention: float
    """Scores and mixes of the trunk's layers: q·k and p·v."""
    branches: float
    """The branches' linear maps and attention."""
    heads: float

    @property
    def total(self) -> float:
        return self.trunk + self.attention + self.branches + self.heads


def shape_of(config: Any) -> FamilyShape:
    """The shape of a `FamilyConfig`, whose `decoder` is a Llama, Mistral, Qwen2 or Qwen3 config."""
    decoder = config.decoder
    d, heads = decoder.hidden_size, decoder.num_attention_heads
    head_dim = getattr(decoder, "head_dim", None) or d // heads
    return FamilyShape(
        d_model=d,
        d_ff=decoder.intermediate_size,
        n_layers=decoder.num_hidden_layers,
        n_heads=heads,
        kv_heads=decoder.num_key_value_heads,
        head_dim=head_dim,
        vocab_size=decoder.vocab_size,
        tied=bool(decoder.tie_word_embeddings),
        block_vectors=_vectors(decoder, head_dim),
        exits=tuple(e if isinstance(e, Exit) else Exit(**e) for e in config.exits),
    )


def parameters(shape: FamilyShape) -> Parameters:
    """Parameters of a family, to the last one."""
    head = shape.vocab_size * shape.d_model
    block = sum(i * o for i, o in shape.matrices) + shape.block_vectors
    return Parameters(
        embedding=head if shape.tied else 2 * head,
        head=head,
        trunk=shape.n_layers * block + shape.d_model,
        branches=(*(_branch_parameters(shape, e) for e in shape.exits[:-1]), 0),
    )


def training_flops(shape: FamilyShape, window: int, trained: Trained = "all") -> Flops:
    """FLOPs of forward and backward per token, in windows of `window` tokens that all exits learn from.

    With `trained="branches"` the trunk and the last exit go forward only, and a frozen head has no gradient of its own:
    two products per early exit instead of three. A branch's maps all need both gradients, since its norms learn.
    """
    trunk, early_heads, last_head = (3, 3, 3) if trained == "all" else (1, 2, 1)
    early = shape.exits[:-1]
    head = _head(shape) * (window - 1) / window
    return Flops(
        trunk=trunk * shape.n_layers * _linear(shape),
        attention=trunk * shape.n_layers * _attention(shape, window),
        branches=3 * sum(_branch(shape, e, window, _mean_low_rank) for e in early),
        heads=early_heads * len(early) * head + last_head * head,
    )


def inference_flops(shape: FamilyShape, g: int, positions: int) -> Flops:
    """FLOPs of one token that is decided at exit g (from 1) and attends to `positions` positions, itself included."""
    exit_ = shape.exits[g - 1]
    return Flops(
        trunk=exit_.layer * _linear(shape),
        attention=exit_.layer * _attention(shape, positions),
        branches=_branch(shape, exit_, positions, _low_rank),
        heads=_head(shape),
    )


def tokens_for(budget_flops: float, shape: FamilyShape, window: int) -> int:
    """D: how many tokens a budget trains everything on."""
    return int(budget_flops / training_flops(shape, window).total)


def _linear(shape: FamilyShape) -> int:
    """Forward of a block's linear maps."""
    return 2 * sum(i * o for i, o in shape.matrices)


def _attention(shape: FamilyShape, positions: int) -> int:
    """Forward of a block's attention: q·k and p·v with `positions` positions."""
    return 2 * 2 * positions * shape.n_heads * shape.head_dim


def _head(shape: FamilyShape) -> int:
    return 2 * shape.vocab_size * shape.d_model


def _branch(shape: FamilyShape, exit_: Exit, positions: int, low_rank: Callable[[FamilyShape, int], float]) -> float:
    """Forward of a branch; `low_rank` says how many weights its maps multiply by at a rank."""
    if exit_.branch == "norm":
        return 0
    if exit_.branch == "block":
        return _linear(shape) + _attention(shape, positions)
    return 2 * low_rank(shape, _rank(exit_)) + _attention(shape, positions)


def _branch_parameters(shape: FamilyShape, exit_: Exit) -> int:
    norm = shape.d_model
    if exit_.branch == "norm":
        return norm
    matrices = sum(i * o for i, o in shape.matrices) if exit_.branch == "block" else _low_rank(shape, _rank(exit_))
    return norm + shape.block_vectors + matrices


def _low_rank(shape: FamilyShape, rank: int) -> int:
    """Weights of a block's linear maps as products of (in, r) and (r, out), r the rank or the map's shorter side."""
    return sum(min(rank, i, o) * (i + o) for i, o in shape.matrices)


def _mean_low_rank(shape: FamilyShape, rank: int) -> float:
    """The same in the mean over the steps of training."""
    every_rank = sum(_low_rank(shape, r) for r in range(1, rank + 1)) / rank
    return (_low_rank(shape, rank) + every_rank) / 2


def _rank(exit_: Exit) -> int:
    assert exit_.rank is not None
    return exit_.rank


def _vectors(decoder: Any, head_dim: int) -> int:
    """Parameters of norms and biases in one block of a Hugging Face decoder."""
    d, ff, kind = int(decoder.hidden_size), int(decoder.intermediate_size), decoder.model_type
    projections = int(decoder.num_attention_heads + 2 * decoder.num_key_value_heads) * head_dim
    norms = 2 * d + (2 * head_dim if kind == "qwen3" else 0)
    if kind == "qwen2":
        return norms + projections
    attention = projections + d if getattr(decoder, "attention_bias", False) else 0
    mlp = 2 * ff + d if getattr(decoder, "mlp_bias", False) else 0
    return norms + attention + mlp
