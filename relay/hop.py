"""`Hop`: the sending end of a session's way upstream. It reads the last log of a node and never passes "behind" down.

It keeps what it believes the upstream has, works out its own `base` from that, and sends again from the last common
position when told otherwise. Messages go one behind the other, and only a question's reply is waited for: if rows that
went before it were lost, it does not fit, and the reply says from where to send again. A transport that breaks is
opened anew under the next epoch: resuming after a cut, replaying to a restarted node, and waiting for one that gave the
session's place away meanwhile are the same loop.
"""

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Protocol, TypeAlias

from relay.errors import BusyError, InternalError, UnreachableError
from relay.fence import Stale, next_epoch
from relay.log import History, RowLog, pieces
from relay.messages import Advance, Answer, Behind, Question

ROWS_PER_MESSAGE_BYTES = 1 << 21
"""Rows of one message, before a codec makes them smaller."""
RECONNECT_DELAYS_S = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6)
"""Pauses before each new attempt at a broken or refused connection."""
_MORE_PAUSES_ONCE_ANSWERED = 8
"""The last pause, so many times more, for an upstream that has answered the session before: a node that restarts has
its files to check and its graphs to load."""
_MOST_CORRECTIONS = 32
"""Replies of Behind or Stale to one question. A quiet link needs two; a restart or a rival stream costs one more."""
_MOST_UNDER_WAY = 64
"""Messages that wait for their replies when nothing more is pushed."""

Reply: TypeAlias = Answer | Behind | Stale


@dataclass(frozen=True)
class Envelope:
    """An `Advance` as a stream carries it."""

    epoch: int
    seq: int
    message: Advance


class Transport(Protocol):
    """One stream to the upstream."""

    async def exchange(self, envelope: Envelope) -> Reply:
        """Send, and wait for the reply; messages go, and replies come, in the order of the calls, which need not wait
        for each other. Raises `ConnectionError` if the stream broke, `RelayError` if refused.
        """
        ...

    def drop(self) -> None:
        """End the stream without a goodbye: the session stays upstream for its grace."""
        ...

    async def close(self) -> None:
        """Say goodbye: the session is over."""
        ...


class Hop:
    """One session's reader of the last log, on the node that holds it. Used on the event loop, but for `truncate`."""

    def __init__(self, connect: Callable[[], Transport], row_bytes: int) -> None:
        self._connect = connect
        self._rows_per_message = max(1, ROWS_PER_MESSAGE_BYTES // row_bytes)
        self._transport: Transport | None = None
        self._under_way: list[asyncio.Task[Reply]] = []
        """Messages whose replies nobody has looked at."""
        self._cached = 0
        """Rows that the upstream has said it has."""
        self._sent = 0
        """Rows that it will have when it has answered all that is under way."""
        self._engine_ms = 0.0
        """Engine time of the answers since the last question's."""
        self._epoch = 0
        self._seq = 0
        self._answered = False

    def truncate(self, length: int) -> None:
        """The log was cut to `length` rows."""
        self._cached, self._sent = min(self._cached, length), min(self._sent, length)

    def push(self, history: History, log: RowLog, end: int, question: Question) -> None:
        """Send what the upstream lacks of the first `end` rows, as far as the log has them, which such a question will
        need, and wait for nothing.

        If rows are lost on the way, that shows when the question is asked, and they are sent again.
        """
        while self._under_way and self._under_way[0].done():
            if not _consumed(self._under_way[0]):
                return
            self._take(self._under_way.pop(0).result())
        if len(self._under_way) < _MOST_UNDER_WAY:
            self._send(history, log, min(end, len(log)), question.rows_only())

    async def ask(self, history: History, log: RowLog, end: int, question: Question) -> Answer:
        """Send what the upstream lacks of the first `end` rows, the last `question.want` among them; its answer.

        The log may grow meanwhile.
        """
        started = time.perf_counter()
        if any(_failed(task) for task in self._under_way):
            self.pause()  # what was pushed while nobody asked met a break or a refusal, which may be over
        pauses, reached = self._pauses(), self._cached
        corrections = 0
        while corrections < _MOST_CORRECTIONS:
            self._sent = min(self._sent, end - question.want)  # an upstream that went on by itself may be ahead
            self._send(history, log, end, question)
            try:
                reply = await self._replies()
            except (ConnectionError, BusyError) as error:
                self._lose()
                if self._cached > reached:
                    pauses, reached = self._pauses(), self._cached
                pause_s = next(pauses, None)
                if isinstance(error, BusyError) and (pause_s is None or not self._answered):
                    raise  # a text that was let in before waits until there is room for it again
                if pause_s is None:
                    raise UnreachableError(str(error)) from error
                await asyncio.sleep(pause_s)
                continue
            match reply:
                case Stale():
                    self._epoch = next_epoch(reply.current_epoch)
                    self._sent = self._cached
                case Behind():
                    self._sent = self._cached = reached = history.common(reply.marks)
                case Answer():
                    self._sent = self._cached = reply.cached
                    engine_ms, self._engine_ms = self._engine_ms, 0.0
                    link_ms = max(0.0, (time.perf_counter() - started) * 1e3 - engine_ms)
                    return replace(reply, engine_ms=engine_ms, link_ms=link_ms)
            corrections += 1
        raise InternalError("the upstream node refuses every position of the session; see its log")

    def pause(self) -> None:
        """Nothing will be asked for a while: hold no stream meanwhile."""
        if self._transport is not None:
            self._transport.drop()
            self._lose()

    async def close(self) -> None:
        """Free the session upstream."""
        if self._transport is not None:
            await self._transport.close()
            self._transport = None

    def _send(self, history: History, log: RowLog, end: int, question: Question) -> None:
        """Send the rows that are not yet sent of the first `end`, in messages of bounded size, the last one with the
        question.
        """
        for first, stop in pieces(self._sent, end, self._rows_per_message, last=question.want):
            if self._transport is None:
                self._transport = self._connect()
                self._epoch, self._seq = next_epoch(self._epoch), 0
            self._seq += 1
            message = Advance(
                base=first,
                anchor=history.value(first - 1),
                chain=tuple(history.values(first, stop)),
                rows=log.rows(first, stop).copy(),  # the log may be cut and grow again before these are gone
                question=question if stop == end else question.rows_only(),
                codec=history.codec,
            )
            exchange = self._transport.exchange(Envelope(self._epoch, self._seq, message))
            task = asyncio.ensure_future(exchange)
            task.add_done_callback(_look)
            self._under_way.append(task)
            self._sent = stop

    async def _replies(self) -> Reply:
        """The reply to the newest message, once there is one to all that are under way.

        Raises `ConnectionError` where the newest has none, `RelayError` where any was refused.
        """
        tasks, self._under_way = self._under_way, []
        found = await asyncio.gather(*tasks, return_exceptions=True)
        for reply in found:
            if isinstance(reply, Answer):
                self._take(reply)
            elif isinstance(reply, BaseException) and not isinstance(reply, ConnectionError | asyncio.CancelledError):
                raise reply
        newest = found[-1]
        if isinstance(newest, asyncio.CancelledError):
            raise ConnectionError("the stream to the upstream was dropped")
        if isinstance(newest, BaseException):
            raise newest
        return newest

    def _take(self, answer: Reply) -> None:
        """Note what of the log has arrived."""
        assert isinstance(answer, Answer)
        self._answered = True
        self._cached = min(answer.cached, self._sent)
        self._engine_ms += answer.engine_ms

    def _lose(self) -> None:
        """The transport is gone, and with it all that was under way."""
        self._transport = None
        self._under_way = []
        self._sent = self._cached

    def _pauses(self) -> Iterator[float]:
        more = RECONNECT_DELAYS_S[-1:] * (_MORE_PAUSES_ONCE_ANSWERED if self._answered else 0)
        return iter((*RECONNECT_DELAYS_S, *more))


def _failed(task: "asyncio.Task[Reply]") -> bool:
    return task.done() and (task.cancelled() or task.exception() is not None)


def _consumed(task: "asyncio.Task[Reply]") -> bool:
    return not _failed(task) and isinstance(task.result(), Answer)


def _look(task: "asyncio.Task[Reply]") -> None:
    """Errors are for whoever waits for the reply; where nobody does, they are no news."""
    if not task.cancelled():
        task.exception()
