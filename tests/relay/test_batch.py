"""What shares a forward, and in which order: in simulated time, with graphs that take what real ones do."""

import heapq
import itertools
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from relay.batch import MOST_ROWS, SHORT_ROWS, Batch, Cost, Task
from relay.views import Forward, Made

AWAY_S = 1e-3
"""A session that was answered comes back so much later."""


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass(eq=False)
class SimulatedGraph:
    clock: Clock
    fixed_s: float
    row_s: float
    wanted_s: float = 0.0
    batches: list[list[int]] = field(default_factory=list)
    """Rows of each session in each forward."""

    has_cache = True

    @property
    def graph(self) -> "SimulatedGraph":
        return self

    def run(self, batch: Sequence[Forward]) -> list[Made]:
        rows, wanted = (sum(counts) for counts in zip(*((len(f.rows), f.wanted) for f in batch), strict=True))
        assert 0 < rows <= MOST_ROWS
        self.clock.now += self.fixed_s + self.row_s * rows + self.wanted_s * wanted
        self.batches.append([len(f.rows) for f in batch])
        return [np.zeros((f.wanted or len(f.rows), 1), np.float32) for f in batch]


Message = Callable[[], Generator[Forward, Made, Any]]


class Simulation:
    """Sessions on one engine of two segments and an exit, in simulated time."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.segments = [SimulatedGraph(self.clock, 2.5e-3, 0.7e-3) for _ in range(2)]
        self.exit = SimulatedGraph(self.clock, 0.5e-3, 0.01e-3, 0.5e-3)
        self.batch = Batch(self.clock)
        self._coming: list[tuple[float, int, int, Message]] = []
        self._order = itertools.count()
        self.times: dict[int, list[float]] = {}
        """When each session's messages were answered."""

    def message(self, rows: int, segments: int = 2, wanted: int = 1) -> Message:
        def work() -> Generator[Forward, Made, None]:
            for graph in self.segments[:segments]:
                yield Forward(graph, np.zeros((rows, 1), np.float32), 0)
            yield Forward(self.exit, np.zeros((rows, 1), np.float32), 0, wanted)

        return work

    def send(self, session: int, message: Message, after_s: float = 0.0) -> None:
        heapq.heappush(self._coming, (self.clock.now + after_s, next(self._order), session, message))

    def run(self, then: Callable[[int], tuple[Message, float] | None]) -> None:
        """Until nobody has anything to send; `then` is what a session that was answered sends next, and when."""
        tasks: dict[Task[Any], int] = {}
        while self._coming or self.batch.tasks:
            waits_s = self.batch.patience_s() if self.batch.tasks else float("inf")
            if self._coming and self._coming[0][0] <= self.clock.now + max(0.0, waits_s):
                at, _, session, message = heapq.heappop(self._coming)
                self.clock.now = max(self.clock.now, at)
                task = Task(message(), session)
                tasks[task] = session
                self.batch.add(task)
                continue
            if waits_s > 0:
                self.clock.now += waits_s
            for task in self.batch.step():
                session = tasks.pop(task)
                self.times.setdefault(session, []).append(self.clock.now)
                following = then(session)
                if following is not None:
                    self.send(session, *following)


def decoding(simulation: Simulation, sessions: int, until: Callable[[], bool], away_s: float = AWAY_S) -> None:
    """Sessions 1.. write a token after the other until a condition holds."""
    for session in range(1, sessions + 1):
        simulation.send(session, simulation.message(1), after_s=session * 1e-4)
    token = simulation.message(1)
    simulation.run(lambda session: None if until() or session == 0 else (token, away_s * (1 + session / 10)))


def tpot_s(simulation: Simulation, since: float = 0.0, until: float = float("inf")) -> float:
    """The 95th percentile of the time between two tokens of a session."""
    gaps = []
    for session, times in simulation.times.items():
        if session:
            inside = [t for t in times if since <= t <= until]
            gaps += [b - a for a, b in itertools.pairwise(inside)]
    return float(np.quantile(gaps, 0.95))


def solo_s(rows: int) -> float:
    simulation = Simulation()
    simulation.send(0, simulation.message(rows))
    simulation.run(lambda _: None)
    return simulation.times[0][0]


@pytest.mark.parametrize("sessions", [2, 5, 16])
def test_sessions_that_decode_come_to_share_every_forward(sessions: int) -> None:
    simulation = Simulation()
    decoding(simulation, sessions, lambda: simulation.clock.now > 3.0)
    batches = simulation.segments[0].batches
    assert batches.count([1] * sessions) > 0.9 * len(batches)


def test_what_a_prefill_took_while_nobody_else_was_there_is_not_held_against_the_next() -> None:
    simulation = Simulation()
    simulation.send(0, simulation.message(2000))
    simulation.run(lambda _: None)
    del simulation.times[0]
    begun = simulation.clock.now + 1.0
    simulation.send(0, simulation.message(2000), after_s=1.0)
    decoding(simulation, 4, lambda: 0 in simulation.times)
    assert solo_s(2000) / (simulation.times[0][0] - begun) >= 0.48


@pytest.mark.parametrize("sessions", [1, 4, 16])
def test_a_prefill_and_those_who_decode_have_half_of_their_rate_each(sessions: int) -> None:
    quiet = Simulation()
    decoding(quiet, sessions, lambda: quiet.clock.now > 3.0)
    simulation = Simulation()
    simulation.send(0, simulation.message(2000), after_s=1.0)
    decoding(simulation, sessions, lambda: 0 in simulation.times)
    done = simulation.times[0][0]
    assert tpot_s(simulation, 1.0, done) <= 2.1 * tpot_s(quiet, 1.0)
    assert solo_s(2000) / (done - 1.0) >= 0.48


def test_a_prefill_waits_for_nobody_where_nobody_decodes() -> None:
    simulation = Simulation()
    simulation.send(0, simulation.message(2000))
    simulation.run(lambda _: None)
    assert simulation.segments[0].batches == [[512], [512], [512], [464]]


def test_a_text_that_is_over_holds_nobody_back() -> None:
    simulation = Simulation()
    decoding(simulation, 2, lambda: simulation.clock.now > 1.0)
    simulation.batch.leave(1)
    assert simulation.batch.others_decode(0), "session 2 may come back at any moment"
    simulation.batch.leave(2)
    simulation.segments[0].batches.clear()
    simulation.send(0, simulation.message(300))
    simulation.run(lambda _: None)
    assert simulation.segments[0].batches == [[300]]


def test_prefills_take_turns_and_short_ones_do_not_wait_for_long_ones() -> None:
    simulation = Simulation()
    simulation.send(0, simulation.message(4000))
    simulation.send(1, simulation.message(300), after_s=1e-3)
    simulation.run(lambda _: None)
    assert simulation.times[1][0] < simulation.times[0][0] / 2


def test_a_long_run_gets_its_turn_where_those_who_decode_never_come() -> None:
    """They end at the first segment; it is in the second."""
    simulation = Simulation()
    token = simulation.message(1, segments=1)
    for session in range(1, 5):
        simulation.send(session, token)
    simulation.send(0, simulation.message(1000), after_s=0.1)
    simulation.run(lambda session: None if 0 in simulation.times or session == 0 else (token, AWAY_S))
    assert solo_s(1000) / (simulation.times[0][0] - 0.1) > 0.3


def test_those_who_come_back_late_are_not_waited_for() -> None:
    simulation = Simulation()
    token = simulation.message(1)
    for session in (1, 2):
        simulation.send(session, token, after_s=session * 0.03)
    simulation.run(lambda s: None if simulation.clock.now > 3.0 else (token, 0.05))
    gaps = np.diff(simulation.times[1])
    assert np.median(gaps) < 0.05 + 2 * 0.008


def test_a_catch_up_of_the_only_session_is_not_cut() -> None:
    simulation = Simulation()
    rows = iter([1] * 20 + [100])
    simulation.send(1, simulation.message(1))
    simulation.run(lambda _: (simulation.message(n), AWAY_S) if (n := next(rows, 0)) else None)
    assert simulation.segments[0].batches[-1] == [100]


def test_what_a_forward_takes_is_learned_from_few_and_follows_changes() -> None:
    cost = Cost()
    rng = np.random.default_rng(0)
    for short_s, row_s in ((5e-3, 1.4e-3), (9e-3, 2e-3)):
        for rows in [0] * 20 + rng.integers(10, 40, 20).tolist():
            cost.learn(rows, (short_s + row_s * rows) * rng.normal(1, 0.02))
        assert np.allclose((cost.short_s, cost.row_s), (short_s, row_s), rtol=0.15)


def test_the_parts_of_a_forward_are_the_whole() -> None:
    view: Any = None
    whole = Forward(view, np.arange(50), 7, wanted=20)
    parts = [whole.part(a, b) for a, b in itertools.pairwise([0, 10, 35, 36, 50])]
    assert np.array_equal(np.concatenate([p.rows for p in parts]), whole.rows)
    assert [p.past for p in parts] == [7, 17, 42, 43]
    assert [p.wanted for p in parts] == [0, 5, 1, 14]


def test_short_runs_are_never_cut() -> None:
    simulation = Simulation()
    for session in range(100):
        simulation.send(session, simulation.message(SHORT_ROWS, wanted=SHORT_ROWS))
    simulation.run(lambda _: None)
    assert {rows for batch in simulation.segments[0].batches for rows in batch} == {SHORT_ROWS}
