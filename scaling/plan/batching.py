"""A node that many texts share, played event by event as `relay.batch` has it.

Jobs go through their graphs one after the other; all who wait for a graph share its next forward. Long runs of rows are
cut while others decode: they may take as long between two tokens as a token takes.
"""

import heapq
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import TypeAlias

from scaling.plan.cost import LARGEST_FORWARD, GraphCost, Machine

SHORT_ROWS = 16
"""Up to so many rows are never cut."""
LEAST_ROWS = 8
"""Of a long run in a forward of its own."""
RECENT_S = 0.5
"""A text that was answered so lately decodes, as far as a node knows."""
_SMOOTH = 0.3

Graph: TypeAlias = tuple[str, int]


class Clock:
    """Events in the order of their times."""

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._number = count()

    def after(self, seconds: float, call: Callable[[], None]) -> None:
        """Call so much later."""
        heapq.heappush(self._events, (self.now + seconds, next(self._number), call))

    def run(self, until: Callable[[], bool]) -> None:
        """Go on until that holds, or nothing happens any more."""
        while self._events and not until():
            self.now, _, call = heapq.heappop(self._events)
            call()


@dataclass(eq=False)
class Job:
    """Rows that a text has for a node, and where they go."""

    segments: Sequence[int]
    rows: float
    context: float
    exit: int = 0
    """Asked about the last rows; 0: none is."""
    wanted: float = 0.0
    text: int = 0
    """Whose it is."""
    resume: Callable[[], None] = field(default=lambda: None)
    at: int = 0
    """Graphs that are behind it."""
    done: float = 0.0
    """Rows that the present graph has read."""
    own_s: float = 0.0
    """Forwards that it had a part in, less what long runs added."""

    def __post_init__(self) -> None:
        self.graphs: list[Graph] = [("segment", g) for g in self.segments] + (
            [("exit", self.exit)] if self.exit else []
        )

    @property
    def graph(self) -> Graph:
        return self.graphs[self.at]

    @property
    def rest(self) -> float:
        return self.rows - self.done

    @property
    def is_long(self) -> bool:
        return self.rest > SHORT_ROWS


@dataclass
class _Known:
    """What a graph's forwards take, as the node learns it."""

    short_s: float = 0.0
    row_s: float = 0.0


@dataclass
class _Guest:
    """A text that decodes."""

    answered: float
    away_s: float = float("inf")


class Node:
    """A machine and who waits for it."""

    def __init__(self, clock: Clock, machine: Machine) -> None:
        self._clock = clock
        self._costs: dict[Graph, GraphCost] = {("segment", g): cost for g, cost in machine.segments.items()}
        self._costs |= {("exit", g): cost for g, cost in machine.exits.items()}
        self._job_s = float(machine.node.job_s)
        self._waiting: list[Job] = []
        self._known = defaultdict[Graph, _Known](_Known)
        self._guests: dict[int, _Guest] = {}
        self._busy = False
        self._turn = 0
        """Counts decisions, so that one that was overtaken is not made."""
        self._token_s = 0.0
        self._credit_s = 0.0

    def add(self, job: Job) -> None:
        """It waits from now on."""
        guest = self._guests.get(job.text)
        if guest is not None:
            guest.away_s = _smoothed(guest.away_s, self._clock.now - guest.answered)
        self._waiting.append(job)
        if not self._busy:
            self._decide(0.0)  # who comes at the same time shares the forward

    def leave(self, text: int) -> None:
        """That text is over."""
        self._guests.pop(text, None)

    def _decide(self, seconds: float) -> None:
        self._turn += 1
        turn = self._turn
        self._clock.after(seconds, lambda: self._next() if turn == self._turn else None)

    def _next(self) -> None:
        """The next forward, unless somebody who soon comes back is worth waiting for."""
        self._busy = False
        if not self._waiting:
            return
        here = {job.text for job in self._waiting}
        due = (
            g.answered + 2 * g.away_s for t, g in self._guests.items() if t not in here and g.away_s < self._token_s / 2
        )
        if (patience_s := max(due, default=0.0) - self._clock.now) > 1e-9:
            self._decide(patience_s)
            return
        self._busy = True
        first = next((j for j in self._waiting if not j.is_long or self._credit_s >= self._turn_s(j)), self._waiting[0])
        graph = first.graph
        parts = [(job, job.rest) for job in self._waiting if job.graph == graph and not job.is_long]
        shared, extra = bool(parts), 0.0
        for job in [job for job in self._waiting if job.graph == graph and job.is_long]:
            rows = min(job.rest, LARGEST_FORWARD - extra)
            if self._others_decode(job):
                rows = min(rows, self._allowed(graph, shares=shared) - extra)
            if rows >= 1:
                parts.append((job, rows))
                extra += rows
        took_s = self._seconds(graph, parts)
        extra_s = self._learn(graph, extra, took_s, shared=shared)
        self._clock.after(took_s, lambda: self._finish(parts, took_s - extra_s))

    def _finish(self, parts: Sequence[tuple[Job, float]], own_s: float) -> None:
        done = []
        for job, rows in parts:
            job.own_s += own_s
            job.done += rows
            if job.rest > 1e-9:
                self._waiting.remove(job)
                self._waiting.append(job)  # a long run goes to the end
            elif job.at + 1 < len(job.graphs):
                job.at, job.done = job.at + 1, 0.0
            else:
                self._waiting.remove(job)
                done.append(job)
        self._notice([job for job in done if job.rows <= SHORT_ROWS])
        for job in done:
            job.resume()
        self._decide(self._job_s * max(0, len(done) - 1))

    def _notice(self, tokens: Sequence[Job]) -> None:
        now = self._clock.now
        for job in tokens:
            guest = self._guests.setdefault(job.text, _Guest(now))
            guest.answered = now
            away_s = guest.away_s if guest.away_s < job.own_s / 2 else 0.0
            self._token_s = _smoothed(self._token_s, job.own_s + away_s + self._job_s)
        if tokens:
            most_s = max([self._token_s, *(self._turn_s(job) for job in self._waiting if job.is_long)])
            self._credit_s = min(self._credit_s + self._token_s, most_s)
        self._guests = {text: g for text, g in self._guests.items() if now - g.answered < RECENT_S}

    def _others_decode(self, job: Job) -> bool:
        now = self._clock.now
        return any(text != job.text and now - g.answered < RECENT_S for text, g in self._guests.items())

    def _turn_s(self, job: Job) -> float:
        if not self._others_decode(job):
            return 0.0
        known = self._known[job.graph]
        return self._token_s + known.short_s + LEAST_ROWS * known.row_s

    def _allowed(self, graph: Graph, *, shares: bool) -> float:
        known = self._known[graph]
        if not known.row_s:
            return LEAST_ROWS
        if shares:
            return self._credit_s // known.row_s
        return max(LEAST_ROWS, (self._token_s - known.short_s) // known.row_s)

    def _learn(self, graph: Graph, extra: float, took_s: float, *, shared: bool) -> float:
        """The seconds that rows of long runs took of a forward."""
        known = self._known[graph]
        if not extra:
            known.short_s = _smoothed(known.short_s, took_s)
            return 0.0
        extra_s = max(0.0, took_s - known.short_s)
        known.row_s = _smoothed(known.row_s, extra_s / extra)
        extra_s = extra_s if shared else took_s
        self._credit_s = max(self._credit_s - extra_s, -self._token_s)
        return extra_s

    def _seconds(self, graph: Graph, parts: Sequence[tuple[Job, float]]) -> float:
        rows = sum(rows for _, rows in parts)
        context = sum(job.context + job.done for job, _ in parts) / len(parts)
        wanted = sum(job.wanted for job, r in parts if r >= job.rest) if graph[0] == "exit" else 0
        return float(self._costs[graph].seconds(rows, context, wanted, len(parts)))


def _smoothed(old: float, new: float) -> float:
    return old + _SMOOTH * (new - old) if 0 < old < float("inf") else new
