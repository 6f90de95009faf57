"""A link as a TCP proxy: in front of a node's port, for any client, without root.

It ends TCP on both sides, so a lost packet is a delay (`schedule.Connection`). A new connection costs its round trip,
and data waits with its sender while the queue before the bottleneck is full. All connections share the link.
"""

import asyncio
from contextlib import suppress
from types import TracebackType

from benchmarks.net.links import Link, queue_bytes
from benchmarks.net.precise import Departures, PreciseLoop
from benchmarks.net.schedule import Capacity, Connection, Schedule

HOST = "127.0.0.1"
_READ_BYTES = 1 << 16


class LinkProxy:
    """`async with LinkProxy(link("4g"), "localhost:7002") as address:` answers at `address` as that node would over the
    link. Up is from whoever connects to the node.
    """

    def __init__(self, link: Link, target: str, seed: int = 0) -> None:
        self.link = link
        self.bytes = 0
        """Carried so far, in both directions, of what TCP carries."""
        self.began_s = 0.0
        """The monotonic clock's time at which the link began."""
        self._host, _, port = target.rpartition(":")
        self._port = int(port)
        self._ways = tuple(zip(link.schedules(seed), (link.up, link.down), strict=True))
        self._precise: PreciseLoop | None = None

    async def __aenter__(self) -> str:
        """Listen on a free port. The link's time begins."""
        self._precise = PreciseLoop()
        return await self._precise.run(self._listen())

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Break every connection, and stop listening."""
        assert self._precise is not None
        await self._precise.run(self._stop())
        await self._precise.close()

    async def _listen(self) -> str:
        self.began_s = asyncio.get_running_loop().time()
        self._server = await asyncio.start_server(self._serve, HOST, 0)
        return f"{HOST}:{self._server.sockets[0].getsockname()[1]}"

    async def _stop(self) -> None:
        self._server.close()

    async def _serve(self, near_in: asyncio.StreamReader, near_out: asyncio.StreamWriter) -> None:
        """One connection, until both ends have closed it or one broke it."""
        writers = [near_out]
        try:
            await asyncio.sleep(self.link.rtt_ms / 1e3)
            far_in, far_out = await asyncio.open_connection(self._host.strip("[]"), self._port)
            writers.append(far_out)
            ends = zip(self._ways, (near_in, far_in), (far_out, near_out), strict=True)
            await asyncio.gather(*(self._carry(*way, reader, writer) for way, reader, writer in ends))
            for writer in writers:
                writer.close()
        except (OSError, asyncio.CancelledError):  # refused, broken, or the link is gone: both ends are told at once
            for writer in writers:
                writer.transport.abort()

    async def _carry(
        self, schedule: Schedule, capacity: Capacity, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """One direction of a connection, until its sender closes it."""
        under_way: Departures[bytes] = Departures()
        giving = asyncio.ensure_future(under_way.carry(lambda data: _give(writer, data)))
        try:
            await asyncio.gather(self._take(schedule, queue_bytes(capacity), reader, under_way), giving)
        finally:
            giving.cancel()

    async def _take(
        self, schedule: Schedule, room: float, reader: asyncio.StreamReader, under_way: Departures[bytes]
    ) -> None:
        loop, connection = asyncio.get_running_loop(), Connection(schedule, self.link.rtt_ms / 1e3)
        while data := await reader.read(_READ_BYTES):
            self.bytes += len(data)
            now_s, start = loop.time() - self.began_s, 0
            for size, arrives_s in connection.write(now_s, len(data)):
                under_way.add(self.began_s + arrives_s, data[start : start + size])
                start += size
            while (free_s := schedule.frees(room)) > loop.time() - self.began_s:
                await asyncio.sleep(free_s - (loop.time() - self.began_s))
        ((_, arrives_s),) = connection.write(loop.time() - self.began_s, 1)
        under_way.add(self.began_s + arrives_s, b"")


async def _give(writer: asyncio.StreamWriter, data: bytes) -> bool:
    """Pass data on; none is the sender's end of it."""
    if not data:
        with suppress(OSError):
            writer.write_eof()
        return False
    writer.write(data)
    await writer.drain()
    return True
