"""`Session`: one sequence at one node, from rows in to an answer out.

Every segment that the node serves is a `Level`: the segment's view, the log of the rows it made, and the exit's view
on that log. A level reads the log below it only when something above it, or its exit, is asked: a token that leaves
early costs the deeper levels nothing. What lies beyond the last level reads the last log in just the same way.
"""

import asyncio
import time
from collections.abc import Generator
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from relay import chain
from relay.decide import decide
from relay.errors import IdsUnknownError, InvalidRequestError, NoUpstreamError
from relay.log import History, RowLog, Rows, pieces
from relay.messages import Advance, Answer, Behind, Logits, Question
from relay.views import Engine, ExitView

T = TypeVar("T")
Work: TypeAlias = Generator[None, None, T]
"""Work on the engine's thread, which lets others have their turn wherever it yields."""

ROWS_PER_FORWARD = 512
"""Bounds the memory of one forward, and how long others wait for their turn. Results do not depend on it (chunk
invariance)."""
SHORT_ROWS = 8
"""Rows of a forward that may hold up the event loop: milliseconds."""
MOST_ANSWERS = 64
"""Rows that one question may be about: they are one forward with its logits, so this bounds what a peer can ask for."""


class Upstream(Protocol):
    """A reader of the last level's log that lives on another node."""

    def truncate(self, length: int) -> None:
        """The log was cut to `length` rows: what was read beyond is void."""
        ...

    async def ask(self, history: History, log: RowLog, end: int, question: Question) -> Answer:
        """Send what the upstream lacks of the log's first `end` rows, with a question about the last of them."""
        ...

    def pause(self) -> None:
        """Nothing will be asked for a while."""
        ...

    async def close(self) -> None:
        """Free the session upstream."""
        ...


class Level:
    """One segment, the log of its output boundary, and the exit there. Used on the engine's thread only."""

    def __init__(self, engine: Engine, index: int) -> None:
        self.index = index
        self.log = RowLog(engine.d_model)
        self._engine = engine
        self._segment = engine.open_segment(index)
        self._exit: ExitView | None = None
        self._exit_read = 0
        """Rows of the log that the branch has consumed."""

    def truncate(self, length: int) -> None:
        """Go back: the segment's view and the branch's are positional, so only lengths change."""
        self.log.truncate(length)
        self._exit_read = min(self._exit_read, length)

    def lag(self, end: int, kept: int, *, asked: bool) -> int:
        """Rows that the level lacks of `end`, where it keeps at most the first `kept`; its exit's too, if asked."""
        read = len(self.log)
        if asked and (self._exit is None or self._exit.has_cache):
            read = min(read, self._exit_read)
        return end - min(read, kept)

    def consume(self, rows: Rows | NDArray[np.int64]) -> Work[None]:
        """Run the segment over the rows of the next positions, in forwards of bounded size, and log what it makes."""
        for first, stop in pieces(0, len(rows), ROWS_PER_FORWARD):
            if first:
                yield
            self.log.append(self._segment.run(rows[first:stop], len(self.log)))

    def answer(self, want: int) -> Work[Logits]:
        """Logits of the last `want` rows of the log at this level's exit, (want, vocab); it opens when first asked."""
        if self._exit is None:
            self._exit = self._engine.open_exit(self.index)
        view, end = self._exit, len(self.log)
        start = min(self._exit_read, end - want) if view.has_cache else end - want
        *earlier, (first, stop) = pieces(start, end, ROWS_PER_FORWARD, last=want)
        for a, b in earlier:
            view.run(self.log.rows(a, b), a, 0)
            yield
        logits = view.run(self.log.rows(first, stop), first, want)
        self._exit_read = end
        return logits


def _asks(question: Question, exit_: int) -> bool:
    return exit_ == question.exit or question.rule is not None or question.shortens(exit_)


def beyond(exit_: int, last: int, tier: str) -> NoUpstreamError:
    """The error for an exit beyond the last segment of a tier that has no upstream."""
    return NoUpstreamError(
        f"exit {exit_} lies beyond segment {last}, the last that tier {tier!r} serves, and that "
        f"node has no upstream; start it with --upstream HOST:PORT, or ask for an exit up to {last}"
    )


class Runner:
    """Takes work to the engine and adds up the time that it took there."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.spent_ms = 0.0

    async def __call__(self, work: Work[T], *, short: bool) -> T:
        """Go there once, and once more for every yield of the work. Cancelled, it ends at the next one."""
        while True:
            done = await self._engine.run(partial(self._step, work), short=short)
            if done:
                return done[0]

    def _step(self, work: Work[T]) -> tuple[T] | None:
        started = time.perf_counter()
        try:
            next(work)
        except StopIteration as end:
            return (end.value,)
        finally:
            self.spent_ms += (time.perf_counter() - started) * 1e3
        return None


@dataclass(frozen=True)
class Onward:
    """What is left of a message for the upstream: its rows are in the last level's log, up to `end`."""

    end: int
    question: Question
    engine_ms: float
    """Spent here."""


class Session:
    """One sequence at one node. Not re-entrant: the caller sends one message at a time, but while the upstream works on
    one (`onward`), later ones that go on from it and are answered here may be sent.

    Logs, views and history change within the engine's work alone: a message whose sender was cancelled may still be at
    work on its thread when the next one comes, and the engine takes them in turn.
    """

    def __init__(
        self, engine: Engine, genesis: bytes, tier: str, upstream: Upstream | None, *, sends_ids: bool = False
    ) -> None:
        """With `sends_ids` the upstream reads boundary 0: it is given token ids, and this node computes only what its
        own exits are asked for.
        """
        self.history = History(genesis)
        """Positions that the first segment has consumed."""
        self._tier = tier
        self._upstream = upstream
        self._engine = engine
        self._waiting = 0
        """Messages that the upstream works on."""
        self._levels = [Level(engine, index) for index in engine.segments]
        self._ids = RowLog(None) if sends_ids else None
        """Boundary 0, where it is kept."""

    async def advance(self, message: Advance) -> Answer | Behind:
        """Consume the rows and answer, or say what is missing.

        Raises `NoUpstreamError` for an exit out of reach, `IdsUnknownError` where one beyond this node needs token ids.
        """
        reply = await self._advance_once(message)
        holds_loop = self._levels[0].index == 1 and not self.hands_over(message.question.exit)
        for _ in range(message.question.more if holds_loop else 0):
            if not isinstance(reply, Answer):
                break
            await asyncio.sleep(0)  # short work may be done at once, and others have their turn too
            later = await self._advance_once(self._after(reply, message.question))
            assert isinstance(later, Answer), "a node's own log is never behind itself"
            reply = reply.joined(later)
        return reply

    def hands_over(self, exit_: int) -> bool:
        """Whether the exit is asked of an upstream that is sent token ids, and so can decide more than one token."""
        return self._ids is not None and exit_ > self._levels[-1].index

    async def _advance_once(self, message: Advance) -> Answer | Behind:
        reply = await self.consume(message)
        return await self.onward(reply) if isinstance(reply, Onward) else reply

    def _after(self, answer: Answer, question: Question) -> Advance:
        """The message that asks for the token after the answer's."""
        anchor, ids = self.history.value(len(self.history) - 1), [answer.tokens[-1]]
        values = tuple(chain.extend(anchor, ids, self.history.codec))
        once_more = replace(question, want=1, drafts=(), more=0)
        return Advance(len(self.history), anchor, values, np.array(ids, np.int64), once_more, self.history.codec)

    async def consume(self, message: Advance) -> Answer | Behind | Onward:
        """The part of `advance` that is done here."""
        self._check_reach(message.question)
        run = Runner(self._engine)
        reply = await run(self._advance(message), short=not self._waiting and self._is_short(message))
        return reply if isinstance(reply, Behind) else replace(reply, engine_ms=run.spent_ms)

    async def onward(self, rest: Onward) -> Answer:
        """The part of `advance` that is done upstream."""
        assert self._upstream is not None
        self._waiting += 1
        try:
            log = self._levels[-1].log if self._ids is None else self._ids
            answer = await self._upstream.ask(self.history, log, rest.end, rest.question)
        finally:
            self._waiting -= 1
        return replace(answer, cached=rest.end, engine_ms=answer.engine_ms + rest.engine_ms)

    def pause(self) -> None:
        """Keep what is here, but hold no stream upstream; the next message opens one."""
        if self._upstream is not None:
            self._upstream.pause()

    async def close(self) -> None:
        """Free the session here and upstream."""
        self._levels.clear()
        if self._upstream is not None:
            await self._upstream.close()

    def _is_short(self, message: Advance) -> bool:
        question, end = message.question, message.base + len(message.rows)
        return all(
            level.lag(end, message.base, asked=_asks(question, level.index)) <= SHORT_ROWS
            for level in self._readers(question)
        )

    def _readers(self, question: Question) -> list[Level]:
        """The levels that need what is new; none, if the upstream is sent the ids and computes their rows itself."""
        if self._ids is not None and not any(_asks(question, level.index) for level in self._levels):
            return []
        return [level for level in self._levels if level.index <= question.exit]

    def _check_reach(self, question: Question) -> None:
        last = self._levels[-1].index
        if question.exit <= last:
            return
        if self._upstream is None:
            raise beyond(question.exit, last, self._tier)
        if question.adjust is not None:
            raise IdsUnknownError(
                f"penalties need the token ids, which tier {self._tier!r} alone knows; it serves exits up to {last}: "
                f"leave the penalties out, or ask for an exit up to {last}"
            )

    def _advance(self, message: Advance) -> Work[Answer | Behind | Onward]:
        if not self.history.continues(message.base, message.anchor):
            return Behind(len(self.history), self.history.marks())
        if message.base and message.codec is not self.history.codec:
            raise InvalidRequestError(
                f"rows: codec {message.codec.label} after codec {self.history.codec.label}; a text keeps its codec"
            )
        self._truncate(message.base)
        self.history.codec = message.codec
        if self._ids is None:
            yield from self._levels[0].consume(message.rows)
        else:
            self._ids.append(message.rows)
        self.history.append(message.chain)
        if message.question.want == 0:
            return Answer(cached=len(self.history))
        return (yield from self._answer(message.question))

    def _truncate(self, length: int) -> None:
        if self._upstream is not None and length < len(self.history):  # one that went on by itself may be ahead
            self._upstream.truncate(length)
        self.history.truncate(length)
        if self._ids is not None:
            self._ids.truncate(length)
        for level in self._levels:  # they hold more than the history after work that was given up between forwards
            level.truncate(length)

    def _answer(self, question: Question) -> Work[Answer | Onward]:
        """Go up level by level to the first exit that may decide."""
        below = self._ids
        for level in self._readers(question):
            if below is not None:
                yield from level.consume(below.rows(len(level.log), len(below)))
            if question.shortens(level.index):
                question = yield from self._shorten(level, question)
            elif _asks(question, level.index):
                answer = yield from self._decide(level, question)
                if answer is not None:
                    return answer
            below = level.log
        return Onward(len(self.history), question, engine_ms=0.0)

    def _shorten(self, level: Level, question: Question) -> Work[Question]:
        """Take off the drafts from the first on that the level's exit would not have made, and go back before them."""
        logits = yield from level.answer(question.want)
        decision = decide(logits, question, len(self.history) - question.want + 1, level.index)
        kept = len(decision.tokens) - 1
        self._truncate(len(self.history) - (len(question.drafts) - kept))
        return replace(question, want=kept + 1, drafts=question.drafts[:kept])

    def _decide(self, level: Level, question: Question) -> Work[Answer | None]:
        """What the level's exit says; None: it is not the target's and not sure of every token."""
        logits = yield from level.answer(question.want)
        decision = decide(logits, question, len(self.history) - question.want + 1, level.index)
        if level.index != question.exit and not decision.sure:
            return None
        return Answer(
            cached=len(self.history),
            tokens=decision.tokens,
            confidence=decision.confidence,
            logprobs=decision.logprobs,
            exit=level.index,
            tier=self._tier,
            logits=logits[: len(decision.tokens)] if question.logits else None,
        )
