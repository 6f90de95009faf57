"""`Session`: one sequence at one node, from rows in to an answer out.

Every segment that the node serves is a `Level`: the segment's view, the log of the rows it made, and the exit's view
on that log. A level reads the log below it only when something above it, or its exit, is asked: a token that leaves
early costs the deeper levels nothing. What lies beyond the last level reads the last log in just the same way.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from relay import chain
from relay.decide import decide
from relay.errors import IdsUnknownError, InvalidRequestError, NoUpstreamError
from relay.log import History, RowLog, Rows
from relay.messages import Advance, Answer, Behind, Logits, Question
from relay.views import Engine, Forward, View, Work

T = TypeVar("T")

ROWS_AT_ONCE = 512
"""Of a long message: those above are sent so many while the next are computed. Results do not depend on it (chunk
invariance).
"""
MOST_ANSWERS = 64
"""Rows that one question may be about: they are one forward with its logits, so this bounds what a peer can ask for."""


class Upstream(Protocol):
    """A reader of the last level's log that lives on another node. Used on the event loop, but for `truncate`."""

    def truncate(self, length: int) -> None:
        """The log was cut to `length` rows: what was read beyond is void."""
        ...

    def push(self, history: History, log: RowLog, end: int, question: Question) -> None:
        """Send what the upstream lacks of the log's first `end` rows, as far as it has them, which such a question will
        need; do not wait.
        """
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
        self._exit: View | None = None
        self._exit_read = 0
        """Rows of the log that the branch has consumed."""

    def truncate(self, length: int) -> None:
        """Go back: the segment's view and the branch's are positional, so only lengths change."""
        self.log.truncate(length)
        self._exit_read = min(self._exit_read, length)

    def consume(self, rows: Rows | NDArray[np.int64]) -> Work[None]:
        """Run the segment over the rows of the next positions, and log what it makes."""
        if len(rows):
            made = yield Forward(self._segment, rows, len(self.log))
            self.log.append(made)

    def answer(self, want: int) -> Work[Logits]:
        """Logits of the last `want` rows of the log at this level's exit, (want, vocab); it opens when first asked."""
        if self._exit is None:
            self._exit = self._engine.open_exit(self.index)
        view, end = self._exit, len(self.log)
        start = min(self._exit_read, end - want) if view.has_cache else end - want
        logits = yield Forward(view, self.log.rows(start, end), start, want)
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


@dataclass(frozen=True)
class Unfinished:
    """Some rows of a long message were computed; those above may read them while the next are."""


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
        self,
        engine: Engine,
        genesis: bytes,
        tier: str,
        upstream: Upstream | None,
        *,
        sends_ids: bool = False,
        sends_ahead: bool = False,
    ) -> None:
        """With `sends_ids` the upstream reads boundary 0: it is given token ids, and this node computes only what its
        own exits are asked for. With `sends_ahead` it is also given the rows of what is decided here, without a
        question, so that they are there should one come.
        """
        self.history = History(genesis)
        """Positions that were received."""
        self._tier = tier
        self._upstream = upstream
        self._engine = engine
        self._waiting = 0
        """Messages that the upstream works on."""
        self._levels = [Level(engine, index) for index in engine.segments]
        self._received = RowLog(None if engine.segments[0] == 1 else engine.d_model)
        """The log below the first level, as far as somebody may still read it."""
        self._sends_ids, self._sends_ahead = sends_ids, sends_ahead

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
        return self._sends_ids and exit_ > self._levels[-1].index

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
        reply, spent_ms = await self._run(self._advance(message))
        while isinstance(reply, Unfinished):
            self._push(message.question)
            reply, more_ms = await self._run(self._answer(message.question))
            spent_ms += more_ms
        if isinstance(reply, Behind):
            return reply
        question = message.question
        if isinstance(reply, Onward) and question.want == 0:
            self._push(question)
            reply = Answer(cached=reply.end)
        if self._sends_ahead and self._upstream is not None and isinstance(reply, Answer) and question.rule is not None:
            decided = reply.cached - question.want + len(reply.tokens)
            self._upstream.push(self.history, self._sent_log, decided, Question.later())
        return replace(reply, engine_ms=spent_ms)

    async def _run(self, work: Work[T]) -> tuple[T, float]:
        return await self._engine.run(work, self, at_once=not self._waiting)

    def _push(self, question: Question) -> None:
        """Let the upstream have the rows that it will surely need for the question, while the next are computed."""
        if self._upstream is not None and question.sure(self._levels[0].index) > self._levels[-1].index:
            self._upstream.push(self.history, self._sent_log, len(self.history) - question.want, question)

    @property
    def _sent_log(self) -> RowLog:
        """What the upstream reads."""
        return self._received if self._sends_ids else self._levels[-1].log

    async def onward(self, rest: Onward) -> Answer:
        """The part of `advance` that is done upstream."""
        assert self._upstream is not None
        self._waiting += 1
        try:
            answer = await self._upstream.ask(self.history, self._sent_log, rest.end, rest.question)
        finally:
            self._waiting -= 1
        return replace(answer, cached=rest.end, engine_ms=answer.engine_ms + rest.engine_ms)

    def pause(self) -> None:
        """Keep what is here, but hold no stream upstream; the next message opens one."""
        self._engine.leave(self)
        if self._upstream is not None:
            self._upstream.pause()

    async def close(self) -> None:
        """Free the session here and upstream."""
        self._engine.leave(self)
        self._levels.clear()
        if self._upstream is not None:
            await self._upstream.close()

    def _readers(self, question: Question) -> list[Level]:
        """The levels that need what is new; none, if the upstream is sent the ids and computes their rows itself."""
        if self._sends_ids and not any(_asks(question, level.index) for level in self._levels):
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

    def _advance(self, message: Advance) -> Work[Answer | Behind | Onward | Unfinished]:
        if not self.history.continues(message.base, message.anchor):
            return Behind(len(self.history), self.history.marks())
        if message.base and message.codec is not self.history.codec:
            raise InvalidRequestError(
                f"rows: codec {message.codec.label} after codec {self.history.codec.label}; a text keeps its codec"
            )
        self._truncate(message.base)
        self.history.codec = message.codec
        self._received.append(message.rows)
        self.history.append(message.chain)
        return (yield from self._answer(message.question))

    def _truncate(self, length: int) -> None:
        if length >= len(self.history):
            return
        self.history.truncate(length)
        self._received.truncate(length)
        for level in self._levels:
            level.truncate(length)
        if self._upstream is not None:
            self._upstream.truncate(length)

    def _answer(self, question: Question) -> Work[Answer | Onward | Unfinished]:
        """Go up to the level that surely decides, then level by level to the first exit that does."""
        levels = self._readers(question)
        surely = question.sure(self._levels[0].index)
        if not (yield from self._compute([level for level in levels if level.index <= surely])):
            return Unfinished()
        for i, level in enumerate(levels if question.want else []):
            while not (yield from self._compute(levels[: i + 1])):
                pass
            if question.shortens(level.index):
                question = yield from self._shorten(level, question)
            elif _asks(question, level.index):
                answer = yield from self._decide(level, question)
                if answer is not None:
                    return answer
        if question.want == 0 and surely <= self._levels[-1].index:
            return Answer(cached=len(self.history))
        return Onward(len(self.history), question, engine_ms=0.0)

    def _compute(self, levels: Sequence[Level]) -> Work[bool]:
        """Take some of the positions that levels, consecutive from the first, lack through all of them; whether those
        were all.
        """
        below = self._received
        for level in levels:
            first = len(level.log)
            yield from level.consume(below.rows(first, min(len(below), first + ROWS_AT_ONCE)))
            below = level.log
        if any(len(level.log) < len(self.history) for level in levels):
            return False
        if levels and not self._sends_ids:
            self._received.forget()
        return True

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
