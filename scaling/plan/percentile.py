"""What users see at the traffic's peak: quiet times, what links do to them, and the waits at shared tiers, composed.

A token's time is that of one of a few cases (`model.Case`): who decides it, or whether it comes with the one before.
In each case means add up, and so do variances; a case's times are lognormal, as `queueing.quantile` has them, and the
percentile is that of all cases together. It is never below the mean: of tokens that come in bursts, most take no time.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from scipy.special import ndtr

from scaling.plan.deployment import Deployment
from scaling.plan.fleet import Traffic
from scaling.plan.model import Prediction
from scaling.plan.peak import Served
from scaling.plan.policies import Case
from scaling.plan.queueing import quantile
from scaling.plan.wire import reply_var, transfer_s
from scaling.runs import FloatArray

HALVINGS = 50
LEAST_S = 1e-9


Predicted: TypeAlias = tuple[Deployment, Prediction]


@dataclass(frozen=True)
class Peak:
    """Of one deployment, in seconds."""

    ttft_s: float
    """At the percentile of texts."""
    tpot_s: float
    """At that of tokens."""
    ttft_mean_s: float
    tpot_mean_s: float


def peaks(
    own: str, traffic: Traffic, percentile: float, found: Sequence[Predicted], served: Sequence[Sequence[Served]]
) -> list[Peak]:
    """What users see of deployments whose places are served so; `own` is the tier of the users' own machines."""
    if not found:
        return []
    each = list(zip(found, served, strict=True))
    first = _table([list(_firsts(own, traffic, *one, tiers)) for one, tiers in each])
    tokens = _table([list(_tokens(traffic, *one, tiers)) for one, tiers in each])
    ttft_s, tpot_s = _mean(first), np.array([_tpot_s(traffic, one[1], tiers) for one, tiers in each])
    columns = (np.maximum(_at(first, percentile), ttft_s), np.maximum(_at(tokens, percentile), tpot_s), ttft_s, tpot_s)
    return [Peak(*map(float, row)) for row in zip(*columns, strict=True)]


def _tpot_s(traffic: Traffic, found: Prediction, served: Sequence[Served]) -> float:
    waits = zip(_questions(traffic, found, served), served, strict=True)
    return float(found.tpot_s) + sum(times * tier.wait_s for times, tier in waits)


def _questions(traffic: Traffic, found: Prediction, served: Sequence[Served]) -> list[float]:
    """To each place, for a token after the first that waits for them."""
    (first, *_), further = found.first, max(traffic.output_tokens - 1, 1.0)
    asked = [(tier.questions - first.more * (i == first.reaches)) / further for i, tier in enumerate(served)]
    return [asked[0] * (1 - found.beside), *asked[1:]]


Timed: TypeAlias = tuple[float, float, float]
"""A case's share, mean and variance."""


def _firsts(
    own: str, traffic: Traffic, deployment: Deployment, found: Prediction, served: Sequence[Served]
) -> Iterator[Timed]:
    """What machines and links take for a prompt grows with its length, on all of them at once."""
    client = (deployment.client,) if deployment.client else ()
    entry = deployment.places[0].tier
    own_s = float(found.busy_s[entry][0]) if entry == own else 0.0
    for case in found.first:
        links, tiers = deployment.links[: case.reaches], served[: case.reaches + 1]
        rows_s = sum(
            float(transfer_s(found.link_up_prompt[i], link.up_bps)) / _reaching(found.first, i + 1)
            for i, link in enumerate(links)
        )
        mean_s = float(case.seconds) + sum(tier.first_wait_s for tier in tiers) + case.more * tiers[-1].wait_s
        length_var = (traffic.prompt_cv * (own_s + rows_s) + sum(tier.length_s for tier in tiers)) ** 2
        way_var = float(sum(map(reply_var, (*client, *links))))
        var = length_var + way_var + sum(tier.first_var for tier in tiers) + case.more * tiers[-1].var
        yield case.share, mean_s, var


def _tokens(traffic: Traffic, deployment: Deployment, found: Prediction, served: Sequence[Served]) -> Iterator[Timed]:
    cases, asked = found.further, _questions(traffic, found, served)
    for case in cases:
        times = [asked[i] / max(_reaching(cases, i), LEAST_S) for i in range(case.reaches + 1)]
        links = deployment.links[: max(case.reaches, 0)]
        waits = [(n * tier.wait_s, n * tier.var) for n, tier in zip(times, served, strict=False)]
        mean_s = float(case.seconds) + sum(wait_s for wait_s, _ in waits)
        yield case.share, mean_s, float(sum(map(reply_var, links))) + sum(var for _, var in waits)


def _reaching(cases: Sequence[Case], place: int) -> float:
    return sum(case.share for case in cases if case.reaches >= place)


def _table(found: Sequence[Sequence[Timed]]) -> FloatArray:
    """(cases, 3, deployments), of shares that are 1 together; what is missing has none."""
    most = max(map(len, found))
    table = np.array([[*cases, *[(0.0, 0.0, 0.0)] * (most - len(cases))] for cases in found]).transpose(1, 2, 0)
    table[:, 0] /= table[:, 0].sum(axis=0)
    return table


def _mean(table: FloatArray) -> FloatArray:
    found: FloatArray = (table[:, 0] * table[:, 1]).sum(axis=0)
    return found


def _at(table: FloatArray, percentile: float) -> FloatArray:
    """The percentile of all cases together, by halving between those of the quickest and the slowest."""
    share, mean, var = (table[:, i] for i in range(3))
    mean = np.maximum(mean, LEAST_S)
    high: FloatArray = np.where(share > 0, quantile(mean, var, percentile), 0.0).max(axis=0)
    low = np.zeros_like(high)
    log_var = np.maximum(np.log1p(var / mean**2), LEAST_S)
    middle = np.log(mean) - log_var / 2
    for _ in range(HALVINGS):
        half = (low + high) / 2
        below = (share * ndtr((np.log(np.maximum(half, LEAST_S)) - middle) / np.sqrt(log_var))).sum(axis=0)
        low, high = np.where(below < percentile / 100, half, low), np.where(below < percentile / 100, high, half)
    return high
