"""How many machines a shared tier needs at the traffic's peak, and how long its sessions wait there.

Every machine is given requests at random, and is looked at in all its states (`scaling.plan.sharing`): the largest rate
at which it keeps up, has memory for its sessions and keeps its own share of the goals says how many it takes.
Arithmetic is by element: everything may be arrays of one shape, a candidate each.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from scaling.plan.cost import GraphCost, Number
from scaling.plan.sharing import Demand as Demand
from scaling.plan.sharing import Forward as Forward
from scaling.plan.sharing import States as States
from scaling.plan.sharing import states as states

BUSY = 0.7
"""Load up to which a machine is planned, and up to which the simulation confirms its times."""
TAIL = 3.0
"""Standard deviations above the mean number of sessions for which there has to be memory."""


@dataclass(frozen=True)
class Sized:
    """A tier at its peak; arrays are of the shape of what was asked."""

    machines: Number
    """Whole; infinite where no number of machines holds it."""
    busy: Number
    """Share of the time in which a machine computes."""
    load: Number
    """The same if it could share forwards without end: at 1 it cannot keep up."""
    sessions: Number
    """Texts under way on a machine, the mean."""
    ttft_s: Number
    """From a request to its first token, as far as this tier takes part: mean."""
    ttft_var: Number
    """Its variance, s²."""
    length_s: Number
    """The standard deviation that the prompts' lengths make of it: tiers that read the same prompt have it together."""
    tpot_s: Number
    """Of a further token: mean."""
    tpot_var: Number
    first_alone_s: Number
    """`ttft_s` of a text that meets no other."""
    token_alone_s: Number
    """`tpot_s` of it."""
    usual: Number
    """`busy` in the mean of the day: far more than `busy` over the peak, since with half of the texts a machine does
    nearly as many forwards."""

    def ttft(self, percentile: float) -> Number:
        """Time to first token at a percentile, in seconds."""
        return quantile(self.ttft_s, self.ttft_var, percentile)

    def tpot(self, percentile: float) -> Number:
        """Time per token at a percentile of tokens, in seconds."""
        return quantile(self.tpot_s, self.tpot_var, percentile)


def forward_of(costs: Sequence[GraphCost], exit_: GraphCost | None = None) -> Forward:
    """The forward of segments, and of an exit that decides."""

    def forward(rows: Number, context: Number, wanted: Number, sessions: Number) -> Number:
        parts = [cost.seconds(rows, context, 0, sessions) for cost in costs]
        if exit_ is not None:
            parts.append(exit_.seconds(rows, context, wanted, sessions))
        return sum(parts, start=np.float64(0.0))

    return forward


def quantile(mean: Number, variance: Number, percentile: float) -> Number:
    """Of a positive time of that mean and variance: lognormal, as sums of waits about are."""
    known = np.isfinite(mean)
    log_variance = np.log1p(np.where(known, variance, 0.0) / np.where(known, np.maximum(mean, 1e-300), 1.0) ** 2)
    factor: Number = np.exp(float(ndtri(percentile / 100)) * np.sqrt(log_variance) - log_variance / 2)
    return mean * factor


def sizing(
    forward: Forward,
    demand: Demand,
    session_bytes: Number = 0.0,
    free_bytes: Number = np.inf,
    busy: Number = BUSY,
    ttft_s: float = np.inf,
    tpot_s: float = np.inf,
    percentile: float = 95.0,
    machines: Number | None = None,
) -> Sized:
    """The fewest machines that keep up at the peak, hold all sessions, and keep the tier's own share of the goals.

    Args:
        forward: what a forward takes (`forward_of`).
        demand: what is asked for.
        session_bytes: keys and values of a whole text.
        free_bytes: memory of a machine that is left for them.
        busy: load up to which a machine is planned, below 1.
        ttft_s: most time to first token at the percentile, on this tier alone.
        tpot_s: the same of a further token.
        percentile: of requests and tokens.
        machines: how many there are, instead of asking how many it takes.
    """
    return sized(states(forward, demand), demand, session_bytes, free_bytes, busy, ttft_s, tpot_s, percentile, machines)


def sized(
    state: States,
    demand: Demand,
    session_bytes: Number = 0.0,
    free_bytes: Number = np.inf,
    busy: Number = BUSY,
    ttft_s: float = np.inf,
    tpot_s: float = np.inf,
    percentile: float = 95.0,
    machines: Number | None = None,
) -> Sized:
    """`sizing`, where the states of the demand are known."""
    room = np.maximum(state.held + TAIL * np.sqrt(state.held_var), 1.0) * session_bytes
    limits = (
        (state.load, busy),
        (state.prompts, busy),
        (room, free_bytes),
        (quantile(state.ttft_s, state.ttft_var, percentile), ttft_s),
        (quantile(state.tpot_s, state.tpot_var, percentile), tpot_s),
    )
    most = _largest_rate(state.rate, limits)
    with np.errstate(divide="ignore"):
        needed = np.maximum(np.ceil(demand.rate / most * (1 - 1e-9)), 1.0)
    count = needed if machines is None else np.broadcast_to(np.asarray(machines, float), needed.shape)
    at = state.at(np.where(np.isfinite(count), demand.rate / count, most))
    times = at.ttft_s, at.ttft_var, at.length_s, at.tpot_s, at.tpot_var
    usual = state.at(np.where(np.isfinite(count), demand.rate / demand.peak / count, 0.0)).busy
    return Sized(count, at.busy, at.load, at.held, *times, state.ttft_s[0], state.tpot_s[0], usual)


def _largest_rate(rate: NDArray[np.float64], limits: Sequence[tuple[Number, Number]]) -> NDArray[np.float64]:
    """The largest rate up to which every value (K, ...) keeps its limit, read between two states; 0 where none does."""
    pairs = [np.broadcast_arrays(value, limit, rate)[:2] for value, limit in limits]
    kept = np.logical_and.accumulate(np.logical_and.reduce([value <= limit for value, limit in pairs]), axis=0)
    last = np.clip(kept.sum(axis=0) - 1, 0, len(rate) - 2)[None]
    share = np.ones(last.shape)
    for value, limit in pairs:
        a, b, most = (np.take_along_axis(x, i, 0) for x, i in ((value, last), (value, last + 1), (limit, last)))
        with np.errstate(invalid="ignore", divide="ignore"):
            share = np.where(b > most, np.minimum(share, np.clip((most - a) / (b - a), 0.0, 1.0)), share)
    first, second = np.take_along_axis(rate, last, 0), np.take_along_axis(rate, last + 1, 0)
    largest: NDArray[np.float64] = np.where(kept[0], (first + share * (second - first))[0], 0.0)
    return largest
