"""Low-rank branches: a block whose linear maps are products of two, nested, so that one branch can be cut to any rank.

A map y = W x with W (out, in) becomes U V x with U (out, R) and V (R, in): R components u_k v_k. They are nested if the
first r of them are the best map of rank r, for every r at once. The measure is the error of the output on the inputs x
that the map really gets, E ||W x - W_r x||². With C = E[x xᵀ] (uncentred) and its symmetric root C^½,

    E ||(W - W_r) x||² = tr((W - W_r) C (W - W_r)ᵀ) = ||W C^½ - W_r C^½||_F²,

and C^½ being invertible, W_r C^½ ranges over all matrices of rank r. By Eckart and Young the best is the truncated SVD
of W C^½ = P S Qᵀ, so W_r = P_r S_r Q_rᵀ C^-½: the first r of the components u_k = s_k p_k, v_k = q_kᵀ C^-½, whatever r
is. Leaving out the others costs the sum of their s_k². So the components are the principal ones of the map's outputs
W x (P and S² are the eigenvectors and eigenvalues of W C Wᵀ), and cutting is slicing.

A C that is singular or nearly so (fewer tokens than dimensions, dead dimensions) is damped by a small multiple of the
identity; at full rank U V = W whatever C is. A component's two factors are scaled to the same norm, which changes no
product and lets an optimiser move both alike. Biases stay. Every map is done by itself, on the inputs that the whole
block gives it.

The paper's EESB and HPCD (arXiv 2512.23407) name low-rank exits and principal components without publishing a formula;
this one is ours. Its relatives: truncation-aware whitening by a Cholesky factor of the same C in SVD-LLM (arXiv
2403.07378), scaling by activation magnitudes in ASVD (arXiv 2312.05821).

Training keeps the nesting if every prefix is trained: `nested_rank` says which prefix takes part at which step (nested
dropout: Rippel et al., arXiv 1402.0915), and factorising again on fresh moments puts the components in order.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import initialization as init

DAMPING = 1e-6
"""Added to C, as a share of its mean eigenvalue."""
GOLDEN = (math.sqrt(5) - 1) / 2


class LowRankLinear(nn.Module):
    """y = U V x + b: a linear map of rank at most R.

    Attributes:
        u, v: the factors (out, R) and (R, in); component k is u[:, k] v[k], the most important first.
        bias: (out,) or None.
        active: how many leading components take part; R but inside `at_rank`.
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

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) to (..., out)."""
        return functional.linear(functional.linear(x, self.v[: self.active]), self.u[:, : self.active], self.bias)

    def initialise(self, std: float) -> None:
        """Draw both factors so that the entries of U V have standard deviation `std`."""
        each = math.sqrt(std) / self.rank**0.25
        init.normal_(self.u, std=each)
        init.normal_(self.v, std=each)
        if self.bias is not None:
            init.zeros_(self.bias)

    def matrix(self) -> Tensor:
        """U V of the components that take part (out, in), in float64."""
        return self.u[:, : self.active].detach().double() @ self.v[: self.active].detach().double()


def split_maps(block: nn.Module, rank: int) -> None:
    """Put an empty `LowRankLinear` of rank R, or a shorter side's, in the place of every linear map of a block."""
    for name, linear in _maps(block):
        _replace(block, name, _empty(linear, rank))


def factorise_maps(block: nn.Module, moments: Mapping[str, Tensor], rank: int) -> None:
    """Factorise the linear maps of a block, whole or factorised before, with components in the order of importance.

    Args:
        block: a decoder block; changed in place.
        moments: C = E[x xᵀ] (in, in) of the inputs of the maps by name; the identity for a map that has none.
        rank: R; a map with a shorter side keeps all of its own components.
    """
    for name, module in _maps(block):
        u, v = components(module.matrix() if isinstance(module, LowRankLinear) else module.weight, moments.get(name))
        _replace(block, name, _filled(module, u, v, rank))


def cut_maps(block: nn.Module, rank: int) -> None:
    """Keep the first `rank` components of every factorised map of a block, in place."""
    for name, module in _maps(block):
        if isinstance(module, LowRankLinear):
            _replace(block, name, _filled(module, module.u, module.v, rank))


def merge_maps(block: nn.Module) -> None:
    """Put dense matrices in the place of a block's factorised maps."""
    for name, module in _maps(block):
        if isinstance(module, LowRankLinear):
            n_out, n_in = _sides(module)
            linear = nn.Linear(n_in, n_out, module.bias is not None, module.u.device, module.u.dtype)
            with torch.no_grad():
                linear.weight.copy_(module.matrix())
                if module.bias is not None:
                    linear.bias.copy_(module.bias)
            _replace(block, name, linear)


def components(matrix: Tensor, moment: Tensor | None) -> tuple[Tensor, Tensor]:
    """All components of W (out, in) in the order of importance under C (in, in): U (out, k) and V (k, in), float64.

    k is the shorter side of W, and U V = W.
    """
    matrix = matrix.detach().double()
    moment = torch.eye(matrix.shape[1]).to(matrix) if moment is None else moment.to(matrix)
    values, vectors = torch.linalg.eigh(moment)
    damping = DAMPING * values.mean() if values.mean() > 0 else 1.0
    roots = (values.clamp_min(0) + damping).sqrt()
    p, s, q = torch.linalg.svd(matrix @ (vectors * roots) @ vectors.T, full_matrices=False)
    u, v = p * s, q @ (vectors / roots) @ vectors.T
    balance = torch.where(s > 0, (v.norm(dim=1) / s).sqrt(), 1.0)
    return u * balance, v / balance.unsqueeze(1)


@contextmanager
def input_moments(block: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Collect C = E[x xᵀ] of the inputs of a block's linear maps, by name, while the block runs inside `with`.

    In float64; the dictionary is filled at the end.
    """
    sums: dict[str, Tensor] = {}
    rows: dict[str, int] = {}
    found: dict[str, Tensor] = {}

    def collect(name: str, x: Tensor) -> None:
        flat = x.detach().flatten(0, -2).double()
        sums[name] = sums.get(name, 0) + flat.T @ flat
        rows[name] = rows.get(name, 0) + len(flat)

    hooks = [
        module.register_forward_pre_hook(lambda _, inputs, name=name: collect(name, inputs[0]))
        for name, module in _maps(block)
    ]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()
    found.update({name: total / rows[name] for name, total in sums.items()})


@contextmanager
def at_rank(module: nn.Module, rank: int) -> Iterator[None]:
    """Let only the first `rank` components of every factorised map under `module` take part inside `with`."""
    maps = [m for m in module.modules() if isinstance(m, LowRankLinear)]
    before = [m.active for m in maps]
    try:
        for m in maps:
            m.active = min(rank, m.rank)
        yield
    finally:
        for m, active in zip(maps, before, strict=True):
            m.active = active


def nested_rank(step: int, rank: int) -> int:
    """How many components of R are trained at a step: all at every other, between them 1..R evenly over time.

    A pure function of the step (golden-ratio sequence), so that a resumed run and every process of one agree.
    """
    return rank if step % 2 == 0 else 1 + int(rank * (GOLDEN * (step + 1) / 2 % 1))


def _maps(block: nn.Module) -> list[tuple[str, LowRankLinear | nn.Linear]]:
    return [(name, m) for name, m in block.named_modules() if isinstance(m, LowRankLinear | nn.Linear)]


def _sides(module: LowRankLinear | nn.Linear) -> tuple[int, int]:
    """(out, in)."""
    if isinstance(module, LowRankLinear):
        return len(module.u), module.v.shape[1]
    return module.out_features, module.in_features


def _empty(module: LowRankLinear | nn.Linear, rank: int) -> LowRankLinear:
    n_out, n_in = _sides(module)
    first = next(module.parameters())
    return LowRankLinear(n_in, n_out, min(rank, n_out, n_in), module.bias is not None).to(first.device, first.dtype)


def _filled(module: LowRankLinear | nn.Linear, u: Tensor, v: Tensor, rank: int) -> LowRankLinear:
    """A map with the first components of U V, and the bias of `module`."""
    new = _empty(module, min(rank, len(v)))
    with torch.no_grad():
        new.u.copy_(u[:, : new.rank])
        new.v.copy_(v[: new.rank])
    new.bias = module.bias
    return new


def _replace(block: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(block.get_submodule(parent), last, module)
