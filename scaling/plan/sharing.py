"""A machine that many sessions share, by how many others a token meets there: the queue behind `queueing.sizing`.

Requests come to it as a Poisson stream, and it does forward after forward, as nodes do (`relay.batch`). All sessions
that wait for a token share the next one; rows of prompts ride along, as many as add the time that the tokens alone
take, or up to 512 where no session decodes; of several prompts each has its turn.

So decoding is one server, shared equally, whose speed depends on how many it serves: a token that meets n others takes
F(1 + n). Such queues have a product form that is insensitive to the lengths of texts (Cohen 1979, Acta Informatica 12,
"The multiple phase service network with generalized processor sharing"), and a token meets others as they are in the
mean. n is given first, and the load follows from it:

    step     τ = F(1 + n)
    prompt   E: what its P rows add to forwards beside those who decode, or what they take where nobody does
    load     n = λ·(O - 1)·τ / (1 - λE), so that λ = n / ((O - 1)·τ + n·E)
    spread   Var n = n / (1 - λ·(O - 1)·dτ/dn), by which nobody decodes for a share of the time
    token    τ / (1 - λE), and where sessions are away in between, half of a forward under way
    first    the prompt's own forwards, the wait for other prompts (Sakasegawa 1977, for as many servers as prompts
             fit into one forward, and lengths that vary), and half of a forward under way

`scaling.plan.simulate` plays the same machine event by event, and `benchmarks.plan_queueing` holds these against it: up
to a load of 0.7, sessions within 2% in the median, a token's time within 4%, the first one's within 8% (worst deciles
10%, 11%, 18%), and 95th percentiles within 7% and 9% (25%, 28%). Beyond, nothing is confirmed. Prompts count by their
mean length: where a few are very long, the first token comes later at the percentile than these say.

A machine that does everything faster, or multiplies faster, makes no mean longer, nor do sessions that are away for
less time. One that only reads its memory faster makes tokens shorter, but may make the first one later: rows of prompts
may add as much time as tokens take, which is less then, and they no longer ride along with weights for nothing. The
simulation shows the same.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scaling.plan.cost import Number

MOST_ROWS = 512
"""Rows of one forward, as nodes have it (`relay.batch.MOST_ROWS`)."""
LEAST_ROWS = 8
"""Of a prompt, in a forward that others share."""
GRID = 64
"""Numbers of other sessions at which a machine is looked at."""
MOST_SESSIONS = 512
"""Others at which it ends: more of them share a forward on no machine."""

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
    output_cv: float = 1.0
    """The same of the texts: long ones are under way longer, so that more of those that decode are long."""
    away_s: Number = 0.0
    """From a token's answer to the session's next question: what other tiers and the links take. 0: the tier writes on
    by itself, and a session is always in the next forward."""
    peak: float = 1.0
    """The rate over the mean of the day."""
    positions: Number = 1.0
    """That a session has grown by for each token that is asked for here: more where others decide most of them."""


@dataclass(frozen=True)
class States:
    """A machine by how many others a token meets; arrays (K, ...), along the first axis from few to many, or of one
    state without that axis.
    """

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
    length_s: NDArray[np.float64]
    """What of `ttft_s`'s standard deviation the prompts' lengths make."""
    tpot_s: NDArray[np.float64]
    tpot_var: NDArray[np.float64]

    def at(self, rate: NDArray[np.float64]) -> "States":
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

        return States(**{name: read(values) for name, values in vars(self).items()})


def states(forward: Forward, demand: Demand) -> States:
    """Every number of other sessions, and all that follows from it.

    Args:
        forward: what a forward takes.
        demand: what is asked for; its rate does not matter here.
    """
    prompt, output, away = demand.prompt_tokens, demand.output_tokens, demand.away_s
    shape = np.broadcast_shapes(
        *(np.shape(x) for x in (demand.rate, prompt, output, away, forward(1.0, 1.0, 1.0, 1.0)))
    )
    others = np.concatenate([[1e-9], np.geomspace(1e-2, MOST_SESSIONS, GRID - 1)]).reshape(-1, *(1 for _ in shape))
    further = np.maximum(output - 1, 1e-3)
    context = prompt + output * demand.positions * (1 + demand.output_cv**2) / 2
    decoding = 1 + others
    step = forward(decoding, context, decoding, decoding)
    row = (forward(decoding + MOST_ROWS, context, decoding, decoding + 1) - step) / MOST_ROWS
    more = forward(decoding + 1, context, decoding + 1, decoding + 1) - step
    parts = np.ceil(prompt / MOST_ROWS)
    alone = parts * forward(prompt / parts, (prompt - prompt / parts) / 2, 1 / parts, 1.0)
    work = (prompt - 1) * row + more
    part = np.clip(step / row, LEAST_ROWS, MOST_ROWS)
    mixed = step + part * row
    first = others / (further * step + others * work)
    slope = np.clip(first * further * more / (1 - first * work), 1e-9, 1 - 1e-9)
    nobody = np.exp(others * (1 - slope) / slope * np.log1p(-slope))
    extra = (1 - nobody) * work + nobody * alone
    rate = others / (further * step + others * extra)
    token = step / np.maximum(1 - rate * extra, 1e-9)
    long, beside = prompt > part, prompt / part * mixed
    taking = (1 - nobody) * np.where(long, beside, token + work) + nobody * alone
    by_length = (1 - nobody) * np.where(long, beside, work) + nobody * alone
    prompts = rate * ((1 - nobody) * beside + nobody * alone)
    left = np.maximum(1 - prompts, 1e-9)
    together = np.maximum(part / prompt, 1.0)
    uneven = (1 + demand.prompt_cv**2) / 2
    wait = uneven * taking * prompts ** (np.sqrt(2 * (together + 1)) - 1) / (together * left)
    others_var = others / (1 - slope)
    busy = 1 - (1 - rate * extra) * nobody
    ttft = taking + wait + (1 - nobody) * token / 2
    length = demand.prompt_cv * by_length / left
    ttft_var = length**2 + wait**2 + token**2 / 12
    piece = np.minimum(part, prompt) * row
    in_mixed = np.minimum(rate * extra * token / piece, 1.0)
    waits = np.where(np.asarray(away) > 0, busy * token / 2, 0.0)
    tpot_var = in_mixed * (1 - in_mixed) * piece**2 + more**2 * others_var + waits**2
    elsewhere = rate * further * (away + waits)
    values = {
        "rate": np.maximum.accumulate(np.broadcast_to(rate, (GRID, *shape)), axis=0),
        "busy": busy,
        "load": rate * (further * more + work),
        "prompts": prompts,
        "held": others + rate * ttft + elsewhere,
        "held_var": others_var + rate * ttft + elsewhere,
        "ttft_s": ttft,
        "ttft_var": ttft_var,
        "length_s": length,
        "tpot_s": token + waits,
        "tpot_var": tpot_var,
    }
    return States(**{name: np.broadcast_to(value, (GRID, *shape)) for name, value in values.items()})
