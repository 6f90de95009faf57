"""One machine of a shared tier, event by event: what the formulas of `scaling.plan.sharing` are held against.

It works as nodes do (`relay.batch`): all sessions that wait share the next forward, rows of prompts ride along, as
many as add the time of a token of those who decode, or up to 512 where nobody does, and every prompt has its turn.
"""

from collections import deque
from collections.abc import Generator
from dataclasses import dataclass, field

import numpy as np
import simpy

from scaling.plan.sharing import LEAST_ROWS, MOST_ROWS, Forward
from scaling.plan.traffic import Requests
from scaling.runs import FloatArray

WARM_UP = 0.2
"""Share of the requests that is played before anything counts."""


@dataclass(frozen=True, eq=False)
class Simulated:
    """What happened, after the warm-up."""

    ttft_s: FloatArray
    """Of each request."""
    tpot_s: FloatArray
    """Of each further token: from the question to the answer, without the time away."""
    busy: float
    """Share of the time in which the machine computed."""
    sessions: float
    """Texts under way, the mean over time."""


@dataclass(eq=False)
class _Text:
    arrived: float
    prompt: int
    output: int
    rest: int
    """Rows of the prompt to be read."""
    position: int = 0
    asked: float = 0.0
    counts: bool = True
    """Whether it came after the warm-up."""


@dataclass(eq=False)
class _Machine:
    env: simpy.Environment
    forward: Forward
    away_s: float
    most_sessions: int
    rng: np.random.Generator
    queue: deque[_Text] = field(default_factory=deque)
    """Requests that wait for memory."""
    prompts: deque[_Text] = field(default_factory=deque)
    waiting: list[_Text] = field(default_factory=list)
    """Sessions that wait for a token."""
    under_way: int = 0
    decoding: int = 0
    token_s: float = 0.0
    """Of the last forward's tokens, without what prompts added."""
    ttft: list[float] = field(default_factory=list)
    tpot: list[float] = field(default_factory=list)
    busy_s: float = 0.0
    session_s: float = 0.0
    since: float = 0.0
    """When the warm-up ended."""

    def __post_init__(self) -> None:
        self.woken = self.env.event()

    def wake(self) -> None:
        if not self.woken.triggered:
            self.woken.succeed()

    def arrive(self, text: _Text) -> None:
        self.queue.append(text)
        self.admit()

    def admit(self) -> None:
        while self.queue and self.under_way < self.most_sessions:
            self.under_way += 1
            self.prompts.append(self.queue.popleft())
            self.wake()

    def ask(self, text: _Text) -> None:
        text.asked = self.env.now
        self.waiting.append(text)
        self.wake()

    def run(self) -> Generator[simpy.Event, None, None]:
        while True:
            if not self.waiting and not self.prompts:
                self.woken = self.env.event()
                started, under_way = self.env.now, self.under_way
                yield self.woken
                self.session_s += (self.env.now - started) * under_way
                continue
            tokens, self.waiting = self.waiting, []
            parts = self.parts(tokens)
            seconds = self.seconds(tokens, parts)
            self.busy_s += seconds
            self.session_s += seconds * self.under_way
            yield self.env.timeout(seconds)
            self.answer(tokens, parts)

    def parts(self, tokens: list[_Text]) -> list[tuple[_Text, int]]:
        """Rows of prompts for the next forward."""
        room = MOST_ROWS
        if self.prompts and self.decoding:
            room = self.allowed(tokens)
        chosen = []
        for text in self.prompts:
            rows = min(text.rest, room)
            if rows > 0:
                chosen.append((text, rows))
                room -= rows
        return chosen

    def allowed(self, tokens: list[_Text]) -> int:
        """Rows that add the time of a token, beside those who decode or alone."""
        n, context = len(tokens), _context(tokens)
        one = float(self.forward(max(n, 1), context, max(n, 1), max(n, 1)))
        row = (float(self.forward(n + MOST_ROWS, context, n, n + 1)) - one) / MOST_ROWS
        self.token_s = one if n else self.token_s
        spare = self.token_s - (0.0 if n else one)
        return int(min(MOST_ROWS, max(LEAST_ROWS, spare / row)))

    def seconds(self, tokens: list[_Text], parts: list[tuple[_Text, int]]) -> float:
        rows = len(tokens) + sum(rows for _, rows in parts)
        wanted = len(tokens) + sum(rows == text.rest for text, rows in parts)
        texts = [*tokens, *(text for text, _ in parts)]
        return float(self.forward(rows, _context(texts), wanted, len(texts)))

    def answer(self, tokens: list[_Text], parts: list[tuple[_Text, int]]) -> None:
        now = self.env.now
        for text in tokens:
            if text.counts:
                self.tpot.append(now - text.asked)
            self.decoding -= 1
            self.go_on(text)
        for text, rows in parts:
            text.rest -= rows
            text.position += rows
            self.prompts.remove(text)
            if text.rest:
                self.prompts.append(text)
                continue
            if text.counts:
                self.ttft.append(now - text.arrived)
            self.go_on(text)

    def go_on(self, text: _Text) -> None:
        text.output -= 1
        text.position += 1
        if text.output <= 0:
            self.under_way -= 1
            self.admit()
            return
        self.decoding += 1
        if self.away_s:
            away = self.env.timeout(self.away_s * self.rng.uniform(0.5, 1.5))
            away.callbacks.append(lambda _: self.ask(text))
        else:
            self.ask(text)


def simulate(
    forward: Forward, requests: Requests, away_s: float = 0.0, most_sessions: int = 1 << 30, seed: int = 0
) -> Simulated:
    """Play requests on one machine until the last has come.

    Args:
        forward: what a forward takes.
        requests: what comes to this machine.
        away_s: from a token's answer to the session's next question, the mean; each is drawn between half and one and a
            half of it, without which those who were served together would stay together.
        most_sessions: for whose keys and values there is memory; others wait.
        seed: of what is drawn.
    """
    env = simpy.Environment()
    machine = _Machine(env, forward, away_s, most_sessions, np.random.default_rng(seed))
    warm = int(WARM_UP * len(requests))

    def arrivals() -> Generator[simpy.Event, None, None]:
        rows = zip(requests.arrival_s, requests.prompt_tokens, requests.output_tokens, strict=True)
        for i, (at, prompt, output) in enumerate(rows):
            yield env.timeout(float(at) - env.now)
            if i == warm:
                machine.busy_s = machine.session_s = 0.0
                machine.since = env.now
            machine.arrive(_Text(env.now, int(prompt), int(output), int(prompt), counts=i >= warm))

    env.process(machine.run())
    env.run(until=env.process(arrivals()))
    took = env.now - machine.since
    return Simulated(np.array(machine.ttft), np.array(machine.tpot), machine.busy_s / took, machine.session_s / took)


def _context(texts: list[_Text]) -> float:
    return sum(text.position for text in texts) / len(texts) if texts else 0.0
