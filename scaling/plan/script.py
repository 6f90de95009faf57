"""What a text does, step by step, under each policy: the scripts that `scaling.plan.sessions` plays."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from random import Random

from scaling.plan.batching import Job
from scaling.plan.cost import Machine
from scaling.plan.deployment import (
    ConfidenceExit,
    Deployment,
    FixedExit,
    SpeculativeExit,
    Statistics,
)
from scaling.plan.rounds import MOST_DRAFTS
from scaling.plan.sessions import Play, Process, Send, Wait
from scaling.plan.wire import FRAMING, reply_s, row_bytes, transfer_s

Tell = Callable[[int], None]


@dataclass
class _Flight:
    """A verification under way, and what is drafted beside it."""

    until: float
    """By which the answer is expected: a draft that would not be there by then is not begun."""
    under_way: bool = True
    made: int = 0


class Script:
    """Texts of one length of prompt through a deployment."""

    def __init__(
        self, deployment: Deployment, machines: Sequence[Machine], prompt: float, statistics: Statistics
    ) -> None:
        self._deployment = deployment
        self._nodes = [machine.node for machine in machines]
        self._prompt = prompt
        self._statistics = statistics
        self._ids = deployment.send == "ids"
        self._row_bytes = row_bytes("ids" if self._ids else deployment.codec, deployment.spec.d_model)

    def text(self, stage: Play, draw: Random, length: int, tell: Tell) -> Process:
        """As `sessions.Text`."""
        yield Wait(float(self._nodes[0].request_s))
        match self._deployment.policy:
            case FixedExit(exit=exit_, burst=burst):
                yield from self._fixed(exit_, burst, length, tell)
            case ConfidenceExit(epsilon=epsilon):
                shares = self._statistics.shares[epsilon]
                first = self._statistics.first.get(epsilon, shares)
                yield from self._confidence(shares, first, draw, length, tell)
            case SpeculativeExit() as policy:
                right = self._statistics.acceptance[policy.draft_exit, policy.exit]
                yield from self._speculative(policy, right, stage, draw, length, tell)

    def _fixed(self, exit_: int, burst: int, length: int, tell: Tell) -> Process:
        last, done = self._deployment.place_of(exit_), 0
        inside = [g for g in self._deployment.places[last].segments if g <= exit_]
        while done < length:
            together = min(burst + 1, length - done)
            more = ((last, Job(inside, 1.0, self._prompt + done + i, exit_, 1.0)) for i in range(1, together))
            rows, context = (1.0, self._prompt + done) if done else (self._prompt, 0.0)
            yield from self._through(exit_, rows, 1.0, context, more=more)
            done += together
            tell(together)
            yield Wait(float(self._nodes[0].token_s))

    def _confidence(
        self, shares: Sequence[float], first: Sequence[float], draw: Random, length: int, tell: Tell
    ) -> Process:
        lag = [self._prompt] * len(shares)
        for done in range(length):
            bounds = list(accumulate(shares if done else first))
            drawn = draw.random() * bounds[-1]
            decides = next(g for g, bound in enumerate(bounds, 1) if drawn <= bound)
            for g in range(1, decides + 1):
                rows, lag[g - 1] = lag[g - 1], 0.0
                place = self._deployment.place_of(g)
                if place and g == self._deployment.places[place].segments[0]:
                    yield from self._up(place - 1, rows)
                yield place, Job([g], rows, self._prompt + done - rows, g, 1.0)
            for i in range(self._deployment.place_of(decides)):
                yield from self._down(i)
            lag = [rows + 1 for rows in lag]
            tell(1)
            yield Wait(float(self._nodes[0].token_s))

    def _speculative(
        self, policy: SpeculativeExit, right: float, stage: Play, draw: Random, length: int, tell: Tell
    ) -> Process:
        yield from self._through(policy.exit, self._prompt, 1.0, 0.0)
        tell(1)
        done, ready, verify_s = 1, 0, 0.0
        wanted = policy.length or 1
        while done < length:
            most = min(length - done - 1, MOST_DRAFTS)
            drafts = min(most, ready)
            while drafts < min(most, wanted):
                yield self._draft(policy.draft_exit, self._prompt + done + drafts)
                drafts += 1
            sent = stage.clock.now
            flight = _Flight(sent + verify_s)
            if self._deployment.place_of(policy.exit):
                ahead = self._ahead(policy.draft_exit, self._prompt + done + drafts, wanted + 1, flight, stage)
                stage.start(ahead)
            yield from self._verified(policy, drafts, self._prompt + done)
            flight.under_way, verify_s = False, stage.clock.now - sent
            accepted = 0
            while accepted < drafts and draw.random() < right:
                accepted += 1
            ready = flight.made - 1 if accepted == drafts and flight.made > 1 and draw.random() < right else 0
            done += accepted + 1
            tell(accepted + 1)
            yield Wait(float(self._nodes[0].token_s))

    def _draft(self, exit_: int, context: float) -> tuple[int, Job]:
        return 0, Job(range(1, exit_ + 1), 1.0, context, exit_, 1.0)

    def _ahead(self, exit_: int, context: float, most: int, flight: _Flight, stage: Play) -> Process:
        draft_s = 0.0
        while flight.under_way and flight.made < most and stage.clock.now + draft_s <= flight.until:
            begun = stage.clock.now
            yield self._draft(exit_, context + flight.made)
            draft_s = stage.clock.now - begun
            flight.made += flight.under_way

    def _verified(self, policy: SpeculativeExit, drafts: int, context: float) -> Process:
        last, rows = self._deployment.place_of(policy.exit), drafts + 1.0
        here = [g for g in self._deployment.places[0].segments if g <= policy.exit]
        if last == 0:
            yield 0, Job(here, rows, context, policy.exit, rows)
            return
        if not self._ids:
            yield 0, Job(here, 1.0, context + drafts)
        yield from self._through(policy.exit, rows, rows, context, begin=1)

    def _through(
        self,
        exit_: int,
        rows: float,
        wanted: float,
        context: float,
        begin: int = 0,
        more: Iterable[tuple[int, Job]] = (),
    ) -> Process:
        """Rows up to an exit, over every link before a place; what is done `more` there; and the answer down again."""
        last = self._deployment.place_of(exit_)
        for i in range(begin, last + 1):
            if i:
                yield from self._up(i - 1, rows)
            if i or not self._ids or last == 0:
                segments = [g for g in self._deployment.places[i].segments if g <= exit_]
                yield i, Job(segments, rows, context, exit_ if i == last else 0, wanted if i == last else 0.0)
        yield from more
        for i in range(last):
            yield from self._down(i)

    def _up(self, link: int, rows: float) -> Process:
        nodes, way = self._nodes[link : link + 2], self._deployment.links[link]
        yield Wait(sum(node.message_s + node.row_s * rows for node in nodes) / 2)
        yield Send(link, float(transfer_s(rows * self._row_bytes + FRAMING.up, way.up_bps)))

    def _down(self, link: int) -> Process:
        """The way there and back, and the reply."""
        yield Wait(float(reply_s(self._deployment.links[link])))
