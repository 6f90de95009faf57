"""Evens out the inputs of a block's matrices before both are rounded: SmoothQuant, arXiv 2211.10438, equation 4.

A row in 8 bits has one step, which its largest input sets, and a few inputs are far larger than the others in every
row. Here such an input is divided by a number and its weights are multiplied by it, so that both have half of the
spread. The norm or the matrix that makes the input divides, in its own weights. The numbers are powers of two, so that
every product of an input and a weight, and with it what the block computes, stays the same to the bit.

What `o_proj` reads is left as it is: several of its inputs have one maker, where keys and values are shared.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from exporter.errors import ExportError
from family.spec import FamilySpec
from training.loaded import LoadedFamily, sharing


@dataclass(frozen=True)
class Edge:
    """Values inside a block: the module that makes them, in its weight's first dimension, and those that read them."""

    maker: Any
    readers: tuple[Any, ...]


@torch.no_grad()
def smoothed(
    family: LoadedFamily, precisions: Mapping[int, str], windows: Tensor, say: Callable[[str], None] = lambda _: None
) -> LoadedFamily:
    """The family with even inputs in the blocks that are stored in whole numbers; the same function to the bit.

    It shares all tensors that it does not change. Its base keeps its name and its hash.

    Args:
        family: the family.
        precisions: of each segment and its exit.
        windows: token ids [n, T] on which inputs are measured.
        say: told what is being done.

    Raises:
        ExportError: inputs on these ids are not numbers.
    """
    found = sharing(family)
    edges = [edge for block in integer_blocks(found, precisions) for edge in edges_of(block)]
    largest: dict[nn.Module, Tensor] = {}

    def measure(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        sizes = inputs[0].abs().flatten(0, -2).amax(0)
        largest[module] = torch.maximum(largest.get(module, sizes), sizes)

    hooks = [edge.readers[0].register_forward_pre_hook(measure) for edge in edges]
    try:
        for number, window in enumerate(windows[:, None], start=1):
            say(f"measuring inputs: {number * window.shape[1]} tokens")
            found.model.forward_exits(window)
    finally:
        for hook in hooks:
            hook.remove()
    for edge in edges:
        divide(edge, divisors(edge, largest[edge.readers[0]]))
    return found


def integer_blocks(family: LoadedFamily, precisions: Mapping[int, str]) -> list[nn.Module]:
    """The decoder blocks in whole numbers: the trunk's in segments at `int8`, and branches at any but f32."""
    layers: Any = family.model.model.layers
    blocks = {g: family.model.branch(g).block for g in range(1, family.spec.granularity)}
    return [layers[layer] for layer in integer_layers(family.spec, precisions)] + [
        block for g, block in blocks.items() if precisions[g] != "f32" and block is not None
    ]


def integer_layers(spec: FamilySpec, precisions: Mapping[int, str]) -> list[int]:
    """The trunk's layers in segments at `int8`, from 0."""
    segments = [s for s in spec.segments if precisions[s.index] == "int8"]
    return [layer for s in segments for layer in range(s.first_layer, s.last_layer)]


def edges_of(block: Any) -> tuple[Edge, ...]:
    """The values that a block's products read, those between two factors too, but not those of `o_proj`."""
    attention, mlp = block.self_attn, block.mlp
    query, key, value, gate, up, down = map(
        _factors, (attention.q_proj, attention.k_proj, attention.v_proj, mlp.gate_proj, mlp.up_proj, mlp.down_proj)
    )
    return (
        Edge(block.input_layernorm, (query[0], key[0], value[0])),
        Edge(block.post_attention_layernorm, (gate[0], up[0])),
        Edge(up[-1], (down[0],)),
        *(Edge(pair[0], (pair[1],)) for pair in block.modules() if isinstance(pair, nn.Sequential)),
    )


def divisors(edge: Edge, largest: Tensor) -> Tensor:
    """What to divide each value by, [n], from its largest size; 1 for a value or a column that is 0 throughout."""
    if not largest.isfinite().all():
        raise ExportError("a block's inputs on the text are not numbers; give a base whose weights are")
    weights = torch.stack([reader.weight.abs().amax(0) for reader in edge.readers]).amax(0)
    powers = ((largest.log2() - weights.log2()) / 2).round()
    return torch.where(powers.isfinite(), powers, 0).exp2()


def divide(edge: Edge, divisors: Tensor) -> None:
    """Divide values where they are made, and multiply by the same where they are read."""
    for name, old in list(edge.maker.named_parameters(recurse=False)):
        _set(edge.maker, name, old / divisors.view(-1, *[1] * (old.dim() - 1)))
    for reader in edge.readers:
        _set(reader, "weight", reader.weight * divisors)


def _set(module: Any, name: str, value: Tensor) -> None:
    setattr(module, name, nn.Parameter(value, requires_grad=False))


def _factors(module: nn.Module) -> tuple[nn.Module, ...]:
    """The matrices of a linear map, the first that is multiplied by first."""
    return tuple(module) if isinstance(module, nn.Sequential) else (module,)
