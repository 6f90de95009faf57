"""The steps of a text, each as what it spends: time, work of each place, bytes of each link, FLOPs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from scaling.plan.cost import LARGEST_FORWARD, Machine, Number
from scaling.plan.deployment import Deployment
from scaling.plan.flops import branch_flops, head_flops, segment_flops
from scaling.plan.wire import FRAMING, ROOT_TWO, reply_s, row_bytes, transfer_s

P95_OF_TWO = 4.74
"""The 95th percentile of the sum of two exponentials of mean 1."""


@dataclass(frozen=True)
class Spent:
    """What something takes: in time from its begin to its end, and of each place and link."""

    seconds: Number
    busy: tuple[Number, ...]
    up: tuple[Number, ...]
    down: tuple[Number, ...]
    flops: tuple[Number, ...]

    def plus(self, other: "Spent", times: Number = 1.0) -> "Spent":
        """This, and the other so many times after it."""
        return Spent(
            self.seconds + times * other.seconds,
            _add(self.busy, other.busy, times),
            _add(self.up, other.up, times),
            _add(self.down, other.down, times),
            _add(self.flops, other.flops, times),
        )

    def times(self, factor: Number) -> "Spent":
        """So many of it."""
        return Spent(0.0, *((0.0,) * len(x) for x in (self.busy, self.up, self.down, self.flops))).plus(self, factor)

    def at(self, seconds: Number) -> "Spent":
        """The same work in another time."""
        return Spent(seconds, self.busy, self.up, self.down, self.flops)


def _add(a: tuple[Number, ...], b: tuple[Number, ...], times: Number) -> tuple[Number, ...]:
    return tuple(x + times * y for x, y in zip(a, b, strict=True))


def _later(a: Number, b: Number) -> Number:
    return np.maximum(a, b) if isinstance(a, np.ndarray) or isinstance(b, np.ndarray) else max(a, b)


class Chain:
    """A deployment on its machines. Exits are counted from 1, places from 0."""

    def __init__(self, deployment: Deployment, machines: Sequence[Machine]) -> None:
        self._deployment = deployment
        self.machines = machines
        self._ids = deployment.send == "ids"
        form = "ids" if self._ids else deployment.codec
        self._row_bytes = row_bytes(form, deployment.spec.d_model)

    def request(self) -> Spent:
        """A text that begins, and its first token's way to the client."""
        node = self.machines[0].node
        return self._spent(node.request_s, 0)

    def token(self) -> Spent:
        """A decided token's way to the client."""
        return self._spent(self.machines[0].node.token_s, 0)

    def step(self, exit_: int, context: Number, *, hops: bool = True) -> Spent:
        """One further token at an exit; without hops, on the exit's node alone."""
        last = self._deployment.place_of(exit_)
        return self.token().plus(self._through(exit_, range(0 if hops else last, last + 1), 1.0, 1.0, context))

    def draft(self, exit_: int, context: Number) -> Spent:
        """One draft of an exit of the entry node."""
        return self._computed(0, range(1, exit_ + 1), 1.0, context).plus(self._asked(0, exit_, 1.0, context, 1.0))

    def verification(self, exit_: int, draft_exit: int, drafts: Number, context: Number) -> Spent:
        """Asking an exit about so many drafts: their last row and its own levels' here, all of them beyond."""
        rows = drafts + 1
        here = [g for g in self._deployment.places[0].segments if g <= exit_]
        done = self._computed(0, [g for g in here if g <= draft_exit], 1.0, context)
        done = done.plus(self._computed(0, [g for g in here if g > draft_exit], rows, context))
        last = self._deployment.place_of(exit_)
        return done.plus(self._through(exit_, range(1, last + 1), rows, rows, context, hop=last > 0))

    def prefill(self, exit_: int, prompt: float) -> Spent:
        """From the request to the first token: parts of the prompt go up while the next are computed."""
        place = self._deployment.place_of(exit_)
        begin = 1 if self._ids and place else 0
        total = self.request()
        free: list[Number] = [0.0] * (2 * place + 1)
        """When each place, and each link between, is done with what it was given."""
        for first in range(0, max(1, math.ceil(prompt)), LARGEST_FORWARD):
            rows = min(LARGEST_FORWARD, prompt - first)
            done: Number = 0.0
            for i in range(begin, place + 1):
                segments = [g for g in self._deployment.places[i].segments if g <= exit_]
                stages = [self._carried(i - 1, rows)] if i else []
                for k, stage in enumerate([*stages, self._computed(i, segments, rows, first)]):
                    at = 2 * i + k - len(stages)
                    done = free[at] = _later(done, free[at]) + stage.seconds
                    total = total.plus(stage)
        end = self._asked(place, exit_, prompt, 0.0, 1.0)
        for i in range(place):
            end = end.plus(self._answered(i))
        return total.plus(end).at(self.request().seconds + free[2 * place] + end.seconds)

    def part(self, exit_: int, rows: Number, context: Number) -> Spent:
        """What an exit takes more than the one before it: its segment, perhaps a hop, and itself, over the rows."""
        place = self._deployment.place_of(exit_)
        spent = self._computed(place, [exit_], rows, context).plus(self._asked(place, exit_, rows, context, 1.0))
        if place and exit_ == self._deployment.places[place].segments[0]:
            spent = spent.plus(self._carried(place - 1, rows)).plus(self._answered(place - 1))
        return spent

    def lagging(self, exit_: int, reach: float, context: Number, lags: int) -> Spent:
        """The same, where it is reached for a share of the tokens and has the rows of those in between to read."""
        if reach >= 1:
            return self.part(exit_, 1.0, context)
        total, left = self.part(exit_, 1.0, context).times(0.0), 1.0
        for rows, weight in _lags(reach, lags):
            total = total.plus(self.part(exit_, rows, context), weight)
            left -= weight
        return total

    def jitter_p95(self, exit_: int) -> Number:
        """How much more than the mean jitter adds to a step, at the 95th percentile; of the most jittery link."""
        links = self._deployment.links[: self._deployment.place_of(exit_)]
        return max((link.jitter_s / ROOT_TWO * (P95_OF_TWO - 2) for link in links), default=0.0)

    def _through(
        self, exit_: int, places: range, rows: Number, wanted: Number, context: Number, *, hop: bool = False
    ) -> Spent:
        """Rows through places up to the exit's, over the links between them; `hop`: over the one before them too."""
        spent = self._spent(0.0, 0)
        for i in places:
            if i > places[0] or hop:
                spent = spent.plus(self._carried(i - 1, rows)).plus(self._answered(i - 1))
            if i or not self._ids or len(places) == 1:
                segments = [g for g in self._deployment.places[i].segments if g <= exit_]
                spent = spent.plus(self._computed(i, segments, rows, context))
        return spent.plus(self._asked(self._deployment.place_of(exit_), exit_, rows, context, wanted))

    def _computed(self, place: int, segments: Sequence[int] | range, rows: Number, context: Number) -> Spent:
        costs = self.machines[place].segments
        spec = self._deployment.spec
        seconds = sum((costs[g].seconds(rows, context) for g in segments), start=0.0)
        return self._spent(seconds, place, flops=rows * sum(segment_flops(spec, g) for g in segments))

    def _asked(self, place: int, exit_: int, rows: Number, context: Number, wanted: Number) -> Spent:
        spec = self._deployment.spec
        read = rows if spec.exit(exit_).branch != "norm" else wanted
        seconds = self.machines[place].exits[exit_].seconds(read, context, wanted)
        flops = read * branch_flops(spec, exit_) + wanted * head_flops(spec)
        return self._spent(seconds, place, flops=flops)

    def _carried(self, link: int, rows: Number) -> Spent:
        """Rows on their way up, in one message."""
        way, size = self._deployment.links[link], rows * self._row_bytes + FRAMING.up
        nodes = [machine.node for machine in self.machines[link : link + 2]]
        node_s = sum(node.message_s + node.row_s * rows for node in nodes) / 2
        spent = self._spent(node_s + transfer_s(size, way.up_bps), link, busy=node_s / 2)
        busy = tuple(node_s / 2 if i in (link, link + 1) else 0.0 for i in range(len(self.machines)))
        up = tuple(size if i == link else 0.0 for i in range(len(self._deployment.links)))
        return Spent(spent.seconds, busy, up, spent.down, spent.flops)

    def _answered(self, link: int) -> Spent:
        """What a message waits for beside its own bytes: the way there and back, and the reply."""
        way = self._deployment.links[link]
        spent = self._spent(reply_s(way), 0, busy=0.0)
        down = tuple(FRAMING.down if i == link else 0.0 for i in range(len(self._deployment.links)))
        return Spent(spent.seconds, spent.busy, spent.up, down, spent.flops)

    def _spent(self, seconds: Number, place: int, *, busy: Number | None = None, flops: Number = 0.0) -> Spent:
        places, links = range(len(self.machines)), (0.0,) * len(self._deployment.links)
        work = seconds if busy is None else busy
        return Spent(
            seconds,
            tuple(work if i == place else 0.0 for i in places),
            links,
            links,
            tuple(flops if i == place else 0.0 for i in places),
        )


def _lags(reach: float, most: int) -> list[tuple[float, float]]:
    """Rows that a place has to read and how probable that is, where each token reaches it with that probability."""
    edges = [*range(1, 9), *range(12, most, 8), most]
    found = [(float(a), (1 - reach) ** (a - 1) - (1 - reach) ** (b - 1)) for a, b in pairwise(edges)]
    rest = (1 - reach) ** (most - 1)
    return [*found, (most - 1 + 1 / reach, rest)]
