"""The steps of a text, each as what it spends: time, work of each place, bytes of each link, FLOPs."""

import math
from collections.abc import Callable, Sequence
from functools import wraps
from itertools import pairwise
from typing import TypeVar, cast

import numpy as np

from scaling.plan.cost import LARGEST_FORWARD, Machine, Number
from scaling.plan.deployment import Deployment
from scaling.plan.flops import branch_flops, head_flops, layer_flops
from scaling.plan.spent import Spent
from scaling.plan.wire import FRAMING, reply_s, row_bytes, transfer_s

F = TypeVar("F", bound=Callable[..., Spent])
_LAGS = (1, 2, 3, 4, 6, 8, 12, 20, 32, 64)
"""Rows at which a place that was left out for so many tokens is looked at."""


def remembered(made: F) -> F:
    """A step that is calculated once for each of its arguments."""

    @wraps(made)
    def step(chain: "Chain", *given: object, **named: object) -> Spent:
        key = made.__name__, *given, *named.items()
        if key not in chain.known:
            chain.known[key] = made(chain, *given, **named)
        return chain.known[key]

    return cast(F, step)


class Chain:
    """A deployment on its machines. Exits are counted from 1, places from 0.

    What takes `into` adds to it, so many `times`, and gives the seconds of once. The other steps are remembered, for
    every policy that takes them: nothing may be added to them.
    """

    def __init__(self, deployment: Deployment, machines: Sequence[Machine]) -> None:
        self.machines = machines
        self._deployment = deployment
        self._links = deployment.links
        self._ids = deployment.send == "ids"
        spec = deployment.spec
        self._row_bytes = row_bytes("ids" if self._ids else deployment.codec, spec.d_model)
        self._layer_flops, self._head_flops = layer_flops(spec), head_flops(spec)
        self._layers = [segment.n_layers for segment in spec.segments]
        self._branches = [exit_.branch != "norm" for exit_ in spec.exits]
        self._places = [deployment.place_of(g) for g in range(1, deployment.places[-1].segments[-1] + 1)]
        self.known: dict[tuple[object, ...], Spent] = {}

    def place(self, exit_: int) -> int:
        """Where the exit is."""
        return self._places[exit_ - 1]

    def nothing(self) -> Spent:
        """To be added to."""
        return Spent(len(self.machines))

    def request(self, into: Spent) -> Number:
        """A text that begins, and its first token's way to the client."""
        return self._work(into, 0, self.machines[0].node.request_s, 1.0)

    def token(self, into: Spent, times: Number = 1.0) -> Number:
        """A decided token's way to the client."""
        return self._work(into, 0, self.machines[0].node.token_s, times)

    @remembered
    def step(self, exit_: int, context: Number, *, hops: bool = True) -> Spent:
        """One further token at an exit; without hops, on the exit's node alone."""
        last, spent = self.place(exit_), self.nothing()
        self.token(spent)
        self._through(spent, exit_, range(0 if hops else last, last + 1), 1.0, 1.0, context)
        return spent

    @remembered
    def draft(self, exit_: int, context: Number) -> Spent:
        """One draft of an exit of the entry node."""
        spent = self.nothing()
        self._computed(spent, 0, range(1, exit_ + 1), 1.0, context)
        self._asked(spent, 0, exit_, 1.0, context, 1.0)
        return spent

    @remembered
    def reading(self, exit_: int, prompt: float) -> Spent:
        """The prompt's rows through what nothing but drafts of an exit asks for, while the first token is asked for."""
        spent = self.nothing()
        if self._ids and len(self.machines) > 1:
            self._computed(spent, 0, range(1, exit_ + 1), prompt, 0.0)
        self._asked(spent, 0, exit_, prompt, 0.0, 0.0)
        spent.seconds = 0.0
        return spent

    @remembered
    def verification(self, exit_: int, draft_exit: int, drafts: Number, context: Number) -> Spent:
        """Asking an exit about so many drafts: their last row and its own levels' here, all of them beyond."""
        rows, last, spent = drafts + 1, self.place(exit_), self.nothing()
        here = [g for g in self._deployment.places[0].segments if g <= exit_]
        if last == 0:
            self._computed(spent, 0, [g for g in here if g <= draft_exit], 1.0, context)
            self._computed(spent, 0, [g for g in here if g > draft_exit], rows, context)
            self._asked(spent, 0, exit_, rows, context, rows)
            return spent
        if not self._ids:
            self._computed(spent, 0, [g for g in here if g <= draft_exit], 1.0, context)
            self._computed(spent, 0, [g for g in here if g > draft_exit], rows, context)
        self._through(spent, exit_, range(1, last + 1), rows, rows, context, hop=True)
        return spent

    @remembered
    def prefill(self, exit_: int, prompt: float) -> Spent:
        """From the request to the first token: parts of the prompt go up while the next are computed."""
        place, spent = self.place(exit_), self.nothing()
        begin = 1 if self._ids and place else 0
        free: list[Number] = [0.0] * (2 * place + 1)
        """When each place, and each link between, is done with what it was given."""
        for first in range(0, max(1, math.ceil(prompt)), LARGEST_FORWARD):
            rows, done = min(LARGEST_FORWARD, prompt - first), free[0]
            for i in range(begin, place + 1):
                if i:
                    done = free[2 * i - 1] = _later(done, free[2 * i - 1]) + self._carried(spent, i - 1, rows)
                segments = [g for g in self._deployment.places[i].segments if g <= exit_]
                done = free[2 * i] = _later(done, free[2 * i]) + self._computed(spent, i, segments, rows, first)
        took = self.request(spent) + free[2 * place] + self._asked(spent, place, exit_, prompt, 0.0, 1.0)
        for i in range(place):
            took = took + self._answered(spent, i)
        spent.seconds = took
        return spent

    def part(self, into: Spent, exit_: int, rows: Number, context: Number, times: Number = 1.0) -> Number:
        """What an exit takes more than the one before it: its segment, perhaps a hop, and itself, over the rows."""
        place = self.place(exit_)
        seconds = self._computed(into, place, (exit_,), rows, context, times)
        seconds = seconds + self._asked(into, place, exit_, rows, context, 1.0, times)
        if place and exit_ == self._deployment.places[place].segments[0]:
            seconds = seconds + self._carried(into, place - 1, rows, times)
            seconds = seconds + self._answered(into, place - 1, times)
        return seconds

    def lagging(self, into: Spent, exit_: int, reach: float, context: Number) -> Number:
        """The same for a token, where a share of them reaches the exit and it reads those in between as well; its
        seconds where it is reached.
        """
        if reach >= 1:
            return self.part(into, exit_, 1.0, context)
        mean: Number = 0.0
        for rows, weight in _lags(reach):
            mean = mean + weight * self.part(into, exit_, rows, context, reach * weight)
        return mean

    def _through(
        self, into: Spent, exit_: int, places: range, rows: Number, wanted: Number, context: Number, hop: bool = False
    ) -> None:
        """Rows through places up to the exit's, over the links between them; `hop`: over the one before them too."""
        for i in places:
            if i > places[0] or hop:
                self._carried(into, i - 1, rows)
                self._answered(into, i - 1)
            if i or not self._ids or len(places) == 1:
                segments = [g for g in self._deployment.places[i].segments if g <= exit_]
                self._computed(into, i, segments, rows, context)
        self._asked(into, self.place(exit_), exit_, rows, context, wanted)

    def _work(self, into: Spent, place: int, seconds: Number, times: Number) -> Number:
        into.seconds = into.seconds + times * seconds
        into.busy[place] = into.busy[place] + times * seconds
        return seconds

    def _computed(
        self, into: Spent, place: int, segments: Sequence[int], rows: Number, context: Number, times: Number = 1.0
    ) -> Number:
        costs, seconds, layers = self.machines[place].segments, 0.0, 0
        for g in segments:
            seconds = seconds + costs[g].seconds(rows, context)  # type: ignore[assignment]
            layers += self._layers[g - 1]
            into.run(place, ("segment", g), rows, context, 0.0, times)
        into.flops[place] = into.flops[place] + times * rows * layers * self._layer_flops
        return self._work(into, place, seconds, times)

    def _asked(
        self,
        into: Spent,
        place: int,
        exit_: int,
        rows: Number,
        context: Number,
        wanted: Number,
        times: Number = 1.0,
    ) -> Number:
        read = rows if self._branches[exit_ - 1] else wanted
        seconds = self.machines[place].exits[exit_].seconds(read, context, wanted)
        into.run(place, ("exit", exit_), read, context, wanted, times)
        branch = branch_flops(self._deployment.spec, exit_, self._layer_flops)
        into.flops[place] = into.flops[place] + times * (read * branch + wanted * self._head_flops)
        return self._work(into, place, seconds, times)

    def _carried(self, into: Spent, link: int, rows: Number, times: Number = 1.0) -> Number:
        """Rows on their way up, in one message."""
        below, above = self.machines[link].node, self.machines[link + 1].node
        each_s = (below.message_s + above.message_s + (below.row_s + above.row_s) * rows) / 4
        size = rows * self._row_bytes + FRAMING.up
        into.up[link] = into.up[link] + times * size
        self._work(into, link, each_s, times)
        self._work(into, link + 1, each_s, times)
        carry_s = transfer_s(size, self._links[link].up_bps)
        into.way[link] = into.way[link] + times * carry_s
        into.seconds = into.seconds + times * carry_s
        return 2 * each_s + carry_s

    def _answered(self, into: Spent, link: int, times: Number = 1.0) -> Number:
        """What a message waits for beside its own bytes: the way there and back, and the reply."""
        seconds = reply_s(self._links[link])
        into.down[link] = into.down[link] + times * FRAMING.down
        into.way[link] = into.way[link] + times * seconds
        into.seconds = into.seconds + times * seconds
        return seconds


def _later(a: Number, b: Number) -> Number:
    return np.maximum(a, b) if isinstance(a, np.ndarray) or isinstance(b, np.ndarray) else max(a, b)


def _lags(reach: float) -> list[tuple[float, float]]:
    """Rows that a place has to read and how probable that is, where each token reaches it with that probability."""
    missed = 1 - reach
    found = []
    for a, b in pairwise(_LAGS):
        probability = missed ** (a - 1) - missed ** (b - 1)
        rows = a if b == a + 1 else _mean_lag(reach, a, b, probability)
        found.append((float(rows), probability))
    last = _LAGS[-1]
    return [*found, (last - 1 + 1 / reach, missed ** (last - 1))]


def _mean_lag(reach: float, a: int, b: int, probability: float) -> float:
    """The mean of those from a to b - 1."""
    missed = 1 - reach

    def beyond(n: int) -> float:
        return missed ** (n - 1) * (n - 1 + 1 / reach)

    return (beyond(a) - beyond(b)) / probability if probability > 1e-300 else float(a)
