"""Low-rank deltas of the trunk's linear maps: trained through peft, kept as one small file, merged when read.

LoRA (Hu et al., arXiv 2106.09685): every linear map W of the trunk's layers learns W + s B A, B (out, r) zero at first,
A (r, in) random, s = `SCALE`. A file has A and s B by the map's name, so that the delta is their product.
"""

from collections.abc import Mapping
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn

SCALE = 2.0
_ADAPTER = "default"  # peft's name for the only adapter


def add_lora(decoder: Any, rank: int) -> None:
    """Give every linear map of a decoder's layers a trainable delta, in place; its own weights are frozen."""
    names = {
        name.rpartition(".")[2] for name, module in decoder.layers.named_modules() if isinstance(module, nn.Linear)
    }
    inject_adapter_in_model(
        LoraConfig(r=rank, lora_alpha=round(SCALE * rank), target_modules=sorted(names)), decoder, adapter_name=_ADAPTER
    )


def lora_tensors(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """A (r, in) and s B (out, r) of every map, as `layers.0.self_attn.q_proj.A` and `.B`.

    Args:
        state: a state dict that holds a decoder with deltas.
        prefix: what the decoder's names begin with there.
    """
    tensors: dict[str, Tensor] = {}
    for name, tensor in state.items():
        module, found, rest = name.removeprefix(prefix).partition(".lora_")
        if found and name.startswith(prefix):
            side = rest.partition(".")[0]
            tensors[f"{module}.{side}"] = tensor * SCALE if side == "B" else tensor
    return tensors


def merge_lora(decoder: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Add deltas to a decoder's linear maps, in place.

    Raises:
        KeyError: a tensor belongs to no linear map of the decoder, or the other side of its delta is missing.
        ValueError: a tensor does not have the map's shape. Both have a text for the user.
    """
    maps = {name: module for name, module in decoder.named_modules() if isinstance(module, nn.Linear)}
    for name in tensors:
        module, _, side = name.rpartition(".")
        if module not in maps or side not in ("A", "B"):
            raise KeyError(f"tensor {name} is no delta of a linear map of the base")
        other = f"{module}.{'B' if side == 'A' else 'A'}"
        if other not in tensors:
            raise KeyError(f"tensor {other} is missing")
    with torch.no_grad():
        for module in sorted({name.rpartition(".")[0] for name in tensors}):
            a, b, weight = tensors[f"{module}.A"], tensors[f"{module}.B"], maps[module].weight
            if (len(b), a.shape[-1]) != tuple(weight.shape) or b.shape[-1] != len(a):
                raise ValueError(
                    f"{module}: a delta of {tuple(b.shape)} x {tuple(a.shape)} on a map of {tuple(weight.shape)}"
                )
            weight += (b.to(weight) @ a.to(weight)).to(weight.dtype)
