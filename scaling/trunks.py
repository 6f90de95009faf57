"""Trunks of several sizes, from which follow a family's exact FLOPs per token and its exits' sizes for any N and G.

A `Trunks` is a recipe: shapes that differ in size, the kind of branch, the training window. With exits at some depths
it becomes a `Ladder`, whose rungs are read between in log N.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from family.spec import Exit
from scaling.costs import Cost, through
from scaling.errors import ScalingError
from scaling.findings import listed
from scaling.frontier import Place
from scaling.runs import FloatArray, Params
from scaling.sweeprows import is_sweep, sweep_shapes
from scaling.table import read_table
from scaling.truncation import own_sizes

if TYPE_CHECKING:
    from training.flops import FamilyShape

PAPER = "paper"
"""Instead of a file: the trunks of arXiv 2512.23407, Table 1, with exits of a norm."""
PAPER_WINDOW = 4096
"""Tokens, which the paper does not say."""


@dataclass(frozen=True)
class Trunks:
    """What families are made of."""

    shapes: tuple["FamilyShape", ...]
    """One for each size, with any exits."""
    branch: str
    """Kind of the early exits' branches."""
    rank: int | None
    window: int
    """Tokens of a training window."""


@dataclass(frozen=True, eq=False)
class Ladder:
    """Families of several sizes and one G, ascending in N."""

    n: FloatArray
    """N (K,)."""
    flops_per_token: FloatArray
    """(K,), every branch and head counted."""
    depth: FloatArray
    """l_g/L (K, G): layers are whole, so it is near what was asked for."""
    size: FloatArray
    """N_g/N (K, G)."""

    @property
    def cost(self) -> Cost:
        """FLOPs per token by N."""
        return through(self.n, self.flops_per_token)

    def places(self, n: FloatArray) -> tuple[Place, ...]:
        """The exits of families of N (P,) parameters; beyond the ladder's ends, those of the end."""
        x, at = np.log(self.n), np.log(n)
        return tuple(
            Place(np.interp(at, x, depth), np.interp(at, x, size))
            for depth, size in zip(self.depth.T, self.size.T, strict=True)
        )


def read_trunks(source: str) -> Trunks:
    """The trunks of a sweep's families, from its `rows.jsonl`, or those of the paper.

    Raises:
        ScalingError: it is no sweep, or its families are not of one kind.
    """
    if source == PAPER:
        from training.presets import PRESETS, TABLES

        return Trunks(tuple(PRESETS[f"dense-{size}"] for size in TABLES), "norm", None, PAPER_WINDOW)
    table = read_table(Path(source))
    if not is_sweep(table):
        raise ScalingError(f"{source}: expected a sweep's rows.jsonl, whose rows say which shape a run has, or {PAPER}")
    shapes, window = sweep_shapes(table)
    kinds = {(e.branch, e.rank) for shape in shapes for e in shape.exits[:-1]}
    if len(kinds) > 1:
        raise ScalingError(f"{source}: the families have branches of several kinds: {listed(sorted(map(str, kinds)))}")
    branch, rank = kinds.pop()
    trunks = {replace(shape, exits=shape.exits[-1:]) for shape in shapes}
    return Trunks(tuple(trunks), branch, rank, window)


def even_depths(g: int) -> tuple[float, ...]:
    """Relative depths of G exits that cut the trunk in equal parts."""
    return tuple(i / g for i in range(1, g + 1))


def ladder(trunks: Trunks, depths: Sequence[float], params: Params) -> Ladder:
    """Families on trunks of several sizes.

    Args:
        trunks: the sizes.
        depths: l_g/L of every exit, ascending, the last 1.
        params: which N the law counts.

    Raises:
        ScalingError: the exits do not fit into a trunk.
    """
    from training.flops import parameters, training_flops

    found = []
    for shape in trunks.shapes:
        layers = [int(depth * shape.n_layers + 0.5) for depth in depths]
        if layers[0] < 1 or (np.diff(layers) < 1).any():
            raise ScalingError(f"{len(layers)} exits at {listed(depths)} of a trunk do not fit {shape.n_layers} layers")
        early = (Exit(layer, trunks.branch, trunks.rank) for layer in layers[:-1])
        family = replace(shape, exits=(*early, Exit(layers[-1], "norm")))
        counted = parameters(family)
        n = counted.total if params == "total" else counted.non_embedding
        flops = training_flops(family, trunks.window).total
        found.append((n, flops, np.array(layers) / shape.n_layers, own_sizes(family, params) / n))
    columns = zip(*sorted(found, key=lambda rung: rung[0]), strict=True)
    n_, flops_, depth, size = (np.array(column, float) for column in columns)
    return Ladder(n_, flops_, depth, size)
