"""gRPC streams to the next node, and what was sent over them."""

import asyncio
import logging
import time
from collections import deque
from contextlib import suppress

import grpc
import numpy as np
from grpc import aio

from family.spec import FamilySpec
from relay import wire
from relay.errors import CODE_KEY, REQUEST_KEY, NotReadyError, RelayError, UntrustedError, from_rpc
from relay.fence import Stale
from relay.hop import Envelope
from relay.messages import Answer, Behind
from relay.v1 import relay_pb2 as pb
from relay.v1 import relay_pb2_grpc as rpc

log = logging.getLogger("relay.node")

GOODBYE_S = 2.0
"""How long closing a session waits for the upstream to free it."""


MOST_HOP_TIMES = 1024
"""Messages whose times are remembered."""


class Link:
    """The way to the upstream node: what was sent over it since the start, and whether it works. Every session's
    streams share it.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        """HOST:PORT; empty without an upstream."""
        self.messages = 0
        self.rows = 0
        self.bytes = 0
        """Size of the messages as protocol buffers."""
        self.hop_ms: deque[float] = deque(maxlen=MOST_HOP_TIMES)
        """Of the newest messages: the round trip less what the upstream's engine and further hops took of it."""
        self.timed = [0.0] * 6
        """Sums over all of them of 1, x, y, x², xy, y², for a size x in bytes that took y ms."""
        self._broken = False

    def answered(self, sent: pb.AdvanceRequest, hop_ms: float | None) -> None:
        """A message was answered; None for one that waited behind another, whose time tells nothing."""
        self.messages += 1
        self.rows += sent.rows.count
        self.bytes += sent.ByteSize()
        if hop_ms is not None:
            self.hop_ms.append(hop_ms)
            x, y = float(sent.ByteSize()), hop_ms
            self.timed = [a + b for a, b in zip(self.timed, (1.0, x, y, x * x, x * y, y * y), strict=True)]
        if self._broken:
            self._broken = False
            log.info("the link to %s works again", self.address)

    def broke(self, reason: BaseException) -> None:
        """A stream broke, or could not be made. Said once, until the link works again."""
        if not self._broken:
            self._broken = True
            log.warning("the link to %s broke, trying again: %s", self.address, reason)

    def hop_ms_at(self, quantile: float) -> float:
        """The quantile of `hop_ms`; 0 before the first message."""
        return float(np.quantile(np.array(self.hop_ms), quantile)) if self.hop_ms else 0.0


class GrpcTransport:
    """One session's stream to the upstream node."""

    def __init__(
        self,
        stub: "rpc.HopAsyncStub",
        link: Link,
        session: str,
        peer: pb.Peer,
        spec: FamilySpec,
        timeout_s: float | None,
        request_id: str,
    ) -> None:
        self._call = stub.Advance(timeout=timeout_s, metadata=((REQUEST_KEY, request_id),))
        self._request_id = request_id
        self._link = link
        self._address = link.address
        self._session = session
        self._peer: pb.Peer | None = peer
        self._spec = spec
        self._newest: asyncio.Future[Answer | Behind | Stale] | None = None
        """The newest exchange, done or under way."""
        self._writing, self._reading = asyncio.Lock(), asyncio.Lock()
        """gRPC takes one write and one read at a time. Who has written first reads first."""

    async def exchange(self, envelope: Envelope) -> Answer | Behind | Stale:
        """Send a message and wait for its reply. `ConnectionError`: the stream broke; `RelayError`: it was refused.

        A caller that is cancelled meanwhile leaves the stream whole: its reply is read and nobody's.
        """
        self._newest = asyncio.ensure_future(self._exchange(envelope))
        self._newest.add_done_callback(self._notice)
        return await asyncio.shield(self._newest)

    def _notice(self, exchange: "asyncio.Future[Answer | Behind | Stale]") -> None:
        """Take note of how an exchange ended, even where nobody waits for it any more."""
        error = None if exchange.cancelled() else exchange.exception()
        if isinstance(error, ConnectionError):
            self._link.broke(error)

    async def _exchange(self, envelope: Envelope) -> Answer | Behind | Stale:
        alone = not self._writing.locked() and not self._reading.locked()
        try:
            async with self._writing:  # encoded in its turn: many may wait for a slow link
                message = wire.request(self._session, envelope, self._peer)
                self._peer = None
                started = time.perf_counter()
                await self._call.write(message)
            async with self._reading:
                reply = await self._call.read()
        except aio.AioRpcError as error:
            raise _broken(error, self._address, self._request_id) from error
        except asyncio.InvalidStateError as error:  # the call ended while nothing was being exchanged
            raise ConnectionError(f"the stream to {self._address} was closed") from error
        if not isinstance(reply, pb.AdvanceReply):
            raise ConnectionError(f"the node at {self._address} closed the stream")
        took_ms = (time.perf_counter() - started) * 1e3
        try:
            result = wire.result(reply, envelope, self._spec, self._address)
        except ConnectionError:
            self._call.cancel()  # out of step for good
            raise
        self._link.answered(message, took_ms - reply.answer.engine_ms - reply.answer.link_ms if alone else None)
        return result

    def drop(self) -> None:
        """End the stream without a goodbye."""
        self._call.cancel()

    async def close(self) -> None:
        """Say goodbye, which frees the session upstream; give the upstream a moment to do so."""
        await asyncio.wait({asyncio.ensure_future(self._say_goodbye())}, timeout=GOODBYE_S)
        self._call.cancel()

    async def _say_goodbye(self) -> None:
        broken = (aio.AioRpcError, asyncio.InvalidStateError, asyncio.CancelledError, ConnectionError, RelayError)
        with suppress(*broken):  # a stream that broke before: the upstream frees the session after its grace
            async with self._writing:
                await self._call.write(pb.AdvanceRequest(session=self._session, goodbye=True))
                await self._call.done_writing()
            if self._newest is not None:
                await self._newest
            while await self._call.read() is not aio.EOF:
                pass


_BREAKS = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL, grpc.StatusCode.CANCELLED)
"""Statuses that gRPC itself gives to a stream whose connection is lost, whatever it was doing; never with a code
of ours."""


def _broken(error: aio.AioRpcError, address: str, request_id: str) -> Exception:
    """A break that a new stream may mend, or the upstream's refusal."""
    ours = CODE_KEY in dict(error.trailing_metadata() or ())
    translated = from_rpc(error, address, request_id)
    broke = error.code() in _BREAKS and not ours and not isinstance(translated, UntrustedError)
    mendable = broke or isinstance(translated, NotReadyError)
    return ConnectionError(str(translated)) if mendable else translated
