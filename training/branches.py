"""What an exit adds to the trunk's rows before the head: one interface for every kind of branch.

`norm` is a norm alone, `block` a decoder block of the trunk's own shape and a norm, `lowrank` such a block whose linear
maps are factorised (`training.lowrank`), so that it can be cut to any smaller rank. A branch's block is number l_g, the
place it takes in the sub-model of exit g: its type of attention and its slot in a KV cache follow from that.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers.masking_utils import create_causal_mask, create_sliding_window_causal_mask

from family.errors import SpecError
from family.spec import Exit
from training.config import FULL, SLIDING, attention_types
from training.lowrank import cut_maps, factorise_maps, merge_maps, split_maps


@dataclass(frozen=True)
class Context:
    """What decoder layers need besides rows: positions, and a mask for each type of attention."""

    position_ids: Tensor
    """(1, T)."""
    position_embeddings: tuple[Tensor, Tensor]
    """Cosines and sines, (1, T, head_dim) each."""
    masks: Mapping[str, Tensor | None]
    """By type of attention: (B or 1, 1, T, T), or None where the kernel's own causal mask does."""
    layer_types: tuple[str, ...]
    """Type of attention of each layer of the trunk."""

    def layer(self, index: int) -> dict[str, object]:
        """Keyword arguments of layer `index`."""
        return {
            "attention_mask": self.masks[self.layer_types[index]],
            "position_ids": self.position_ids,
            "position_embeddings": self.position_embeddings,
        }

    def part(self, windows: slice) -> "Context":
        """The context of some of the batch's windows."""
        masks = {kind: mask if mask is None or len(mask) == 1 else mask[windows] for kind, mask in self.masks.items()}
        return replace(self, masks=masks)


def make_context(decoder: Any, embedded: Tensor, attention_mask: Tensor | None) -> Context:
    """The context of a batch of windows that begin at position 0.

    Args:
        decoder: the trunk (`LlamaModel` or its like).
        embedded: embedded ids (B, T, H).
        attention_mask: (B, T), 0 at padding; None where there is none.
    """
    config = decoder.config
    positions = torch.arange(embedded.shape[1], device=embedded.device).unsqueeze(0)
    layer_types = attention_types(config)
    make: dict[str, Any] = {FULL: create_causal_mask, SLIDING: create_sliding_window_causal_mask}
    masks = {
        kind: make[kind](config, embedded, attention_mask, None, position_ids=positions) for kind in set(layer_types)
    }
    return Context(positions, decoder.rotary_emb(embedded, position_ids=positions), masks, layer_types)


class Branch(nn.Module):
    """What an early exit adds to the trunk: a decoder block, whole or factorised (or none), and a norm.

    Attributes:
        exit: the exit that it belongs to.
        block: decoder layer number `exit.layer`, its maps `LowRankLinear` where `exit.branch` is `lowrank`; or None.
        norm: the exit's own norm.
    """

    def __init__(self, decoder: Any, exit_: Exit) -> None:
        """A new branch of the shape of `decoder` (`LlamaModel` or its like), not initialised yet."""
        super().__init__()
        config = decoder.config
        self.exit = exit_
        self.block: nn.Module | None = None
        if exit_.branch != "norm":
            self.block = type(decoder.layers[0])(config, exit_.layer)
            if exit_.rank is not None:
                split_maps(self.block, exit_.rank)
        self.norm: nn.Module = type(decoder.norm)(config.hidden_size, eps=config.rms_norm_eps)

    def forward(self, state: Tensor, context: Context) -> Tensor:
        """Trunk rows (B, T, H) after layer l_g to normed rows (B, T, H), which the head turns into logits."""
        if self.block is not None:
            state = self.block(state, **context.layer(self.exit.layer))
        rows: Tensor = self.norm(state)
        return rows


def factorise(branch: Branch, moments: Mapping[str, Tensor], rank: int) -> Branch:
    """A `lowrank` branch that comes as near to a branch as `rank` allows, its components in the order of importance.

    Of a low-rank branch's own rank, this puts its components in order again, which training mixes up.

    Args:
        branch: of kind `block` or `lowrank`; stays as it is.
        moments: E[x xᵀ] of the inputs of its linear maps by name, as `FamilyForCausalLM.moments` finds them; a map
            without one is truncated as such.
        rank: R.

    Raises:
        SpecError: the branch has no block, or the rank is not in 1..d_model.
    """
    new, block = _copied(branch, rank)
    factorise_maps(block, moments, rank)
    return new


def cut(branch: Branch, rank: int) -> Branch:
    """A `lowrank` branch's first `rank` components. Raises `SpecError` if it has not that many."""
    has = branch.exit.rank or 0
    if rank > has:
        can = f"can be cut to 1..{has}" if has else "cannot be cut; factorise it first"
        raise SpecError(f"rank {rank}: the {branch.exit.branch!r} branch after layer {branch.exit.layer} {can}")
    new, block = _copied(branch, rank)
    cut_maps(block, rank)
    return new


def dense(branch: Branch) -> Branch:
    """A `block` branch that does what a `lowrank` branch does at the rank that is active (`lowrank.at_rank`)."""
    new, block = _copied(branch, None)
    merge_maps(block)
    return new


def _copied(branch: Branch, rank: int | None) -> tuple[Branch, nn.Module]:
    """A copy that is to have this rank, and its block; configs stay the trunk's own, whose settings it follows."""
    if branch.block is None:
        raise SpecError(f"the {branch.exit.branch!r} branch after layer {branch.exit.layer} has no linear maps")
    d_model = len(next(branch.norm.parameters()))
    if rank is not None and not 1 <= rank <= d_model:
        raise SpecError(f"rank {rank}: expected 1..{d_model} (d_model)")
    configs = {id(m.config): m.config for m in branch.modules() if hasattr(m, "config")}
    new = copy.deepcopy(branch, configs)
    new.exit = Exit(branch.exit.layer, "block" if rank is None else "lowrank", rank)
    assert new.block is not None
    return new, new.block
