"""Several texts at a time through one chain, played event by event: what they wait for each other.

Nodes share forwards (`scaling.plan.batching`), a link carries one message after the other. Every session writes one
text after the other, and none in step with another.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count, pairwise
from random import Random
from typing import Any, TypeAlias

from scaling.plan.batching import Clock, Job, Node
from scaling.plan.cost import Machine

GOLDEN = 0.6180339887
"""Multiples of it, without their whole part, are spread evenly."""
TEXTS = 4
"""Of each session; the first does not count. So many as sessions write that are measured."""


@dataclass(frozen=True)
class Wait:
    """Nothing to do for so long."""

    seconds: float


@dataclass(frozen=True)
class Send:
    """A message over a link, which carries it when those before have left."""

    link: int
    seconds: float
    """Of its bytes."""


@dataclass(frozen=True)
class Begin:
    """The text before is over, and another one begins: to nodes a session of its own."""


Step: TypeAlias = tuple[int, Job] | Wait | Send | Begin
"""What a session does next: a job for a node, or one of the others."""
Process: TypeAlias = Generator[Step, None, Any]


class Play:
    """Sessions, nodes and links."""

    def __init__(self, machines: Sequence[Machine], links: int) -> None:
        self.clock = Clock()
        self.nodes = [Node(self.clock, machine) for machine in machines]
        self._free = [0.0] * links
        self._texts, self._text = count(1), 0

    def start(self, process: Process) -> None:
        """A session, or something that a text does besides."""
        self._go(process, self._text)

    def _go(self, process: Process, text: int) -> None:
        self._text = text
        try:
            step = next(process)
        except StopIteration:
            return
        match step:
            case Begin():
                for node in self.nodes:
                    node.leave(text)
                self._go(process, next(self._texts))
            case Wait(seconds=seconds):
                self.clock.after(max(0.0, seconds), lambda: self._go(process, text))
            case Send(link=link, seconds=seconds):
                self._free[link] = max(self._free[link], self.clock.now) + seconds
                self.clock.after(self._free[link] - self.clock.now, lambda: self._go(process, text))
            case (place, job):
                job.text, job.resume = text, lambda: self._go(process, text)
                self.nodes[place].add(job)


@dataclass
class Noted:
    """What the texts that count were seen to do."""

    ttft_s: list[float] = field(default_factory=list)
    steps_s: list[float] = field(default_factory=list)
    """Between tokens; those that came together are 0 apart."""


Text: TypeAlias = Callable[[Play, Random, int, Callable[[int], None]], Process]
"""A text of so many tokens, which tells when tokens came, and how many together."""


def lengths(tokens: float, sessions: int, session: int) -> Iterator[int]:
    """Tokens of a session's texts: of the first, which does not count, from almost nothing to a whole one, so that no
    two sessions are in step; then from 3/4 to 5/4 of one.
    """
    yield max(2, round(tokens * (session + 1) / sessions))
    for number in count(session + 1):
        yield max(2, round(tokens * (0.75 + 0.5 * (number * GOLDEN % 1))))


def play(machines: Sequence[Machine], links: int, text: Text, tokens: float, sessions: int, pause_s: float) -> Noted:
    """All sessions, until each has written `TEXTS` texts; who is done writes on."""
    stage, noted, draw = Play(machines, links), Noted(), Random(0)
    done = 0

    def session(number: int) -> Process:
        nonlocal done
        for i, length in enumerate(lengths(tokens, sessions, number)):
            yield Begin()
            yield Wait(pause_s)
            started, came = stage.clock.now, list[float]()

            def tell(together: int, came: list[float] = came) -> None:
                came.extend([stage.clock.now] * together)

            yield from text(stage, draw, length, tell)
            if 0 < i < TEXTS:
                noted.ttft_s.append(came[0] - started)
                noted.steps_s.extend(b - a for a, b in pairwise(came))
            done += i + 1 == TEXTS

    for number in range(sessions):
        stage.start(session(number))
    stage.clock.run(lambda: done == sessions)
    return noted
