"""What a link does to TCP: round trips and rates, measured with a server that answers, reads on or writes on.

`python -m benchmarks.net.echo` serves, and says where; with an address it measures that server, and prints one JSON
object. So both ends of a link can be processes of their own.
"""

import argparse
import asyncio
import json
import struct
import sys
import time
from dataclasses import asdict, dataclass

PING_BYTES = 64
_CHUNK = bytes(1 << 16)
_ANSWER, _READ, _WRITE = b"E", b"R", b"W"
_HEADER = struct.Struct("<cQ")
"""What is wanted, and of how many bytes."""
_SECONDS = struct.Struct("<d")


@dataclass(frozen=True)
class Measured:
    """One link. Times are of the machine's monotonic clock, which all its processes share."""

    pings: tuple[tuple[float, float], ...]
    """When each was sent, in seconds, and its round trip in ms."""
    up_at_s: float
    """When the connection that sends bytes up was opened."""
    up_bps: float
    """What an application gets, from the first byte that arrives to the last."""
    down_at_s: float
    down_bps: float


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One connection: answers pings until they end, times what it reads, or writes."""
    try:
        kind, size = _HEADER.unpack(await reader.readexactly(_HEADER.size))
        if kind == _ANSWER:
            while data := await reader.read(len(_CHUNK)):
                writer.write(data)
        elif kind == _READ:
            writer.write(_SECONDS.pack(await _read(reader, size)))
        else:
            await _write(writer, size)
        await writer.drain()
    except (OSError, asyncio.IncompleteReadError):
        pass  # who measured is gone
    finally:
        writer.close()


async def measure(address: str, pings: int, up_bytes: int, down_bytes: int) -> Measured:
    """Ping the server at `address`, then send it bytes, then have it send some."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(_HEADER.pack(_ANSWER, 0))
    times = []
    for _ in range(pings + 1):
        started = time.monotonic()
        writer.write(_CHUNK[:PING_BYTES])
        await reader.readexactly(PING_BYTES)
        times.append((started, (time.monotonic() - started) * 1e3))
    writer.close()

    up_at_s = time.monotonic()
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(_HEADER.pack(_READ, up_bytes))
    await _write(writer, up_bytes)
    (up_s,) = _SECONDS.unpack(await reader.readexactly(_SECONDS.size))
    writer.close()

    down_at_s = time.monotonic()
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(_HEADER.pack(_WRITE, down_bytes))
    down_s = await _read(reader, down_bytes)
    writer.close()
    return Measured(tuple(times[1:]), up_at_s, 8 * up_bytes / up_s, down_at_s, 8 * down_bytes / down_s)


async def _write(writer: asyncio.StreamWriter, size: int) -> None:
    for start in range(0, size, len(_CHUNK)):
        writer.write(_CHUNK[: size - start])
        await writer.drain()


async def _read(reader: asyncio.StreamReader, size: int) -> float:
    """Seconds from the first to the last of so many bytes, as if the first had taken as long as each other."""
    first = got = len(await reader.read(len(_CHUNK)))
    started = time.monotonic()
    while got < size:
        data = await reader.read(len(_CHUNK))
        if not data:
            raise asyncio.IncompleteReadError(b"", size - got)
        got += len(data)
    return (time.monotonic() - started) * size / max(1, size - first)


async def _main(arguments: argparse.Namespace) -> None:
    if arguments.address:
        found = await measure(arguments.address, arguments.pings, arguments.up, arguments.down)
        sys.stdout.write(json.dumps(asdict(found)) + "\n")
        return
    async with await asyncio.start_server(serve, arguments.host, 0) as server:
        sys.stdout.write(f"{arguments.host}:{server.sockets[0].getsockname()[1]}\n")
        sys.stdout.flush()
        await server.serve_forever()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.net.echo", description=__doc__)
    parser.add_argument("address", nargs="?", help="of the server to measure; without it, serve")
    parser.add_argument("--host", default="127.0.0.1", help="to serve at")
    parser.add_argument("--pings", type=int, default=20)
    parser.add_argument("--up", type=int, default=1_000_000, metavar="BYTES")
    parser.add_argument("--down", type=int, default=1_000_000, metavar="BYTES")
    return parser


if __name__ == "__main__":
    asyncio.run(_main(_parser().parse_args()))
