"""Low-rank branches: linear maps as a product of two, so that one trained branch can be cut to any smaller rank."""

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import initialization as init


class LowRankLinear(nn.Module):
    """y = U V x + b with U (out, R) and V (R, in): a linear map of rank at most R.

    Attributes:
        u, v: the two factors; component k is u[:, k] v[k], the most important first.
        bias: (out,) or None.
        active: how many leading components take part, R unless training asks for fewer.
    """

    def __init__(self, in_features: int, out_features: int, rank: int, bias: bool) -> None:
        super().__init__()
        self.u = nn.Parameter(torch.empty(out_features, rank))
        self.v = nn.Parameter(torch.empty(rank, in_features))
        self.bias = nn.Parameter(torch.empty(out_features)) if bias else None
        self.active = rank

    @property
    def rank(self) -> int:
        """R."""
        return len(self.v)

    def initialise(self, std: float) -> None:
        """Draw both factors so that the entries of U V have standard deviation `std`."""
        each = (std / self.rank**0.5) ** 0.5
        init.normal_(self.u, std=each)
        init.normal_(self.v, std=each)
        if self.bias is not None:
            init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) to (..., out)."""
        return functional.linear(functional.linear(x, self.v[: self.active]), self.u[:, : self.active], self.bias)

    def dense(self) -> nn.Linear:
        """The same map as one matrix."""
        out_features, in_features = len(self.u), self.v.shape[1]
        linear = nn.Linear(in_features, out_features, self.bias is not None, self.u.device, self.u.dtype)
        with torch.no_grad():
            linear.weight.copy_((self.u.double() @ self.v.double()).to(self.u.dtype))
            if self.bias is not None:
                linear.bias.copy_(self.bias)
        return linear


def factorised(block: nn.Module, rank: int) -> None:
    """Put an empty `LowRankLinear` in the place of every linear map of a block, at `rank` or its shorter side."""
    for name, linear in _linears(block):
        shorter = min(linear.in_features, linear.out_features)
        _replace(
            block,
            name,
            LowRankLinear(linear.in_features, linear.out_features, min(rank, shorter), linear.bias is not None),
        )


def merged(block: nn.Module) -> nn.Module:
    """A copy of a block with dense matrices in the place of its factorised maps."""
    block = copy.deepcopy(block)
    for name, module in list(block.named_modules()):
        if isinstance(module, LowRankLinear):
            _replace(block, name, module.dense())
    return block


def _linears(block: nn.Module) -> list[tuple[str, nn.Linear]]:
    return [(name, module) for name, module in block.named_modules() if isinstance(module, nn.Linear)]


def _replace(block: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(block.get_submodule(parent), last, module)
