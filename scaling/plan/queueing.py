"""Machines that a shared tier needs at the traffic's peak, and how long a session waits there.

Every machine is given requests at random, so that they come to it as a Poisson stream, and does forward after forward.
All sessions that wait for a token share the next one; a prompt's rows ride along, as many as add the time that the
tokens alone take, or up to 512 where no session decodes; of several prompts each has its turn. So decoding is one
server whose speed depends on how many it serves, shared equally: by how many others a token meets, n, its forward
takes F(1 + n) (the product form of such queues is insensitive to the lengths of texts: Cohen 1979, Acta Informatica
12, "The multiple phase service network with generalized processor sharing"). n is given first, and the load follows:

    step    τ = F(1 + n),  with rows of a prompt  τ' = τ + rows · (time of a row)
    prompt  S: its rows' forwards, those of sessions that decode in the meantime included
    load    n = λ·O·τₑ,  1/τₑ = (1 - λS)/τ + λS/τ',  so that  λ = n / (O·τ + n·S·(1 - τ/τ'))
    first   S / (1 - λS), prompts sharing what they may take, and what is left of the forward under way

`scaling.plan.simulate` plays the same machine event by event; `benchmarks.plan_queueing` holds these against it, and
up to which load they agree. Arithmetic is by element: everything may be arrays of one shape, a candidate each.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from scaling.plan.cost import GraphCost, Number

MOST_ROWS = 512
"""Rows of one forward, as nodes have it (`relay.session.ROWS_PER_FORWARD`)."""
LEAST_ROWS = 8
"""Of a prompt, in a forward that others share."""
BUSY = 0.7
"""Load up to which a machine is planned: beyond it, theory and simulation part."""
GRID = 64
"""Numbers of other sessions at which a machine is looked at, from 0.001 to as many as it may have."""
MOST_SESSIONS = 512
TAIL = 3.0
"""Standard deviations above the mean number of sessions for which there has to be memory."""

Forward = Callable[[Number, Number, Number, Number], Number]
"""Seconds of a forward of everything that a tier does for a row: (rows, context, wanted, sessions), as `GraphCost`."""


@dataclass(frozen=True)
class Demand:
    """What a tier is asked for at the peak."""

    rate: Number
    """Requests per second, of all machines together."""
    prompt_tokens: Number
    output_tokens: Number
    """Means."""
    prompt_cv: float = 1.0
    """Standard deviation of the prompts' lengths over their mean."""
    away_s: Number = 0.0
    """From a token's answer to the session's next question: what other tiers and the links take. 0: the tier writes on
    by itself, and a session is always in the next forward."""


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
    tpot_s: Number
    """Of a further token: mean."""
    tpot_var: Number

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
    log_variance = np.log1p(variance / np.maximum(mean, 1e-300) ** 2)
    return mean * np.exp(float(ndtri(percentile / 100)) * np.sqrt(log_variance) - log_variance / 2)


def sizing(
    forward: Forward,
    demand: Demand,
    session_bytes: Number = 0.0,
    free_bytes: Number = np.inf,
    busy: float = BUSY,
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
    state = _states(forward, demand)
    room = np.maximum(state.held + TAIL * np.sqrt(state.held_var), 1.0) * session_bytes
    kept = (state.load <= busy) & (state.prompts <= busy) & (room <= free_bytes)
    kept &= quantile(state.ttft_s, state.ttft_var, percentile) <= ttft_s
    kept &= quantile(state.tpot_s, state.tpot_var, percentile) <= tpot_s
    most = np.where(np.logical_and.accumulate(kept, axis=0), state.rate, 0.0).max(axis=0)
    with np.errstate(divide="ignore"):
        needed = np.maximum(np.ceil(demand.rate / most * (1 - 1e-9)), 1.0)
    count = needed if machines is None else np.broadcast_to(np.asarray(machines, float), needed.shape)
    at = state.at(np.where(np.isfinite(count), demand.rate / count, most))
    return Sized(count, at.busy, at.load, at.held, at.ttft_s, at.ttft_var, at.tpot_s, at.tpot_var)


@dataclass(frozen=True)
class _States:
    """A machine by how many others a token meets; arrays (K, ...), along the first axis from few to many."""

    rate: NDArray[np.float64]
    """Requests per second that lead to it."""
    busy: NDArray[np.float64]
    load: NDArray[np.float64]
    prompts: NDArray[np.float64]
    """Share of the time in which a prompt is under way."""
    held: NDArray[np.float64]
    """Sessions, those that are away included."""
    held_var: NDArray[np.float64]
    ttft_s: NDArray[np.float64]
    ttft_var: NDArray[np.float64]
    tpot_s: NDArray[np.float64]
    tpot_var: NDArray[np.float64]

    def at(self, rate: NDArray[np.float64]) -> "_States":
        """The state that a rate leads to, read between two of these; times are infinite beyond the last."""
        last = len(self.rate) - 2
        low = np.clip((self.rate <= rate).sum(axis=0) - 1, 0, last)[None]
        first, second = np.take_along_axis(self.rate, low, 0), np.take_along_axis(self.rate, low + 1, 0)
        share = np.clip((rate - first) / (second - first), 0.0, None)
        share = np.where((low == last) & (share > 1), np.inf, share)

        def read(values: NDArray[np.float64]) -> NDArray[np.float64]:
            a, b = np.take_along_axis(values, low, 0), np.take_along_axis(values, low + 1, 0)
            with np.errstate(invalid="ignore"):
                found: NDArray[np.float64] = np.where(np.isinf(share), np.inf, a + share * (b - a))[0]
            return found

        return _States(**{name: read(values) for name, values in vars(self).items()})


def _states(forward: Forward, demand: Demand) -> _States:
    """Every number of other sessions, and all that follows from it."""
    prompt, output, away = demand.prompt_tokens, demand.output_tokens, demand.away_s
    shape = np.broadcast_shapes(
        *(np.shape(x) for x in (demand.rate, prompt, output, away, forward(1.0, 1.0, 1.0, 1.0)))
    )
    others = np.geomspace(1e-3, MOST_SESSIONS, GRID).reshape(-1, *(1 for _ in shape))
    context = prompt + output / 2
    decoding = 1 + others
    step = forward(decoding, context, decoding, decoding)
    row = (forward(decoding + MOST_ROWS, context, decoding, decoding + 1) - step) / MOST_ROWS
    more = forward(decoding + 1, context, decoding + 1, decoding + 1) - step
    part = np.clip(step / row, LEAST_ROWS, MOST_ROWS)
    mixed = step + part * row
    parts = np.ceil(prompt / MOST_ROWS)
    alone = parts * forward(prompt / parts, (prompt - prompt / parts) / 2, 1 / parts, 1.0)
    first = others / ((output - 1) * step + others * prompt * row)
    slope = np.clip(first * (output - 1) * more / (1 - first * prompt * row), 1e-9, 1 - 1e-9)
    nobody = np.exp(others * (1 - slope) / slope * np.log1p(-slope))
    extra = (1 - nobody) * prompt * row + nobody * alone
    rate = others / ((output - 1) * step + others * extra)
    token = step / np.maximum(1 - rate * extra, 1e-9)
    taking = np.where(prompt > part, prompt / part * mixed, token + prompt * row)
    taking = (1 - nobody) * taking + nobody * alone
    prompts = rate * ((1 - nobody) * prompt / part * mixed + nobody * alone)
    left = np.maximum(1 - prompts, 1e-9)
    together = np.maximum(part / prompt, 1.0)
    wait = taking * prompts ** (np.sqrt(2 * (together + 1)) - 1) / (together * left)
    others_var = others / (1 - slope)
    busy = 1 - (1 - rate * extra) * nobody
    ttft = taking + wait + (1 - nobody) * token / 2
    ttft_var = (demand.prompt_cv * taking / left) ** 2 + wait**2
    piece = np.minimum(part, prompt) * row
    in_mixed = np.minimum(rate * extra * token / piece, 1.0)
    waits = np.where(np.asarray(away) > 0, busy * step / 2, 0.0)
    tpot_var = in_mixed * (1 - in_mixed) * piece**2 + more**2 * others_var + waits**2 / 3
    elsewhere = rate * (output - 1) * (away + waits)
    values = {
        "rate": np.maximum.accumulate(np.broadcast_to(rate, (GRID, *shape)), axis=0),
        "busy": busy,
        "load": rate * ((output - 1) * more + prompt * row),
        "prompts": prompts,
        "held": others + rate * ttft + elsewhere,
        "held_var": others_var + rate * ttft + elsewhere,
        "ttft_s": ttft,
        "ttft_var": ttft_var,
        "tpot_s": token + waits,
        "tpot_var": tpot_var,
    }
    return _States(**{name: np.broadcast_to(value, (GRID, *shape)) for name, value in values.items()})
