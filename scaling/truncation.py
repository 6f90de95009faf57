"""How much of a family's loss is truncation and how much interference.

A family's loss is the mean over exits, and an early exit reads a smaller model. So part of the paper's G^gamma (arXiv
2512.23407, eq. 4) is there even if every exit is as good as a dense model of its own size: with L1 the law at G = 1,

    truncation = mean_g L1(N_g, D) / L1(N, D)       interference = loss / mean_g L1(N_g, D)

and their product is the whole factor, loss / L1(N, D). gamma is its logarithm over log G; the truncation's share of it
is log truncation / log whole.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from scaling.errors import ScalingError
from scaling.forms import DENSE
from scaling.frontier import Surface, surface
from scaling.runs import FLOPS_PER_PARAMETER, FloatArray, IntArray, Params, Runs

if TYPE_CHECKING:
    from training.flops import FamilyShape

SAME_SIZE, SAME_TOKENS = 2e-3, 1e-2
"""How near, in relative terms, N and D of a dense partner are to those of an exit."""


@dataclass(frozen=True, eq=False)
class Factors:
    """Of F families, under S parameter vectors: all (S, F) but `g`."""

    g: FloatArray
    """(F,)"""
    truncation: FloatArray
    interference: FloatArray
    last: FloatArray
    """The last exit's loss / L1(N, D); NaN where only the mean is known."""

    @property
    def whole(self) -> FloatArray:
        """Loss / L1(N, D)."""
        return self.truncation * self.interference

    @property
    def gamma(self) -> FloatArray:
        """The exponent of G that the whole factor is."""
        gamma: FloatArray = np.log(self.whole) / np.log(self.g)
        return gamma

    @property
    def truncation_gamma(self) -> FloatArray:
        """The exponent of G that the truncation alone is."""
        gamma: FloatArray = np.log(self.truncation) / np.log(self.g)
        return gamma


def law_factors(law: Surface, family: Surface, n: float, sizes: FloatArray, d: FloatArray, g: int) -> Factors:
    """What a law of the mean loss implies of one configuration, at D (P,).

    Args:
        law: the surface at G = 1.
        family: the same law's surface at G.
        n: N.
        sizes: N_g, (G,).
        d: tokens.
        g: G.
    """
    alone = law.loss(n, d)
    exits = np.mean([law.loss(size, d) for size in sizes], axis=0)
    loss = family.loss(n, d)
    return Factors(np.full(len(d), float(g)), exits / alone, loss / exits, np.full_like(alone, np.nan))


def run_factors(runs: Runs, dense_theta: FloatArray) -> Factors:
    """What rows of (run, exit) show, family by family in the order of their clusters.

    Args:
        runs: rows of exits; those of G = 1 are left out.
        dense_theta: the dense law's θ (S, 5), fitted to runs of G = 1 under the same conventions.

    Raises:
        ScalingError: the rows have no sizes of exits, or there is no family among them.
    """
    if runs.n_exit is None or runs.exit_layer is None:
        raise ScalingError("interference is told from truncation by rows of exits, with layer and n_exit")
    rows = runs.take(runs.g > 1)
    if not len(rows):
        raise ScalingError("there is no family (G > 1) among these runs")
    assert rows.n_exit is not None and rows.exit_layer is not None
    law = surface(DENSE, dense_theta)
    own, alone = law.loss(rows.n_exit, rows.d), law.loss(rows.n, rows.d)  # (S, n)
    columns = []
    for cluster in np.unique(rows.cluster):
        mine = np.flatnonzero(rows.cluster == cluster)
        last = mine[np.argmax(rows.exit_layer[mine])]
        exits = own[:, mine].mean(axis=1)
        whole = alone[:, last]
        columns.append((exits / whole, rows.loss[mine].mean() / exits, rows.loss[last] / whole))
    truncation, interference, last_exit = (np.stack(parts, axis=1) for parts in zip(*columns, strict=True))
    _, first = np.unique(rows.cluster, return_index=True)
    return Factors(rows.g[first], truncation, interference, last_exit)


@dataclass(frozen=True, eq=False)
class Partners:
    """Exits beside dense models of their own size that saw as many tokens: interference without any law."""

    row: IntArray
    """(P,), which row of the runs the exit is."""
    dense: IntArray
    """(P,), and which its partner; an exit with several is there as often."""
    ratio: FloatArray
    """(P,), the exit's loss over that of its partner."""


def partners(runs: Runs) -> Partners:
    """Every pair of an exit of a family and a dense partner of it."""
    if runs.n_exit is None:
        raise ScalingError("exits are compared with dense models of their size, which needs n_exit")
    dense, early = np.flatnonzero(runs.g == 1), np.flatnonzero(runs.g > 1)
    near = (np.abs(runs.n_exit[dense] / runs.n_exit[early, None] - 1) < SAME_SIZE) & (
        np.abs(runs.d[dense] / runs.d[early, None] - 1) < SAME_TOKENS
    )
    row, partner = early[np.nonzero(near)[0]], dense[np.nonzero(near)[1]]
    return Partners(row, partner, runs.loss[row] / runs.loss[partner])


def partner_factors(runs: Runs, dense_theta: FloatArray) -> tuple[IntArray, Factors]:
    """`run_factors` with measured partners in place of the law, for the families all of whose early exits have one.

    The last exit's partner is the dense run of its size whose D is nearest; the law moves its loss from that D to the
    family's, and does nothing else.

    Args:
        runs: rows of exits, dense runs among them.
        dense_theta: the dense law's θ (S, 5).

    Returns:
        The families' clusters (F,), and their factors.

    Raises:
        ScalingError: no family has partners for all its early exits.
    """
    found, law = partners(runs), surface(DENSE, dense_theta)
    assert runs.n_exit is not None and runs.exit_layer is not None
    clusters, columns = [], []
    for cluster in np.unique(runs.cluster[runs.g > 1]):
        mine = np.flatnonzero(runs.cluster == cluster)
        *early, last = mine[np.argsort(runs.exit_layer[mine])]
        dense = np.flatnonzero((runs.g == 1) & (np.abs(runs.n / runs.n_exit[last] - 1) < SAME_SIZE))
        if not len(dense) or not set(early) <= set(found.row):
            continue
        nearest = dense[np.argmin(np.abs(np.log(runs.d[dense] / runs.d[last])))]
        n, d = runs.n[nearest], runs.d[[nearest]]
        whole = runs.loss[nearest] * (law.loss(n, runs.d[[last]]) / law.loss(n, d))[:, 0]  # (S,)
        own = [runs.loss[found.dense[found.row == row]].mean() for row in early]
        exits = np.mean([np.broadcast_to(loss, whole.shape) for loss in (*own, whole)], axis=0)
        clusters.append(cluster)
        columns.append((exits / whole, runs.loss[mine].mean() / exits, runs.loss[last] / whole))
    if not clusters:
        raise ScalingError("no family among these runs has a dense partner for each of its early exits")
    truncation, interference, last_exit = (np.stack(parts, axis=1) for parts in zip(*columns, strict=True))
    g = np.array([runs.g[runs.cluster == cluster][0] for cluster in clusters])
    return np.array(clusters), Factors(g, truncation, interference, last_exit)


def own_sizes(shape: "FamilyShape", params: Params = "total") -> FloatArray:
    """N_g (G,): the trunk's layers up to each exit, its branch and norm, and embedding and head if N counts them."""
    from training.flops import parameters

    counted = parameters(shape)
    norm, embedding = shape.d_model, counted.embedding if params == "total" else 0
    block = (counted.trunk - norm) // shape.n_layers
    branches: Sequence[int] = (*counted.branches[:-1], norm)
    return np.array([embedding + e.layer * block + b for e, b in zip(shape.exits, branches, strict=True)], float)


def preset_factors(law: Surface, family: Surface, shape: "FamilyShape", c: FloatArray, params: Params) -> Factors:
    """`law_factors` of a family's shape at budgets C (P,), with D = C/(6N)."""
    sizes = own_sizes(shape, params)
    n = float(sizes[-1])
    return law_factors(law, family, n, sizes, np.asarray(c) / (FLOPS_PER_PARAMETER * n), shape.granularity)
