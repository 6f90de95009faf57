"""`Session`: one sequence at one node, from rows in to an answer out.

Every segment that the node serves is a `Level`: the segment's view, the log of the rows it made, and the exit's view
on that log. A level reads the log below it only when something above it, or its exit, is asked: a token that leaves
early costs the deeper levels nothing. What lies beyond the last level reads the last log in just the same way.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from relay.decide import decide
from relay.errors import NoUpstreamError
from relay.log import History, RowLog, Rows, pieces
from relay.messages import Advance, Answer, Behind, Logits, Question
from relay.views import Engine, ExitView

T = TypeVar("T")

ROWS_PER_FORWARD = 512
"""Bounds the memory of one forward. Results do not depend on it (chunk invariance)."""
MOST_ANSWERS = 64
"""Rows that one question may be about: they are one forward with its logits, so this bounds what a peer can ask for."""


class Upstream(Protocol):
    """A reader of the last level's log that lives on another node."""

    def truncate(self, length: int) -> None:
        """The log was cut to `length` rows: what was read beyond is void."""
        ...

    async def ask(self, history: History, log: RowLog, question: Question) -> Answer:
        """Send what the upstream lacks of the log, with a question about its last rows."""
        ...

    async def close(self) -> None:
        """Free the session upstream."""
        ...


class Level:
    """One segment, the log of its output boundary, and the exit there."""

    def __init__(self, engine: Engine, run: "Runner", index: int) -> None:
        self.index = index
        self.log = RowLog(engine.d_model)
        self._engine = engine
        self._run = run
        self._segment = engine.open_segment(index)
        self._exit: ExitView | None = None
        self._exit_read = 0
        """Rows of the log that the branch has consumed."""

    def truncate(self, length: int) -> None:
        """Go back: the segment's view and the branch's are positional, so only lengths change."""
        self.log.truncate(length)
        self._exit_read = min(self._exit_read, length)

    async def consume(self, rows: Rows | NDArray[np.int64]) -> None:
        """Run the segment over the rows of the next positions, in forwards of bounded size, and log what it makes."""
        for first, stop in pieces(0, len(rows), ROWS_PER_FORWARD):
            self.log.append(await self._run(partial(self._segment.run, rows[first:stop], len(self.log))))

    async def answer(self, want: int) -> Logits:
        """Logits of the last `want` rows of the log at this level's exit, (want, vocab); it opens when first asked."""
        if self._exit is None:
            self._exit = self._engine.open_exit(self.index)
        view, end = self._exit, len(self.log)
        start = self._exit_read if view.has_cache else end - want
        *earlier, (first, stop) = pieces(start, end, ROWS_PER_FORWARD, last=want)
        for a, b in earlier:
            await self._run(partial(view.run, self.log.rows(a, b), a, 0))
        logits = await self._run(partial(view.run, self.log.rows(first, stop), first, want))
        self._exit_read = end
        return logits


class Runner:
    """Runs forwards on the engine and adds up the time they took there."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.spent_ms = 0.0

    async def __call__(self, forward: Callable[[], T]) -> T:
        return await self._engine.run(partial(self._timed, forward))

    def _timed(self, forward: Callable[[], T]) -> T:
        started = time.perf_counter()
        try:
            return forward()
        finally:
            self.spent_ms += (time.perf_counter() - started) * 1e3


class Session:
    """One sequence at one node. Not re-entrant: the caller sends one message at a time."""

    def __init__(self, engine: Engine, genesis: bytes, tier: str, upstream: Upstream | None) -> None:
        self.history = History(genesis)
        """Positions that the first segment has consumed."""
        self._tier = tier
        self._upstream = upstream
        self._run = Runner(engine)
        self._levels = [Level(engine, self._run, index) for index in engine.segments]

    async def advance(self, message: Advance) -> Answer | Behind:
        """Consume the rows and answer, or say what is missing. Raises `NoUpstreamError` for an exit out of reach."""
        question = message.question
        if question.exit > self._levels[-1].index and self._upstream is None:
            raise NoUpstreamError(
                f"exit {question.exit} lies beyond segment {self._levels[-1].index}, the last that tier {self._tier!r} "
                f"serves, and that node has no upstream; start it with --upstream HOST:PORT, or ask for an exit up to "
                f"{self._levels[-1].index}"
            )
        if not self.history.continues(message.base, message.anchor):
            return Behind(len(self.history), self.history.marks())
        self._run.spent_ms = 0.0
        self._truncate(message.base)
        await self._levels[0].consume(message.rows)
        self.history.append(message.chain)
        if question.want == 0:
            return Answer(cached=len(self.history), engine_ms=self._run.spent_ms)
        return await self._answer(question)

    async def close(self) -> None:
        """Free the session here and upstream."""
        self._levels.clear()
        if self._upstream is not None:
            await self._upstream.close()

    def _truncate(self, length: int) -> None:
        self.history.truncate(length)
        for level in self._levels:
            level.truncate(length)
        if self._upstream is not None:
            self._upstream.truncate(length)

    async def _answer(self, question: Question) -> Answer:
        """Bring every level up to the exit's, or to the upstream, and ask there."""
        target = question.exit
        for below, level in zip(self._levels, self._levels[1:], strict=False):
            if level.index <= target:
                await level.consume(below.log.rows(len(level.log), len(below.log)))
        if target > self._levels[-1].index:
            assert self._upstream is not None
            answer = await self._upstream.ask(self.history, self._levels[-1].log, question)
            return replace(answer, cached=len(self.history), engine_ms=answer.engine_ms + self._run.spent_ms)
        logits = await self._levels[target - self._levels[0].index].answer(question.want)
        decision = await self._run(partial(decide, logits, question.drafts))
        return Answer(
            cached=len(self.history),
            tokens=decision.tokens,
            confidence=decision.confidence,
            exit=target,
            tier=self._tier,
            engine_ms=self._run.spent_ms,
            logits=logits[: len(decision.tokens)] if question.logits else None,
        )
