"""`Hop`: the sending end of a session's way upstream. It reads the last log of a node and never passes "behind" down.

It keeps what it believes the upstream has consumed, works out its own `base` from that, and sends again from the last
common position when told otherwise. A transport that breaks is opened anew under the next epoch: resuming after a cut
and replaying to a restarted node are the same loop.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Protocol

from relay.errors import InternalError, UnreachableError
from relay.fence import Stale, next_epoch
from relay.log import History, RowLog, pieces
from relay.messages import Advance, Answer, Behind, Question

ROWS_PER_MESSAGE_BYTES = 1 << 20
"""Rows of one message; gRPC refuses messages over 4 MiB."""
RECONNECT_DELAYS_S = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6)
"""Pauses before each new attempt at a broken or refused connection."""
_MORE_PAUSES_ONCE_ANSWERED = 8
"""The last pause, so many times more, for an upstream that has answered the session before: a node that restarts has
its files to check and its graphs to load."""
_MOST_CORRECTIONS = 32
"""Replies of Behind or Stale to one question. A quiet link needs two; a restart or a rival stream costs one more."""


@dataclass(frozen=True)
class Envelope:
    """An `Advance` as a stream carries it."""

    epoch: int
    seq: int
    message: Advance


class Transport(Protocol):
    """One stream to the upstream."""

    async def exchange(self, envelope: Envelope) -> Answer | Behind | Stale:
        """Send, and wait for the reply. Raises `ConnectionError` if the stream broke, `RelayError` if refused."""
        ...

    def drop(self) -> None:
        """End the stream without a goodbye: the session stays upstream for its grace."""
        ...

    async def close(self) -> None:
        """Say goodbye: the session is over."""
        ...


class Hop:
    """One session's reader of the last log, on the node that holds it."""

    def __init__(self, connect: Callable[[], Awaitable[Transport]], row_bytes: int) -> None:
        self._connect = connect
        self._rows_per_message = max(1, ROWS_PER_MESSAGE_BYTES // row_bytes)
        self._transport: Transport | None = None
        self._cached = 0
        """Rows that the upstream is believed to have consumed."""
        self._epoch = 0
        self._seq = 0
        self._answered = False

    def truncate(self, length: int) -> None:
        """The log was cut to `length` rows."""
        self._cached = min(self._cached, length)

    async def ask(self, history: History, log: RowLog, end: int, question: Question) -> Answer:
        """Send what the upstream lacks of the first `end` rows, the last `question.want` among them; its answer.

        The log may grow meanwhile.
        """
        consume = Question(question.exit, want=0)
        started, engine_ms = time.perf_counter(), 0.0
        for _ in range(_MOST_CORRECTIONS):
            self._cached = min(self._cached, end - question.want)  # an upstream that went on by itself may be ahead
            for first, stop in pieces(self._cached, end, self._rows_per_message, last=question.want):
                asked = question if stop == end else consume
                reply = await self._exchange(history, log, first, stop, asked)
                if isinstance(reply, Stale):
                    self._epoch = next_epoch(reply.current_epoch)
                    break
                if isinstance(reply, Behind):
                    self._cached = history.common(reply.marks)
                    break
                self._cached = reply.cached
                engine_ms += reply.engine_ms
                if asked is question:
                    link_ms = (time.perf_counter() - started) * 1e3 - engine_ms
                    return replace(reply, engine_ms=engine_ms, link_ms=link_ms)
        raise InternalError("the upstream node refuses every position of the session; see its log")

    def pause(self) -> None:
        """Nothing will be asked for a while: hold no stream meanwhile."""
        if self._transport is not None:
            self._transport.drop()
            self._transport = None

    async def close(self) -> None:
        """Free the session upstream."""
        if self._transport is not None:
            await self._transport.close()
            self._transport = None

    async def _exchange(
        self, history: History, log: RowLog, first: int, stop: int, question: Question
    ) -> Answer | Behind | Stale:
        """One message and its reply, over a new stream if the old one broke."""
        message = Advance(
            base=first,
            anchor=history.value(first - 1),
            chain=tuple(history.values(first, stop)),
            rows=log.rows(first, stop),
            question=question,
            codec=history.codec,
        )
        more = RECONNECT_DELAYS_S[-1:] * (_MORE_PAUSES_ONCE_ANSWERED if self._answered else 0)
        for delay_s in (*RECONNECT_DELAYS_S, *more, None):
            try:
                if self._transport is None:
                    self._transport = await self._connect()
                    self._epoch, self._seq = next_epoch(self._epoch), 0
                self._seq += 1
                reply = await self._transport.exchange(Envelope(self._epoch, self._seq, message))
                self._answered = True
                return reply
            except ConnectionError as error:
                self._transport = None
                if delay_s is None:
                    raise UnreachableError(str(error)) from error
                await asyncio.sleep(delay_s)
        raise AssertionError("the last attempt returns or raises")
