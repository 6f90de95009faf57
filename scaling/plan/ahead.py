"""What the tiers above a label add to its sums, at least and at most, by how many layers are left to them.

With the first a label that can keep no goal any more is dropped early, with the second one is known to keep a goal
whatever comes: what the goal limits does not set it apart from others then.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scaling.plan.sums import LATENCY, TPOT, Stage
from scaling.runs import FloatArray


@dataclass(frozen=True, eq=False)
class Ahead:
    """Of the tiers from one on, for 0..L layers."""

    least: FloatArray
    """(S, L + 1), infinite where these tiers cannot have so many layers."""
    most: FloatArray
    """The same, minus infinity there; of what is the largest of all tiers it is the sum, which is no less."""
    decided: float
    """Share of requests that they decide; `LATENCY` counts them."""
    last_share: float
    """The last one's; 0 where there is none above."""
    own_ttft: tuple[float, float]
    """Least of the last tier, and most of all."""
    own_tpot: tuple[float, float]


def ahead(stages: Sequence[Sequence[Stage]], n_layers: int) -> list[Ahead]:
    """Of the tiers from each one on, and of none."""
    size = len(stages[0][0].sums)
    none = np.full((size, n_layers + 1), np.inf)
    none[:, 0] = 0.0
    found = [Ahead(none, np.where(none > 0, -np.inf, none), 0.0, 0.0, (0.0, 0.0), (0.0, 0.0))]
    for options in reversed(stages):
        found.append(_with(options, found[-1], last=len(found) == 1))
    return found[::-1]


def _with(options: Sequence[Stage], above: Ahead, last: bool) -> Ahead:
    decided = above.decided + options[0].share
    added = [_added(stage, decided) for stage in options]
    possible = np.array([stage.possible for stage in options])[:, None]
    own = [(stage.own_ttft, stage.own_tpot) for stage in options]
    (low_ttft, low_tpot), (high_ttft, high_tpot) = np.min(own, axis=0), np.max(own, axis=0)
    return Ahead(
        _least_sums(np.where(possible, added, np.inf).min(axis=0), above.least),
        -_least_sums(-np.where(possible, added, -np.inf).max(axis=0), -above.most),
        decided,
        options[0].share if last else above.last_share,
        (low_ttft if last else above.own_ttft[0], max(high_ttft, above.own_ttft[1])),
        (low_tpot if last else above.own_tpot[0], max(high_tpot, above.own_tpot[1])),
    )


def _added(stage: Stage, decided: float) -> FloatArray:
    """What a tier adds; to the latency, its part of all that is decided from it on."""
    sums = stage.sums.copy()
    sums[LATENCY] = decided * stage.sums[TPOT] + stage.share * stage.own_tpot
    return sums


def _least_sums(own: FloatArray, above: FloatArray) -> FloatArray:
    """The least of own[k - 1] + above[r - k] over k, for r = 0..L."""
    n_layers = own.shape[1]
    rest = np.arange(n_layers + 1)[:, None] - np.arange(1, n_layers + 1)  # (L + 1, L)
    sums = np.where(rest >= 0, own[:, None] + above[:, rest], np.inf)
    found: FloatArray = sums.min(axis=2)
    return found
