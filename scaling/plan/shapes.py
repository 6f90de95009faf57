"""Trunks that may be trained, and a family's exact numbers: N, D, the sizes of its exits.

Parameters and FLOPs are those of `training.flops`, every branch and every head counted.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from family.spec import SCRATCH, SCRATCH_UNTIED, SPEC_VERSION, Base, Exit, FamilySpec
from scaling.errors import ScalingError
from scaling.frontier import LAST, optimum, surface
from scaling.plan.exitlaw import ExitLaw
from scaling.plan.fleet import Training, Trunk
from scaling.runs import FloatArray, Params
from training.flops import FamilyShape, parameters, training_flops

LEAST_LAYERS = 8
WIDEST = 16_384
STEP = 1.12
"""Of widths, one to the next, at least."""
REACH = 12.0
"""N of the largest trunk that is tried, over the best size of a dense model. There is no smallest: a fleet may hold no
more, and a plan must not get worse because more compute moved the ladder."""
NEAR = 1.15
"""Trunks whose N is within this factor of an N that the fleet fixes."""


@dataclass(frozen=True, eq=False)
class Made:
    """A family of G exits on a trunk, wherever its early exits stand: N and D do not depend on where."""

    shape: FamilyShape
    """With its early exits after the first layers."""
    spec: FamilySpec
    """The same."""
    n: float
    """N, as the law counts it."""
    d: float
    """D, tokens."""
    flops: float
    """C of the run."""
    sizes: FloatArray
    """N_g over N of an exit after layer 1..L - 1 (L,), and of the last exit."""

    @property
    def granularity(self) -> int:
        """G."""
        return self.shape.granularity

    @property
    def depths(self) -> FloatArray:
        """l/L of layers 1..L."""
        return np.arange(1, self.shape.n_layers + 1) / self.shape.n_layers


def trunks(training: Training, law: ExitLaw) -> tuple[FamilyShape, ...]:
    """The trunks that a fleet allows, without early exits, small to large.

    Widths that are not named are a ladder around the best size of a dense model for the compute, or around N.

    Raises:
        ScalingError: no trunk is possible.
    """
    trunk = training.trunk
    found = [shape for width in trunk.widths or _ladder(trunk) for shape in _of_width(trunk, width)]
    if not found:
        raise ScalingError("training.trunk: no width is a multiple of head_dim; give widths that are")
    found.sort(key=lambda shape: count(shape, law.params))
    sizes = np.array([count(shape, law.params) for shape in found])
    if training.parameters:
        far = np.abs(np.log(sizes / training.parameters))
        return tuple(found[i] for i in np.flatnonzero(far <= max(np.log(NEAR), far.min())))
    if trunk.widths:
        return tuple(found)
    most = max(REACH * _best_dense(training, law, found), sizes.min())
    return tuple(found[i] for i in np.flatnonzero(sizes <= most))


def make(trunk: FamilyShape, g: int, training: Training, law: ExitLaw) -> Made:
    """A family of G exits on a trunk, with the tokens that the budget leaves it.

    Raises:
        ScalingError: the trunk has fewer layers than exits.
    """
    if g > trunk.n_layers:
        raise ScalingError(f"{g} exits need as many layers, the trunk has {trunk.n_layers}")
    settings = training.trunk
    early = tuple(Exit(layer, settings.branch, settings.rank) for layer in range(1, g))
    shape = replace(trunk, exits=(*early, Exit(trunk.n_layers, "norm")))
    n = count(shape, law.params)
    per_token = training_flops(shape, settings.context).total
    d = training.tokens or (training.compute_flops or 0.0) / per_token
    spec = spec_of(shape, settings, "family")
    return Made(shape, spec, n, d, d * per_token, exit_sizes(shape, settings, law.params) / n)


def exit_sizes(shape: FamilyShape, settings: Trunk, params: Params) -> FloatArray:
    """N_g (L,) of an exit after each layer: layers, embedding and head if N counts them, branch and norm."""
    bare = parameters(replace(shape, exits=(Exit(shape.n_layers, "norm"),)))
    block = (bare.trunk - shape.d_model) // shape.n_layers
    early = parameters(replace(shape, exits=(Exit(1, settings.branch, settings.rank), Exit(shape.n_layers, "norm"))))
    branch = np.full(shape.n_layers, float(early.branches[0]))
    branch[-1] = shape.d_model
    embedding = bare.embedding if params == "total" else 0
    sizes: FloatArray = embedding + block * np.arange(1.0, shape.n_layers + 1) + branch
    return sizes


def spec_of(shape: FamilyShape, settings: Trunk, name: str) -> FamilySpec:
    """The spec of a family that begins with random weights; `train-family --spec` takes it."""
    return FamilySpec(
        schema_version=SPEC_VERSION,
        name=name,
        base=Base(SCRATCH if shape.tied else SCRATCH_UNTIED, ""),
        architecture="LlamaForCausalLM",
        n_layers=shape.n_layers,
        d_model=shape.d_model,
        d_ff=shape.d_ff,
        n_heads=shape.n_heads,
        kv_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        vocab_size=shape.vocab_size,
        context=settings.context,
        exits=shape.exits,
    )


def count(shape: FamilyShape, params: Params) -> float:
    """N of a family, as a law counts it."""
    counted = parameters(shape)
    return float(counted.total if params == "total" else counted.non_embedding)


def trunk_shape(trunk: Trunk, width: int, layers: int) -> FamilyShape:
    """A Llama trunk of a width and depth, without early exits."""
    heads = width // trunk.head_dim
    keys = heads if heads % trunk.queries_per_key else heads // trunk.queries_per_key
    return FamilyShape(
        d_model=width,
        d_ff=max(16, round(trunk.ff_ratio * width / 16) * 16),
        n_layers=layers,
        n_heads=heads,
        kv_heads=keys,
        head_dim=trunk.head_dim,
        vocab_size=trunk.vocab_size,
        tied=trunk.tied,
        block_vectors=2 * width,
        exits=(Exit(layers, "norm"),),
    )


def _of_width(trunk: Trunk, width: int) -> Iterator[FamilyShape]:
    if width < trunk.head_dim or width % trunk.head_dim:
        return
    for layers in trunk.layers or (max(LEAST_LAYERS, round(width / trunk.aspect)),):
        yield trunk_shape(trunk, width, layers)


def _ladder(trunk: Trunk) -> Iterator[int]:
    """Whole groups of heads, each width at least `STEP` times the one before, up to `WIDEST`."""
    group = trunk.head_dim * trunk.queries_per_key
    width = group
    while width <= max(WIDEST, group):
        yield width
        width = max(width + group, math.ceil(width * STEP / group) * group)


def _best_dense(training: Training, law: ExitLaw, found: list[FamilyShape]) -> float:
    """N* of a dense model for the compute, by 6ND; the middle of the trunks where a law has no best size."""
    best = optimum(surface(law.form, law.theta, 1, LAST), training.compute_flops or 0.0).n[0, 0]
    return float(best) if np.isfinite(best) else count(found[len(found) // 2], law.params)
