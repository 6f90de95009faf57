"""Low-rank branches: a linear map that is a product U V is exported as two products, first with V, then with U.

A map keeps its factors where they are fewer weights than their product, R (in + out) < in * out; else it is merged. The
model builder knows dense maps only. It is given one of zeros in the place of two, and its MatMul gives way to theirs.
"""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from onnx import NodeProto, helper
from torch import nn

from exporter.build import maps_of, weight_of
from exporter.graphs import Part, Tensor, f32_tensor
from family.spec import Exit
from training.loaded import LoadedFamily, sharing
from training.lowrank import LowRankLinear


def with_factors(family: LoadedFamily) -> LoadedFamily:
    """The family with a pair of linear maps, `q_proj.0` and `q_proj.1`, for each that is kept in factors.

    Its low-rank branches are of kind `block` then, and a sub-model has their pairs as they are. The spec stays.
    """
    found = sharing(family)
    for g in range(1, family.spec.granularity):
        branch = found.model.branch(g)
        if branch.exit.branch == "lowrank":
            branch.exit = Exit(branch.exit.layer, "block")
            for name, module in list(branch.named_modules()):
                if isinstance(module, LowRankLinear):
                    branch.set_submodule(name, _plain(module))
    return found


def without_factors(block: nn.Module) -> nn.Module:
    """A block for the builder: its own, with a linear map of zeros and the pair's bias for each pair."""
    found = copy.deepcopy(block, {id(parameter): parameter for parameter in block.parameters()})
    for name, module in list(found.named_modules()):
        if isinstance(module, nn.Sequential):
            pair: Any = module
            zeros = torch.zeros(pair[1].out_features, pair[0].in_features)
            found.set_submodule(name, _linear(nn.Parameter(zeros), pair[1].bias))
    return found


def factored(branch: Part, block: nn.Module) -> Part:
    """The builder's graph of a branch `without_factors`, with the products of the block's pairs."""
    nodes: list[NodeProto] = []
    weights = dict(branch.weights)
    for node in branch.nodes:
        maps = {}
        if node.op_type == "MatMul":
            maps = {name: block.get_submodule(name) for name in maps_of(node.input[1])[1]}
        if any(isinstance(module, nn.Sequential) for module in maps.values()):
            nodes += products(node, maps, weights)
        else:
            nodes.append(node)
    return Part(nodes, weights)


def products(node: NodeProto, maps: Mapping[str, nn.Module], weights: dict[str, Tensor]) -> list[NodeProto]:
    """What takes the place of a product of `maps`, side by side where they are several; puts weights into `weights`."""
    found, sides = [], []
    for name, module in maps.items():
        rows = node.input[0]
        for part, linear in module.named_modules(prefix=name):
            if isinstance(linear, nn.Linear):
                weight = weight_of(0, part)
                weights[weight] = f32_tensor(linear.weight.detach().float().numpy().T)
                found.append(helper.make_node("MatMul", [rows, weight], [f"/{part}"], name=f"/{part}/MatMul"))
                rows = f"/{part}"
        sides.append(rows)
    if len(sides) == 1:
        found[-1].output[:] = node.output
    else:
        found.append(helper.make_node("Concat", sides, list(node.output), name=node.name, axis=-1))
    return found


def _plain(module: LowRankLinear) -> nn.Module:
    """The pair of a low-rank map, or their product as one map where that has no more weights."""
    (out, rank), (_, width) = module.u.shape, module.v.shape
    if rank * (width + out) < width * out:
        return nn.Sequential(_linear(module.v, None), _linear(module.u, module.bias))
    return _linear(nn.Parameter(module.matrix().to(module.u.dtype)), module.bias)


def _linear(weight: nn.Parameter, bias: nn.Parameter | None) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
    linear.weight, linear.bias = weight, bias  # type: ignore[assignment]
    return linear
