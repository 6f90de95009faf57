"""Work of many sessions, forward by forward: which graph runs next, and whose rows it is given.

All who wait for a graph share its next forward: a token's row, rows that were missed, drafts to be verified. Only a
long run of rows (a prefill) is cut: while other sessions decode, it may take as long between two of their tokens as
such a token takes, which doubles the time of theirs and leaves it half of its own rate. What rows cost is measured.

Pure, but for the forwards and the clock.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, TypeVar

import numpy as np

from relay.views import Forward, Graph, Made, Work

T = TypeVar("T")

MOST_ROWS = 512
"""Of one forward: bounds its memory, and how long others wait. Results do not depend on it (chunk invariance)."""
SHORT_ROWS = 16
"""Up to so many rows are never cut."""
LEAST_ROWS = 8
"""Of a long run in a forward of its own: fewer would cost hardly less."""
RECENT_S = 0.5
"""A session that was answered so lately is decoding."""
_SMOOTH = 0.3


@dataclass(eq=False)
class Task(Generic[T]):
    """One piece of work, and the forward that it waits for."""

    work: Work[T]
    owner: object
    """The session. It has one task at a time, but for those that it gave up."""
    came: float | None = None
    """When, by the batch's clock; None: when it is added."""
    given_up: bool = False
    """Set by the owner: nobody waits for it any more."""
    forward: Forward | None = None
    """None before it began and once it is done."""
    is_done: bool = False
    result: T | None = None
    error: Exception | None = None
    spent_s: float = 0.0
    """The forwards that it had a part in, and its own steps between them."""
    own_s: float = 0.0
    """The same, less what long runs added to these forwards."""
    is_short: bool = True
    """No forward of it was long."""
    _made: list[Made] = field(default_factory=list)
    _done: int = 0
    """Rows of the forward that were done in parts."""

    @property
    def rest(self) -> int:
        """Rows of the forward that are left."""
        assert self.forward is not None
        return len(self.forward.rows) - self._done

    def part(self, rows: int) -> Forward:
        """The forward's next rows."""
        assert self.forward is not None
        return self.forward.part(self._done, self._done + rows)

    def take(self, part: Forward, made: Made) -> None:
        """A part was done; with the last, go on to the next forward."""
        self._made.append(made)
        self._done += len(part.rows)
        if self.rest == 0:
            whole = self._made[0] if len(self._made) == 1 else np.concatenate(self._made)
            self._made, self._done = [], 0
            self.resume(whole)

    def resume(self, made: Made | None) -> None:
        """Go on to the next forward; with None, to the first."""
        try:
            self.forward = self.work.send(made)  # type: ignore[arg-type]
            self.is_short = self.is_short and len(self.forward.rows) <= SHORT_ROWS
        except StopIteration as end:
            self.end(end.value, None)
        except Exception as error:
            self.end(None, error)

    def end(self, result: T | None, error: Exception | None) -> None:
        """It is done, or failed."""
        self.work.close()
        self.forward, self.is_done, self.result, self.error = None, True, result, error


@dataclass
class Cost:
    """What a forward of a graph takes, smoothed: attention over a growing context makes rows dearer."""

    short_s: float = 0.0
    """Without rows of long runs."""
    row_s: float = 0.0
    """More, for each of these."""

    def learn(self, extra: int, took_s: float) -> float:
        """A forward with so many rows of long runs took so long; the seconds that they added."""
        if not extra:
            self.short_s = _smoothed(self.short_s, took_s)
            return 0.0
        extra_s = max(0.0, took_s - self.short_s)
        self.row_s = _smoothed(self.row_s, extra_s / extra)
        return extra_s


@dataclass
class Guest:
    """What is known of a session that decodes."""

    answered: float
    """When it last was, by the clock."""
    away_s: float = float("inf")
    """How long it takes to come back, smoothed."""


class Batch:
    """Work under way. One caller at a time."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.tasks: list[Task[Any]] = []
        """In the order in which they came: who is behind catches up. A long run goes to the end after each part."""
        self.clock = clock
        self._costs = defaultdict[Graph, Cost](Cost)
        self._guests: dict[object, Guest] = {}
        self.token_s = 0.0
        """What a token of those who decode takes, smoothed."""
        self._credit_s = 0.0
        """What long runs may take before the others' next token."""

    def add(self, task: Task[Any]) -> None:
        """Begin a task. Work that its owner gave up before has ended before."""
        self._drop()
        guest = self._guests.get(task.owner)
        if guest is not None:
            away_s = (self.clock() if task.came is None else task.came) - guest.answered
            guest.away_s = away_s if guest.away_s == float("inf") else _smoothed(guest.away_s, away_s)
        if not task.given_up:
            self._timed(task, lambda: task.resume(None))
            if not task.is_done:
                self.tasks.append(task)

    def others_decode(self, owner: object) -> bool:
        """Whether another session is decoding."""
        now = self.clock()
        return any(now - guest.answered < RECENT_S for o, guest in self._guests.items() if o is not owner)

    def leave(self, owner: object) -> None:
        """Its text is over: it does not decode any more."""
        self._guests.pop(owner, None)

    def patience_s(self) -> float:
        """How long to wait for those who were just answered and soon come back; 0 or less: not at all."""
        waiting = {task.owner for task in self.tasks}
        due = (
            guest.answered + 2 * guest.away_s
            for owner, guest in self._guests.items()
            if owner not in waiting and guest.away_s < self.token_s / 2
        )
        now = self.clock()
        return max(due, default=now) - now

    def step(self) -> list[Task[Any]]:
        """One forward; the tasks that are done with it."""
        self._drop()
        if not self.tasks:
            return []
        graph = self._next_graph()
        chosen, extra = self._choose(graph)
        started = self.clock()
        made = _run(graph, [part for _, part in chosen])
        took_s = self.clock() - started
        extra_s = self._learn(graph, extra, took_s, shared=any(task.rest <= SHORT_ROWS for task, _ in chosen))
        for (task, part), result in zip(chosen, made, strict=True):
            task.spent_s += took_s
            task.own_s += took_s - extra_s
            if task.rest > SHORT_ROWS:
                self.tasks.remove(task)
                self.tasks.append(task)
            if isinstance(result, Exception):
                task.end(None, result)
            else:
                self._timed(task, partial(task.take, part, result))
        done = [task for task, _ in chosen if task.is_done]
        self.tasks = [task for task in self.tasks if not task.is_done]
        self._notice(done)
        return done

    def _next_graph(self) -> Graph:
        """That of the first task. Long runs share the forwards of those who decode, or wait for a turn of their own."""
        ready = (t for t in self.tasks if t.rest <= SHORT_ROWS or self._credit_s >= self._turn_s(t))
        task = next(ready, self.tasks[0])
        assert task.forward is not None
        return task.forward.view.graph

    def _turn_s(self, task: Task[Any]) -> float:
        """The credit at which a long run gets a turn of its own: more than it would use where it can share."""
        assert task.forward is not None
        if not self.others_decode(task.owner):
            return 0.0
        cost = self._costs[task.forward.view.graph]
        return self.token_s + cost.short_s + LEAST_ROWS * cost.row_s

    def _choose(self, graph: Graph) -> tuple[list[tuple[Task[Any], Forward]], int]:
        """The tasks that share the graph's next forward, each with its rows; how many rows are of long runs."""
        waiting = [task for task in self.tasks if task.forward is not None and task.forward.view.graph is graph]
        room, extra = MOST_ROWS, 0
        chosen = []
        for task in waiting:
            if task.rest <= min(SHORT_ROWS, room):
                chosen.append((task, task.part(task.rest)))
                room -= task.rest
        for task in waiting:
            rows = min(task.rest, room)
            if task.rest <= SHORT_ROWS:
                continue
            if self.others_decode(task.owner):
                rows = min(rows, self._allowed(graph, shares=bool(chosen)) - extra)
            if rows > 0:
                chosen.append((task, task.part(rows)))
                room -= rows
                extra += rows
        return chosen, extra

    def _allowed(self, graph: Graph, *, shares: bool) -> int:
        """Rows of long runs that the next forward may have, while others decode."""
        cost = self._costs[graph]
        if cost.row_s == 0.0:
            return LEAST_ROWS
        if shares:
            return int(self._credit_s / cost.row_s)
        return max(LEAST_ROWS, int((self.token_s - cost.short_s) / cost.row_s))

    def _learn(self, graph: Graph, extra: int, took_s: float, *, shared: bool) -> float:
        """Learn of a forward; the seconds that its `extra` rows of long runs took of it."""
        extra_s = self._costs[graph].learn(extra, took_s)
        if not extra:
            return 0.0
        extra_s = extra_s if shared else took_s
        self._credit_s = max(self._credit_s - extra_s, -self.token_s)
        return extra_s

    def _notice(self, done: Sequence[Task[Any]]) -> None:
        """Who decodes, and what a token takes."""
        now = self.clock()
        tokens = [task for task in done if task.is_short and not task.given_up]
        for task in tokens:
            guest = self._guests.setdefault(task.owner, Guest(now))
            guest.answered = now
            took_s = task.own_s + (guest.away_s if guest.away_s < task.own_s / 2 else 0.0)
            self.token_s = _smoothed(self.token_s, took_s)
        if tokens:
            most_s = max([self.token_s, *(self._turn_s(task) for task in self.tasks if task.rest > SHORT_ROWS)])
            self._credit_s = min(self._credit_s + self.token_s, most_s)
        for owner in [o for o, guest in self._guests.items() if now - guest.answered > RECENT_S]:
            del self._guests[owner]

    def _timed(self, task: Task[Any], step: Callable[[], None]) -> None:
        started = self.clock()
        step()
        took_s = self.clock() - started
        task.spent_s += took_s
        task.own_s += took_s

    def _drop(self) -> None:
        for task in [task for task in self.tasks if task.given_up]:
            self.tasks.remove(task)
            task.work.close()


def alone(work: Work[T]) -> T:
    """The result of work that nobody shares."""
    batch, task = Batch(), Task(work, owner=None)
    batch.add(task)
    while not task.is_done:
        batch.step()
    if task.error is not None:
        raise task.error
    return task.result  # type: ignore[return-value]


def _smoothed(old: float, new: float) -> float:
    """The mean with the newest weighing most; 0 is nothing yet."""
    return old + _SMOOTH * (new - old) if old else new


def _run(graph: Graph, parts: Sequence[Forward]) -> Sequence[Made | Exception]:
    """What the parts make. Where one fails they run one by one, so that it fails alone."""
    try:
        return graph.run(parts)
    except Exception as error:
        return [error] if len(parts) == 1 else [_run(graph, [part])[0] for part in parts]
