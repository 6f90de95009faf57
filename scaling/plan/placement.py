"""Which layers each tier has, by dynamic programming over layers: every placement that may be the best of any question.

A family that is cut over m tiers has m exits, one at the end of each tier's layers. What a tier adds to a plan depends
on its own number of layers alone (`Stage`), and everything that a plan is judged by is a sum over the tiers or over a
prefix of them. So placements are labels that grow tier by tier, and of two labels that end after the same layer one can
be dropped if the other is at least as good in every sum and has no exit earlier (label setting for shortest paths
with resources, Irnich and Desaulniers, 2005, section 2). A deeper exit has no greater loss under any law of `M0` to
`M3` with positive exponents, so the labels that are left contain the best plan for every objective, every mix of them
and every draw of the law's parameters at once: the law is asked afterwards.

Where too many are left for that, labels stay that no other beats in one objective and in the losses that a few draws of
the law expect, so that every objective alone still has its best plan. What limits a goal sets is compared only as far
as the tiers above leave it open whether a label keeps it (`scaling.plan.ahead`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from scaling.plan.ahead import Ahead, ahead
from scaling.plan.fronts import best_rows
from scaling.plan.sums import (
    COLUMNS,
    COST,
    LATENCY,
    LENGTH,
    OBJECTIVES,
    POWER,
    SLOWEST,
    TPOT,
    TPOT_VAR,
    TTFT,
    TTFT_VAR,
    Limits,
    Stage,
)  # fmt: skip
from scaling.runs import FloatArray, IntArray

MOST_LABELS = 1_500
"""Beyond it, labels are compared by the losses that a law expects, in place of every exit's layer."""


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
class Expected:
    """What a law expects, for where there are too many placements to keep those of all its draws."""

    losses: FloatArray
    """Of an exit after each layer (R, L), at θ and in some draws."""
    least: IntArray
    """Of each tier, the exit's layer below which no draw keeps its ceiling (m,); L + 1 where no layer does."""
    most: IntArray
    """From which every draw does."""


@dataclass(frozen=True, eq=False)
class _Labels:
    """Placements of the first tiers, P of them; sums so far."""

    layers: IntArray
    options: IntArray
    classes_ttft: FloatArray
    classes_tpot: FloatArray
    sums: FloatArray
    """(S, P)"""

    def take(self, index: NDArray[np.int64] | NDArray[np.bool_]) -> "_Labels":
        return _Labels(
            self.layers[index],
            self.options[index],
            self.classes_ttft[index],
            self.classes_tpot[index],
            self.sums[:, index],
        )


def place(
    stages: Sequence[Sequence[Stage]],
    n_layers: int,
    limits: Limits,
    expected: Expected | None = None,
    least: str | None = None,
) -> Placements:
    """Every placement within the limits that is not worse than another in everything.

    Args:
        stages: the tiers in their order, each with its options.
        n_layers: L of the trunk.
        limits: that each class keeps; a class without a share has none.
        expected: losses; where more than `MOST_LABELS` are left after a tier, those that may be best by them.
        least: of `COLUMNS`: what alone is asked for, in place of everything. Goes with `expected`.
    """
    labels, above = _start(len(stages[0][0].sums)), ahead(stages, n_layers)
    for i in range(len(stages)):
        labels = _grown(labels, stages, i, n_layers, limits)
        if expected is not None:
            labels = labels.take(np.asarray((labels.layers >= expected.least[: i + 1]).all(axis=1)))
        labels = labels.take(_hopeful(labels, above[i + 1], n_layers, limits))
        if len(stages[i]) > 1 or i + 1 < len(stages):
            labels = labels.take(_kept(labels, stages[: i + 1], above[i + 1], n_layers, limits, expected, least))
    return _finish(labels)


def place_all(stages: Sequence[Sequence[Stage]], n_layers: int, limits: Limits) -> Placements:
    """Every placement within the limits, without dropping any: what `place` is compared with."""
    labels = _start(len(stages[0][0].sums))
    for i in range(len(stages)):
        labels = _grown(labels, stages, i, n_layers, limits)
    return _finish(labels)


def place_at(stages: Sequence[Sequence[Stage]], layers: Sequence[int], limits: Limits) -> Placements:
    """The placements with exits after these layers, one for each choice of options."""
    only = [
        [replace(stage, possible=stage.possible & (np.arange(1, layers[-1] + 1) == span)) for stage in options]
        for options, span in zip(stages, np.diff(layers, prepend=0).tolist(), strict=True)
    ]
    return place_all(only, layers[-1], limits)


def _start(size: int) -> _Labels:
    none = np.zeros((1, 0))
    return _Labels(none.astype(np.int64), none.astype(np.int64), none, none, np.zeros((size, 1)))


def _grown(labels: _Labels, stages: Sequence[Sequence[Stage]], i: int, n_layers: int, limits: Limits) -> _Labels:
    """With one tier more."""
    above = len(stages) - 1 - i
    made = [_extend(labels, number, stage, n_layers, above, limits) for number, stage in enumerate(stages[i])]
    return _Labels(
        np.concatenate([one.layers for one in made]),
        np.concatenate([one.options for one in made]),
        np.concatenate([one.classes_ttft for one in made]),
        np.concatenate([one.classes_tpot for one in made]),
        np.concatenate([one.sums for one in made], axis=1),
    )


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
    sums = labels.sums[:, which]
    slowest = np.maximum(sums[SLOWEST], stage.slowest[at])
    sums += stage.sums[:, at]
    sums[SLOWEST] = slowest
    sums[LATENCY] += stage.share * (sums[TPOT] + stage.own_tpot)
    ttft, tpot = limits.ttft_of(sums, stage.own_ttft), limits.tpot_of(sums, stage.own_tpot)
    kept = sums[COST] <= limits.cost
    if stage.share > 0:
        kept &= (ttft <= limits.ttft) & (tpot <= limits.tpot)
    which = which[kept]
    return _Labels(
        np.column_stack([labels.layers[which], end[kept]]),
        np.column_stack([labels.options[which], np.full(len(which), option)]),
        np.column_stack([labels.classes_ttft[which], ttft[kept]]),
        np.column_stack([labels.classes_tpot[which], tpot[kept]]),
        sums[:, kept],
    )


def _hopeful(labels: _Labels, above: Ahead, n_layers: int, limits: Limits) -> NDArray[np.bool_]:
    """Which labels may still keep every limit: the tiers above have room, and add the least that they can."""
    least = above.least[:, n_layers - labels.layers[:, -1]]
    found: NDArray[np.bool_] = np.isfinite(least[COST])
    sums = labels.sums + np.where(found, least, 0.0)
    sums[SLOWEST] = labels.sums[SLOWEST]
    found &= sums[COST] <= limits.cost
    if above.last_share > 0:
        found &= limits.ttft_of(sums, above.own_ttft[0]) <= limits.ttft
        found &= limits.tpot_of(sums, above.own_tpot[0]) <= limits.tpot
    return found


def _kept(
    labels: _Labels,
    stages: Sequence[Sequence[Stage]],
    above: Ahead,
    n_layers: int,
    limits: Limits,
    expected: Expected | None,
    least: str | None,
) -> IntArray:
    """Numbers of the labels that no other one, ending after the same layer, equals or beats."""
    sums = labels.sums.copy()
    sums[LATENCY] += above.decided * sums[TPOT]
    open_ = list(_open(labels, above, n_layers, limits))
    if least is None and (expected is None or len(labels.layers) <= MOST_LABELS):
        asked = [any(stage.asked for stage in tier) for tier in stages]
        compared = [[*sums[[COST, POWER, LATENCY]], *open_, *-labels.layers[:, asked].T.astype(float)]]
    else:
        assert expected is not None
        open_ += _losses(labels, [tier[0].share for tier in stages], expected)
        compared = [[*sums[list(COLUMNS[name])], *open_] for name in ([least] if least else OBJECTIVES)]
        compared[0] += _further(labels, stages, least)
    end = labels.layers[:, -1]
    order = np.argsort(end, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(end[order])) + 1)
    kept = np.zeros(len(end), bool)
    for columns in compared:
        rows = np.column_stack(columns) if columns else np.zeros((len(end), 0))
        for group in groups:
            kept[group[best_rows(rows[group])]] = True
    return np.flatnonzero(kept)


def _further(labels: _Labels, stages: Sequence[Sequence[Stage]], least: str | None) -> Iterator[FloatArray]:
    """What decides a question beside sums: the exits' layers, or the longest time so far that somebody waits."""
    if least == "exits":
        yield from -labels.layers.T.astype(float)
    times = {"ttft": labels.classes_ttft, "tpot": labels.classes_tpot}.get(least or "")
    if times is not None:
        yield times[:, [tier[0].share > 0 for tier in stages]].max(axis=1, initial=0.0)


def _open(labels: _Labels, above: Ahead, n_layers: int, limits: Limits) -> Iterator[FloatArray]:
    """Sums that decide whether a label keeps a limit; 0 where it does, whatever comes."""
    sums = labels.sums + np.maximum(above.most[:, n_layers - labels.layers[:, -1]], 0.0)
    if np.isfinite(limits.cost):
        yield np.where(sums[COST] <= limits.cost, 0.0, labels.sums[COST])
    for limit, found, own, columns in (
        (limits.ttft, limits.ttft_of, above.own_ttft[1], (TTFT, TTFT_VAR, LENGTH, SLOWEST)),
        (limits.tpot, limits.tpot_of, above.own_tpot[1], (TPOT, TPOT_VAR)),
    ):
        safe = found(sums, own) <= limit
        if above.decided > 0 and not safe.all():
            yield from np.where(safe, 0.0, labels.sums[list(columns)])


def _losses(labels: _Labels, shares: Sequence[float], expected: Expected) -> Iterator[FloatArray]:
    """Mean losses, and layers as far as the draws differ in whether they keep a ceiling."""
    yield from expected.losses[:, labels.layers - 1] @ np.array(shares)
    for layers, least, most in zip(labels.layers.T, expected.least, expected.most, strict=False):
        if least < most:
            yield -np.minimum(layers, most).astype(float)


def _finish(labels: _Labels) -> Placements:
    return Placements(
        layers=labels.layers,
        options=labels.options,
        ttft=labels.classes_ttft,
        tpot=labels.classes_tpot,
        cost=labels.sums[COST],
        power=labels.sums[POWER],
        latency=labels.sums[LATENCY],
    )
