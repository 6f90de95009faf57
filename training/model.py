"""`FamilyModel`: a frozen Hugging Face decoder as trunk, and a branch for each early exit.

Exit g reads the trunk's state after layer l_g. A branch of kind `block` adds one decoder block and a norm; the head
is the base's own. The last exit is the base itself. Early exits on one trunk: arXiv 2512.23407, section 2.1.
"""

import copy
from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.masking_utils import create_causal_mask

from family.spec import Exit, FamilySpec
from training.base import LoadedBase
from training.modeling import FamilyForCausalLM
from training.shapes import check_shapes


class Branch(nn.Module):
    """What an early exit adds to the trunk: a decoder block of the trunk's own shape (or none), and a norm."""

    def __init__(self, base: PreTrainedModel, exit_: Exit) -> None:
        super().__init__()
        self.block: nn.Module | None = None
        if exit_.branch != "norm":
            # Layer l_g knows itself as number l_g, which is the branch's place in the sub-model's KV cache.
            self.block = copy.deepcopy(base.model.layers[exit_.layer])
        self.norm: nn.Module = copy.deepcopy(base.model.norm)

    def forward(self, hidden: Tensor, context: dict[str, object]) -> Tensor:
        """Trunk rows (B, T, H) after layer l_g to normed rows (B, T, H), which the head turns into logits."""
        if self.block is not None:
            hidden = self.block(hidden, **context)
        normed: Tensor = self.norm(hidden)
        return normed


class FamilyModel(nn.Module):
    """One trunk and its G exits. The trunk is the base's own modules (shared, frozen); only branches are new.

    Attributes:
        spec: the family's shape; its base is the one the branches were trained on.
        base: the loaded base model and tokenizer.
        branches: branch of exit g under the key `str(g)`; the last exit has none.
    """

    def __init__(self, spec: FamilySpec, base: LoadedBase) -> None:
        super().__init__()
        check_shapes(spec, base.model)
        self.spec = spec
        self.base = base
        self.branches = nn.ModuleDict({str(g): Branch(base.model, spec.exit(g)) for g in range(1, spec.granularity)})
        self.branches.requires_grad_(True)

    @property
    def head(self) -> nn.Module:
        """The LM head, shared by all exits: rows (..., H) to logits (..., vocab_size)."""
        head: nn.Module = self.base.model.lm_head
        return head

    def branch_rows(self, g: int, state: Tensor, context: dict[str, object]) -> Tensor:
        """Exit g's normed rows (B, T, H) from its boundary's rows (B, T, H); the head makes logits of them."""
        if g == self.spec.granularity:
            rows: Tensor = self.base.model.model.norm(state)
            return rows
        branch_rows: Tensor = self.branches[str(g)](state, context)
        return branch_rows

    def forward_exits(self, input_ids: Tensor) -> dict[int, Tensor]:
        """Normed rows (B, T, H) of every exit for token ids (B, T); `head(rows)` gives that exit's logits.

        Rows rather than logits, so that a caller holds the logits (B, T, vocab_size) of one exit at a time.
        """
        states, context = trunk_states(self.spec, self.base.model.model, input_ids)
        return {g: self.branch_rows(g, state, context) for g, state in states.items()}

    def trainable(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Names and parameters that training changes: the branches' own."""
        return self.branches.named_parameters()

    def submodel(self, g: int) -> PreTrainedModel:
        """Exit g (1..G) as a plain Hugging Face causal LM, which `save_pretrained` writes like any other.

        It has l_g trunk layers, the branch's block as layer l_g if there is one, the branch's norm, and the head; the
        weights are shared with this family, the config is its own. The last exit is the base itself.

        Raises:
            IndexError: the family has no exit g.
        """
        if not 1 <= g <= self.spec.granularity:
            raise IndexError(f"exit {g}: the family has exits 1..{self.spec.granularity}")
        base = self.base.model
        if g == self.spec.granularity:
            return base
        branch = self.branches[str(g)]
        layers = [*base.model.layers[: self.spec.exit(g).layer], *([branch.block] if branch.block is not None else [])]
        config = copy.deepcopy(base.config)
        config.num_hidden_layers = len(layers)
        with torch.device("meta"):
            model: Any = type(base)(config)
        model.model.embed_tokens = base.model.embed_tokens
        model.model.layers = nn.ModuleList(layers)
        model.model.norm = branch.norm
        model.model.rotary_emb = base.model.rotary_emb
        model.lm_head = base.lm_head
        model.generation_config = copy.deepcopy(base.generation_config)
        return cast(PreTrainedModel, model.eval())


def exporter_view(family: FamilyForCausalLM, spec: FamilySpec, base: LoadedBase) -> FamilyModel:
    """A trained family as the exporter takes it: every branch whole, on the trunk that `base` holds."""
    view = FamilyModel(spec, base)
    for g, branch in ((g, view.branches[str(g)]) for g in range(1, spec.granularity)):
        model: Any = family.submodel(g)
        if branch.block is not None:
            branch.block = model.model.layers[-1]
        branch.norm = model.model.norm
    return view.eval()


def trunk_states(spec: FamilySpec, decoder: Any, input_ids: Tensor) -> tuple[dict[int, Tensor], dict[str, object]]:
    """The rows at every exit's boundary, and what a block needs besides rows (positions, mask).

    Args:
        spec: the family, for its boundaries.
        decoder: the base without its head (`LlamaModel`), or a copy of it in another precision.
        input_ids: token ids (B, T).

    Returns:
        Rows (B, T, H) after layer l_g by exit g, without norm and without gradient; the blocks' keyword arguments.
    """
    with torch.no_grad():
        hidden: Tensor = decoder.embed_tokens(input_ids)
        positions = torch.arange(input_ids.shape[1], device=input_ids.device).unsqueeze(0)
        context: dict[str, object] = {
            "attention_mask": create_causal_mask(decoder.config, hidden, None, None, position_ids=positions),
            "position_ids": positions,
            "position_embeddings": decoder.rotary_emb(hidden, position_ids=positions),
        }
        states: dict[int, Tensor] = {}
        for segment in spec.segments:
            for layer in decoder.layers[segment.first_layer : segment.last_layer]:
                hidden = layer(hidden, **context)
            states[segment.index] = hidden
    return states, context
