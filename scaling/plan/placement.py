"""Which layers each tier has, by dynamic programming over layers: every placement that may be the best of any question.

A family that is cut over m tiers has m exits, one at the end of each tier's layers. What a tier adds to a plan depends
on its own number of layers alone (`Stage`), and everything that a plan is judged by is a sum over the tiers or over a
prefix of them. So placements are labels that grow tier by tier, and of two labels that end after the same layer one can
be dropped if the other is at least as good in every sum and has no exit earlier (label setting for shortest paths
with resources, Irnich and Desaulniers, 2005, section 2). A deeper exit has no greater loss under any law of `M0` to
`M3` with positive exponents, so the labels that are left contain the best plan for every objective, every mix of them
and every draw of the law's parameters at once: the law is asked afterwards.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scaling.runs import FloatArray, IntArray

BLOCK = 256
"""Rows that are compared with each other at once."""
MOST_LABELS = 1_500
"""Beyond it, labels are compared by the loss that a law expects at its θ, in place of every exit's layer."""


@dataclass(frozen=True, eq=False)
class Stage:
    """One option of a tier (a precision, a load), by how many layers it has.

    Every array is (L,), for 1..L layers, seconds unless it says other.

    Times pass on to the tiers above; those of `own_*` count for what is decided here only.
    """

    share: float
    """Of requests, decided here."""
    asked: bool
    """Whether its exit's loss matters: it decides something, or a goal says how good it has to be."""
    ttft: FloatArray
    """Of the first part of a prompt: the way here, its layers here, and the answer's way back."""
    slowest: FloatArray
    """The slower of the way here and the layers, for a part: what each further part waits for."""
    tpot: FloatArray
    """Mean time of a token, with the way here and back."""
    ttft_var: FloatArray
    """Variance, s²."""
    tpot_var: FloatArray
    own_ttft: float
    own_tpot: float
    cost: FloatArray
    """Currency per hour, all machines of the tier."""
    power: FloatArray
    """Watts, all machines of the tier."""
    possible: NDArray[np.bool_]
    """Whether the machines hold it, and there are enough."""


@dataclass(frozen=True)
class Limits:
    """What every class of requests has to keep; infinite where there is no goal."""

    ttft: float = np.inf
    tpot: float = np.inf
    cost: float = np.inf
    normal: float = 0.0
    """Standard deviations above the mean at which times are compared."""
    parts: int = 1
    """That a prompt goes up in, each while the next is computed."""


@dataclass(frozen=True, eq=False)
class Placements:
    """P placements of m exits."""

    layers: IntArray
    """l_g (P, m)."""
    options: IntArray
    """Which option each tier has (P, m)."""
    ttft: FloatArray
    """Of each class at the percentile (P, m), seconds."""
    tpot: FloatArray
    cost: FloatArray
    """(P,), currency per hour."""
    power: FloatArray
    """(P,), watts."""
    latency: FloatArray
    """(P,), mean TPOT over the classes, seconds."""

    def __len__(self) -> int:
        return len(self.layers)

    def take(self, index: NDArray[np.int64] | NDArray[np.bool_]) -> "Placements":
        """Some of them."""
        return Placements(**{name: array[index] for name, array in vars(self).items()})


@dataclass(frozen=True, eq=False)
class _Labels:
    """Placements of the first tiers, P of them; sums so far."""

    layers: IntArray
    options: IntArray
    classes_ttft: FloatArray
    classes_tpot: FloatArray
    sums: FloatArray
    """(P, 8): TTFT, TPOT, their variances, cost, power, latency; and the slowest step of a prompt's part so far."""


TTFT, TPOT, TTFT_VAR, TPOT_VAR, COST, POWER, LATENCY, SLOWEST = range(8)


@dataclass(frozen=True, eq=False)
class Expected:
    """What a law expects at its θ, for where there are too many placements to keep those of all its draws."""

    losses: FloatArray
    """Of an exit after each layer (L,)."""
    ceilings: FloatArray
    """Most loss of each tier's exit (m,)."""


def place(
    stages: Sequence[Sequence[Stage]], n_layers: int, limits: Limits, expected: Expected | None = None
) -> Placements:
    """Every placement within the limits that is not worse than another in everything.

    With `expected`, where more than `MOST_LABELS` are left after a tier, only those that may be best at the law's θ.

    Args:
        stages: the tiers in their order, each with its options.
        n_layers: L of the trunk.
        limits: that each class keeps; a class without a share has none.
        expected: losses.
    """
    return _finish(_grow(stages, n_layers, limits, prune=True, expected=expected))


def place_all(stages: Sequence[Sequence[Stage]], n_layers: int, limits: Limits) -> Placements:
    """Every placement within the limits, without dropping any: what `place` is compared with."""
    return _finish(_grow(stages, n_layers, limits, prune=False))


def _grow(
    stages: Sequence[Sequence[Stage]], n_layers: int, limits: Limits, prune: bool, expected: Expected | None = None
) -> _Labels:
    none = np.zeros((1, 0))
    labels = _Labels(none.astype(np.int64), none.astype(np.int64), none, none, np.zeros((1, 8)))
    for i, options in enumerate(stages):
        above = len(stages) - 1 - i
        grown = [_extend(labels, number, stage, n_layers, above, limits) for number, stage in enumerate(options)]
        labels = _Labels(*(np.concatenate(parts) for parts in zip(*map(_arrays, grown), strict=True)))
        if prune and (above or len(options) > 1):
            below = stages[: i + 1]
            quality = -labels.layers[:, [any(stage.asked for stage in tier) for tier in below]].astype(float)
            if expected is not None and len(quality) > MOST_LABELS:
                losses = expected.losses[labels.layers - 1]
                allowed = (losses <= expected.ceilings[: i + 1]).all(axis=1)
                labels = _Labels(*(array[allowed] for array in _arrays(labels)))
                quality = (losses[allowed] @ [tier[0].share for tier in below])[:, None]
            labels = _kept(labels, quality)
    return labels


def _arrays(labels: _Labels) -> tuple[NDArray[Any], ...]:
    return labels.layers, labels.options, labels.classes_ttft, labels.classes_tpot, labels.sums


def _extend(labels: _Labels, option: int, stage: Stage, n_layers: int, above: int, limits: Limits) -> _Labels:
    """Every label with every number of layers that leaves one for each tier above, or all that are left."""
    start = labels.layers[:, -1] if labels.layers.shape[1] else np.zeros(len(labels.layers), np.int64)
    ends = np.arange(1, n_layers + 1)[None] if above else np.full((1, 1), n_layers)
    span = ends - start[:, None]
    allowed = (span >= 1) & (ends <= n_layers - above)
    allowed &= stage.possible[np.clip(span, 1, n_layers) - 1]
    which, column = np.nonzero(allowed)
    end = ends[0, column]
    at = end - start[which] - 1
    sums = labels.sums[which].copy()
    for place_, array in ((TTFT, stage.ttft), (TPOT, stage.tpot), (TTFT_VAR, stage.ttft_var)):
        sums[:, place_] += array[at]
    for place_, array in ((TPOT_VAR, stage.tpot_var), (COST, stage.cost), (POWER, stage.power)):
        sums[:, place_] += array[at]
    sums[:, SLOWEST] = np.maximum(sums[:, SLOWEST], stage.slowest[at])
    tpot = sums[:, TPOT] + stage.own_tpot
    sums[:, LATENCY] += stage.share * tpot
    ttft = sums[:, TTFT] + stage.own_ttft + (limits.parts - 1) * sums[:, SLOWEST]
    ttft_p = ttft + limits.normal * np.sqrt(sums[:, TTFT_VAR])
    tpot_p = tpot + limits.normal * np.sqrt(sums[:, TPOT_VAR])
    kept = sums[:, COST] <= limits.cost
    if stage.share > 0:
        kept &= (ttft_p <= limits.ttft) & (tpot_p <= limits.tpot)
    return _Labels(
        np.column_stack([labels.layers[which], end])[kept],
        np.column_stack([labels.options[which], np.full(len(which), option)])[kept],
        np.column_stack([labels.classes_ttft[which], ttft_p])[kept],
        np.column_stack([labels.classes_tpot[which], tpot_p])[kept],
        sums[kept],
    )


def _kept(labels: _Labels, quality: FloatArray) -> _Labels:
    """Without those that another one, ending after the same layer, beats or equals in every sum and in `quality`."""
    rows = np.column_stack([labels.sums, quality])
    kept = np.zeros(len(rows), bool)
    for end in np.unique(labels.layers[:, -1]):
        group = np.flatnonzero(labels.layers[:, -1] == end)
        kept[group[best_rows(rows[group])]] = True
    return _Labels(*(array[kept] for array in _arrays(labels)))


def best_rows(rows: FloatArray) -> IntArray:
    """Numbers of the rows (n, r) that no other row equals or beats in every column; of equal rows the first."""
    _, first = np.unique(rows, axis=0, return_index=True)  # sorted, so that a row is beaten only by an earlier one
    rows, kept = rows[first], np.zeros(0, np.int64)
    for i in range(0, len(rows), BLOCK):
        part = np.arange(i, min(i + BLOCK, len(rows)))
        part = part[~_beaten(rows[kept], rows[part])]
        inside = np.array((rows[part][:, None] <= rows[part][None]).all(axis=-1))
        np.fill_diagonal(inside, False)
        kept = np.concatenate([kept, part[~inside.any(axis=0)]])
    return np.sort(first[kept])


def _beaten(front: FloatArray, rows: FloatArray) -> NDArray[np.bool_]:
    """Which rows one of the front equals or beats in every column."""
    beats = np.ones((len(front), len(rows)), bool)
    for column in range(rows.shape[1]):
        beats &= front[:, [column]] <= rows[:, column]
    return np.asarray(beats.any(axis=0))


def _finish(labels: _Labels) -> Placements:
    return Placements(
        layers=labels.layers,
        options=labels.options,
        ttft=labels.classes_ttft,
        tpot=labels.classes_tpot,
        cost=labels.sums[:, COST],
        power=labels.sums[:, POWER],
        latency=labels.sums[:, LATENCY],
    )
