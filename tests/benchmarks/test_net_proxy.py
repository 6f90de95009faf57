"""A shaped link between real sockets: every byte arrives, once and in order, and none before its time."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import wraps
from pathlib import Path
from random import Random
from typing import Any

import pytest

import benchmarks.link
from benchmarks.net.echo import serve
from benchmarks.net.links import Link, link
from benchmarks.net.namespaces import NamespaceLink, NamespacesError
from benchmarks.net.precise import Departures, PreciseLoop
from benchmarks.net.proxy import LinkProxy
from benchmarks.net.schedule import steady
from relay.policy import ExitSchedule
from tests.relay.processes import PATIENCE_S, free_port
from tests.relay.servers import HOST, address, config, running, text

ROUGH = Link("rough", steady(20e6), steady(20e6), rtt_ms=4, jitter_ms=1, loss=0.02)


def on_a_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    @wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(test(*args, **kwargs))

    return run


@asynccontextmanager
async def mirror() -> AsyncIterator[str]:
    """A server that sends back what it gets, and closes when its client has."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 14):
            writer.write(data)
            await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, HOST, 0) as server:
        yield f"{HOST}:{server.sockets[0].getsockname()[1]}"


async def connect(where: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, _, port = where.rpartition(":")
    return await asyncio.open_connection(host, int(port))


async def reflected(where: str, data: bytes) -> bytes:
    """What comes back for data, up to the end of the connection."""
    reader, writer = await connect(where)

    async def send() -> None:
        writer.write(data)
        await writer.drain()
        writer.write_eof()

    async with asyncio.timeout(PATIENCE_S):
        back, _ = await asyncio.gather(reader.read(-1), send())
    writer.close()
    return back


@on_a_loop
async def test_bytes_cross_a_bad_link_both_ways_unchanged_up_to_the_close() -> None:
    async with mirror() as server, LinkProxy(ROUGH, server) as where:
        texts = [Random(size).randbytes(size) for size in (0, 1, 1448, 1449, 300_000)]
        assert await asyncio.gather(*(reflected(where, data) for data in texts)) == texts


@on_a_loop
async def test_no_answer_is_back_before_its_round_trips() -> None:
    async with mirror() as server, LinkProxy(link("40ms"), server) as where:
        started = time.perf_counter()  # a lower bound, which no slow machine breaks
        assert await reflected(where, b"ping") == b"ping"
        assert time.perf_counter() - started >= 2 * 0.04  # the connection's and the ping's


@on_a_loop
async def test_a_node_behind_a_bad_link_gives_the_text_that_it_gives_at_hand(tiny_bundle: Path) -> None:
    async with running(config(tiny_bundle, "all", segments=(2, 3))) as far, LinkProxy(ROUGH, address(far)) as where:
        options = {"policy": ExitSchedule(3), "max_tokens": 16, "ignore_stop": True}
        async with (
            running(replace(config(tiny_bundle, "device"), upstream=where)) as shaped,
            running(config(tiny_bundle, "device", far)) as direct,
        ):
            one, other = [await text(server, "tea", **options) for server in (shaped, direct)]
        assert [t.id for t in one] == [t.id for t in other] and {t.exit for t in one} == {1, 2, 3}


@on_a_loop
async def test_a_server_that_is_not_there_is_a_connection_that_ends() -> None:
    async with LinkProxy(ROUGH, f"{HOST}:{free_port()}") as where:
        reader, writer = await connect(where)
        with pytest.raises(OSError):
            assert not await asyncio.wait_for(reader.read(), PATIENCE_S)
            raise ConnectionResetError
        writer.close()


@on_a_loop
async def test_a_link_that_is_gone_breaks_what_went_over_it() -> None:
    async with mirror() as server:
        async with LinkProxy(ROUGH, server) as where:
            reader, writer = await connect(where)
            writer.write(b"x")
            assert await asyncio.wait_for(reader.readexactly(1), PATIENCE_S) == b"x"
        with pytest.raises(OSError):
            assert not await asyncio.wait_for(reader.read(), PATIENCE_S)
            raise ConnectionResetError
        writer.close()
        with pytest.raises(OSError):
            await connect(where)


@on_a_loop
async def test_what_is_under_way_is_handed_on_in_order_and_never_early() -> None:
    precise = PreciseLoop()
    found: list[tuple[float, float]] = []

    async def work() -> None:
        loop, under_way = asyncio.get_running_loop(), Departures[float]()

        async def deliver(due: float) -> bool:
            found.append((due, loop.time()))
            return len(found) < 20

        now = loop.time()
        for i in range(20):
            under_way.add(now + i // 2 / 1e3, now + i // 2 / 1e3)
        await under_way.carry(deliver)

    await precise.run(work())
    await precise.close()
    assert len(found) == 20
    assert all(at >= due for due, at in found)
    assert [due for due, _ in found] == sorted(due for due, _ in found)


@on_a_loop
async def test_namespaces_carry_real_tcp_over_a_link_that_loses_packets(monkeypatch: pytest.MonkeyPatch) -> None:
    lossy = Link("lossy", steady(20e6), steady(20e6), rtt_ms=4, loss=0.05)
    monkeypatch.setattr(benchmarks.link, "SECONDS", 0.04)
    try:
        found = await benchmarks.link.through_namespaces(lossy)
    except NamespacesError as error:
        pytest.skip(str(error))
    assert found["measured"]["rtt_ms_p50"] >= lossy.rtt_ms  # a lower bound
    assert found["measured"]["up_mbps"] > 0 and found["measured"]["down_mbps"] > 0


@on_a_loop
async def test_namespaces_are_gone_afterwards() -> None:
    try:
        async with NamespaceLink(ROUGH) as (near, far):
            assert near.name != far.name
            assert await there(near.name) and await there(far.name)
    except NamespacesError as error:
        pytest.skip(str(error))
    assert not await there(near.name) and not await there(far.name)


async def there(namespace: str) -> bool:
    listing = await asyncio.create_subprocess_exec("ip", "netns", "list", stdout=asyncio.subprocess.PIPE)
    said, _ = await listing.communicate()
    return namespace in said.decode()


@on_a_loop
async def test_the_benchmark_measures_what_the_schedule_wants(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Link("slow", steady(4e6), steady(8e6), rtt_ms=6)
    monkeypatch.setattr(benchmarks.link, "SECONDS", 0.2)
    found = await benchmarks.link.through_proxy(slow)
    wanted, measured = found["wanted"], found["measured"]
    assert wanted["rtt_ms_p50"] == pytest.approx(6.348, abs=0.001)  # 116 bytes at 4 and at 8 Mbit/s
    assert wanted["up_mbps"] == pytest.approx(4 * 1448 / 1500, abs=0.01)
    assert wanted["down_mbps"] == pytest.approx(8 * 1448 / 1500, abs=0.01)
    assert measured.keys() == wanted.keys() and all(value > 0 for value in measured.values())
    assert found["late_ms_p50"] >= 0  # a lower bound


@on_a_loop
async def test_a_client_that_goes_away_ends_its_service() -> None:
    async with await asyncio.start_server(serve, HOST, 0) as server:
        where = f"{HOST}:{server.sockets[0].getsockname()[1]}"
        _, writer = await connect(where)
        writer.write(b"E")
        writer.close()
        assert await reflected(where, b"E" + bytes(8) + b"ping") == b"ping"
