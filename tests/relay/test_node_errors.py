"""What a chain of nodes may get wrong, what a closed client says, and what no user may see."""

import asyncio
import logging
import re
import socket
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from family.manifest import load_manifest
from relay import hop
from relay.client.aio import AsyncRelayClient
from relay.client.sync import RelayClient
from relay.engine.graph import OrtGraph
from relay.engine.pool import position_bytes
from relay.errors import (
    BusyError,
    ClosedError,
    ConfigurationError,
    InternalError,
    NotReadyError,
    NoUpstreamError,
    PeerMismatchError,
    TimeoutExceededError,
    UnreachableError,
)
from relay.node import serve
from relay.node.serve import NodeServer
from relay.policy import FixedExit
from relay.views import Forward, Made
from tests.relay.bundles import with_field
from tests.relay.processes import Gate, collect, eventually, free_port, raw_generate
from tests.relay.servers import HOST, Chain, address, chain, config, running, text

# What a chain may get wrong.


def test_an_exit_beyond_the_last_node_names_the_exits_in_reach(tiny_bundle: Path) -> None:
    async def scenario() -> None:
        async with (
            running(config(tiny_bundle, "edge")) as edge,
            running(config(tiny_bundle, "device", edge)) as device,
        ):
            says = "exit 3 lies beyond segment 2, .*'edge'.*--upstream HOST:PORT, or ask for an exit up to 2"
            with pytest.raises(NoUpstreamError, match=says):
                await text(device, [5], policy=FixedExit(3))
            status, code, details = await raw_generate(device, 3)
            assert (status, code) == (grpc.StatusCode.FAILED_PRECONDITION, "no-upstream")
            assert re.search(says, details)

    asyncio.run(scenario())


@pytest.mark.parametrize("difference", ["export", "family", "segments"])
def test_an_upstream_whose_rows_mean_something_else_is_refused_before_the_first_row(
    difference: str, tiny_bundle: Path, tiny_bundle_int4: Path, tmp_path: Path
) -> None:
    bundle, tier, says = {
        "export": (tiny_bundle_int4, "edge", "has export .* has export .*; copy the same bundle to both nodes"),
        "family": (
            with_field(tiny_bundle, tmp_path, ("spec", "name"), "another"),
            "edge",
            "has family .* has family .*; copy the same bundle to both nodes",
        ),
        "segments": (tiny_bundle, "cloud", "sends rows after segment 1, .* begins with segment 3; correct --upstream"),
    }[difference]

    async def scenario() -> None:
        async with (
            running(config(bundle, tier)) as upstream,
            running(config(tiny_bundle, "device", upstream)) as device,
        ):
            with pytest.raises(PeerMismatchError, match=says):
                await text(device, [5], policy=FixedExit(2))
            status, code, _ = await raw_generate(device, 2)
            assert (status, code) == (grpc.StatusCode.FAILED_PRECONDITION, "peer-mismatch")
            assert len(upstream.node.sessions) == 0
            async with AsyncRelayClient(address(device)) as client:
                (told,) = await client.describe()
            expected = "begin with segment 2" if difference == "segments" else "another export; copy one bundle"
            assert expected in told.upstream_error
            assert len(await text(device, [5], policy=FixedExit(1), max_tokens=2, ignore_stop=True)) == 2

    asyncio.run(scenario())


def test_the_last_segments_node_has_no_use_for_an_upstream(tiny_bundle: Path) -> None:
    async def scenario() -> None:
        nobody = f"{HOST}:{free_port()}"
        async with (
            running(replace(config(tiny_bundle, "cloud"), upstream=nobody)) as cloud,
            running(config(tiny_bundle, "edge", cloud)) as edge,
            running(config(tiny_bundle, "device", edge)) as device,
            AsyncRelayClient(address(device)) as client,
        ):
            assert [node.upstream_error for node in await client.describe()] == ["", "", ""]
            assert len(await text(device, [5], max_tokens=2, ignore_stop=True)) == 2

    asyncio.run(scenario())


def test_a_full_node_says_so_and_serves_again_when_there_is_room(tiny_bundle: Path) -> None:
    async def scenario() -> None:
        async with (
            running(config(tiny_bundle, "device", max_sessions=1)) as device,
            AsyncRelayClient(address(device)) as client,
        ):
            gate = Gate(device.node.engine)
            reading = asyncio.ensure_future(collect(client.generate([5], max_tokens=2, ignore_stop=True)))
            await eventually(lambda: len(device.node.sessions) == 1)
            with pytest.raises(BusyError, match=r"holds 1 sessions, .*; try again later, or raise --max-sessions"):
                await text(device, [5])
            status, code, _ = await raw_generate(device, 1)
            assert (status, code) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "busy")
            gate.open()
            await reading
            assert len(await text(device, [5], max_tokens=2, ignore_stop=True)) == 2

    asyncio.run(scenario())


def little_memory(bundle: Path) -> tuple[int, int]:
    """The context, and the memory that the device's keys and values of ten positions more take."""
    manifest = load_manifest(bundle)
    layers = sum(manifest.graph(kind, 1).kv_layers for kind in ("segment", "exit"))
    return manifest.spec.context, position_bytes(layers, manifest.spec) * (manifest.spec.context + 10)


def test_texts_that_may_need_more_memory_than_there_is_wait_outside(tiny_bundle: Path) -> None:
    context, memory = little_memory(tiny_bundle)

    async def scenario() -> None:
        async with (
            running(config(tiny_bundle, "device", kv_memory=memory)) as device,
            AsyncRelayClient(address(device)) as client,
        ):
            kept = await collect(client.generate([7], session="kept", keep=True, max_tokens=3, ignore_stop=True))
            gate = Gate(device.node.engine)
            reading = asyncio.ensure_future(collect(client.generate([5], max_tokens=20, ignore_stop=True)))
            await eventually(lambda: len(device.node.sessions) == 2)
            with pytest.raises(BusyError, match=rf"may need, and this one {context}; .* or raise --kv-memory"):
                await text(device, [5], max_tokens=context - 1)
            assert "kept" in device.node.sessions, "it gives way to nobody whom that does not help"
            most = context + 10 - 21 - 1
            late = asyncio.ensure_future(text(device, [5], max_tokens=most, ignore_stop=True))
            await eventually(lambda: "kept" not in device.node.sessions)
            gate.open()
            assert (len(kept), len(await reading), len(await late)) == (3, 20, most)
            assert len(await text(device, [5], max_tokens=context - 1, ignore_stop=True)) == context - 1

    asyncio.run(scenario())


def test_a_session_that_is_kept_holds_its_memory_while_a_shorter_text_goes_on_in_it(tiny_bundle: Path) -> None:
    context, memory = little_memory(tiny_bundle)

    async def scenario() -> None:
        async with (
            running(config(tiny_bundle, "device", kv_memory=memory)) as device,
            AsyncRelayClient(address(device)) as client,
        ):
            await collect(client.generate([7], session="kept", keep=True, max_tokens=50, ignore_stop=True))
            gate = Gate(device.node.engine)
            going_on = client.generate([7], session="kept", max_tokens=2, ignore_stop=True)
            short = asyncio.ensure_future(collect(going_on))
            await eventually(lambda: gate.waiting > 0)
            with pytest.raises(BusyError, match="may need"):
                await text(device, [5], max_tokens=context - 1)
            gate.open()
            assert len(await short) == 2

    asyncio.run(scenario())


def test_a_text_announces_its_positions_to_every_node(tiny_bundle: Path) -> None:
    async def scenario() -> None:
        async with chain(tiny_bundle) as nodes, AsyncRelayClient(address(nodes.device)) as client:
            gate = Gate(nodes.cloud.node.engine)
            reading = asyncio.ensure_future(
                collect(client.generate([5, 6], session="it", max_tokens=7, policy=FixedExit(3), ignore_stop=True))
            )
            await eventually(lambda: "it" in nodes.cloud.node.sessions)
            assert [node.node.sessions.positions("it") for node in (nodes.device, nodes.edge, nodes.cloud)] == [9] * 3
            gate.open()
            await reading

    asyncio.run(scenario())


def test_memory_for_less_than_a_context_is_refused_at_the_start(tiny_bundle: Path) -> None:
    async def scenario() -> None:
        with pytest.raises(ConfigurationError, match=r"--kv-memory: the keys and values of one context of 256 take"):
            async with running(config(tiny_bundle, "device", kv_memory=1000)):
                pass

    asyncio.run(scenario())


def test_a_text_that_takes_longer_than_its_timeout_ends_with_it(tiny_bundle: Path) -> None:
    async def scenario() -> None:
        async with running(config(tiny_bundle, "device")) as device:
            gate = Gate(device.node.engine)
            with pytest.raises(TimeoutExceededError, match=r"timeout passed .*; give a larger timeout"):
                await text(device, [5], timeout=0.1)
            gate.open()
            await eventually(lambda: len(device.node.sessions) == 0)

    asyncio.run(scenario())


def test_an_address_that_nobody_serves_is_named(nodes: Chain) -> None:
    nobody = f"{HOST}:{free_port()}"
    with RelayClient(nobody) as client:
        with pytest.raises(UnreachableError, match=f"no relay node answers at {nobody}; start one there, or correct"):
            list(client.generate([5]))
        with pytest.raises(UnreachableError, match=nobody):
            client.describe()


def test_something_else_at_the_address_is_no_relay_node() -> None:
    with socket.create_server((HOST, 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")

        threading.Thread(target=answer, daemon=True).start()
        other = f"{HOST}:{listener.getsockname()[1]}"
        with RelayClient(other) as client, pytest.raises(UnreachableError, match=f"no relay node answers at {other}"):
            client.describe()


def test_a_node_that_loads_and_one_that_drains_refuse_with_not_ready(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded, load = threading.Event(), serve._load

    def slow_load(*arguments: Any) -> Any:
        loaded.wait()
        return load(*arguments)

    monkeypatch.setattr(serve, "_load", slow_load)

    async def scenario() -> None:
        server = NodeServer(config(tiny_bundle, "device", drain_s=30.0))
        starting = asyncio.ensure_future(server.start())
        try:
            await eventually(lambda: server.port > 0)
            with pytest.raises(NotReadyError, match="still loading its graphs; try again"):
                await text(server, [5])
            status, code, _ = await raw_generate(server, 1)
            assert (status, code) == (grpc.StatusCode.UNAVAILABLE, "not-ready")
            assert not await is_serving(server)
        finally:
            loaded.set()
        await starting
        assert await is_serving(server)

        gate = Gate(server.node.engine)
        reading = asyncio.ensure_future(text(server, [5], max_tokens=2, ignore_stop=True))
        await eventually(lambda: gate.waiting > 0)
        stopping = asyncio.ensure_future(server.stop())
        with pytest.raises(NotReadyError, match="shutting down; ask another one"):
            await text(server, [5])
        assert not await is_serving(server)
        gate.open()
        assert len(await reading) == 2
        await stopping

    asyncio.run(scenario())


def test_a_node_in_the_middle_that_drains_serves_the_texts_it_has_and_no_other(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hop, "RECONNECT_DELAYS_S", (0.0, 0.0))

    async def scenario() -> None:
        edge = NodeServer(config(tiny_bundle, "edge", drain_s=30.0))
        await edge.start()
        gate = Gate(edge.node.engine)
        async with running(config(tiny_bundle, "device", edge)) as device:
            options: dict[str, Any] = {"policy": FixedExit(2), "max_tokens": 5, "ignore_stop": True}
            reading = asyncio.ensure_future(text(device, [5], **options))
            await eventually(lambda: gate.waiting > 0)
            stopping = asyncio.ensure_future(edge.stop())
            with pytest.raises(UnreachableError, match="shutting down; ask another one, or this one after its restart"):
                await text(device, [5], **options)
            gate.open()
            assert len(await reading) == 5
            await stopping

    asyncio.run(scenario())


async def is_serving(server: NodeServer) -> bool:
    async with aio.insecure_channel(address(server)) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        reply = await stub.Check(health_pb2.HealthCheckRequest(service="relay.v1.Hop"))
        return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)


# What is over.


def test_a_text_whose_client_is_closed_says_so_to_who_reads_it(tiny_bundle: Path) -> None:
    async def scenario() -> None:
        async with running(config(tiny_bundle, "device")) as device:
            client = AsyncRelayClient(address(device))
            gate = Gate(device.node.engine, free=4)
            reading = asyncio.ensure_future(collect(client.generate([5])))
            await eventually(lambda: gate.waiting > 0)
            await client.close()
            with pytest.raises(ClosedError, match="closed before it was complete"):
                await reading
            for use in (lambda: client.describe(), lambda: collect(client.generate([5]))):
                with pytest.raises(ClosedError, match="is closed; open another one"):
                    await use()
            gate.open()

    asyncio.run(scenario())


def test_a_reader_that_is_cancelled_is_cancelled_and_frees_the_session(tiny_bundle: Path) -> None:
    async def scenario() -> None:
        async with running(config(tiny_bundle, "device")) as device, AsyncRelayClient(address(device)) as client:
            gate = Gate(device.node.engine, free=4)
            reading = asyncio.ensure_future(collect(client.generate([5])))
            await eventually(lambda: gate.waiting > 0)
            reading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reading
            gate.open()
            await eventually(lambda: len(device.node.sessions) == 0)

    asyncio.run(scenario())


def test_a_closed_blocking_client_is_left_in_peace_by_its_unread_texts(nodes: Chain) -> None:
    with RelayClient(address(nodes.device)) as client:
        unread = client.generate([5])
        next(iter(unread))
    unread.close()
    client.close()
    with pytest.raises(ClosedError, match="closed before it was complete; ask for it again"):
        next(iter(unread))
    with pytest.raises(ClosedError, match="open another one"):
        client.describe()


# What no one may see.


@pytest.mark.parametrize("failing", [1, 2], ids=["entry node", "next node"])
def test_a_defect_is_told_to_the_log_and_to_nobody_else(
    failing: int, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> tuple[str, str, tuple[grpc.StatusCode, str, str]]:
        async with chain(tiny_bundle) as nodes:
            run = OrtGraph.run

            def broken(graph: OrtGraph, batch: Sequence[Forward]) -> list[Made]:
                if not graph.is_exit and graph._input == ("input_ids" if failing == 1 else "rows_in"):
                    raise RuntimeError("secret")
                return run(graph, batch)

            monkeypatch.setattr(OrtGraph, "run", broken)
            with pytest.raises(InternalError) as raised:
                await text(nodes.device, [5], session="unlucky")
            request_id = raised.value.request_id
            on_the_wire = await raw_generate(nodes.device, 3)
            assert nodes.device.node.sessions.deadline("unlucky") is None and len(nodes.device.node.sessions) == 0
            return str(raised.value), request_id, on_the_wire

    with caplog.at_level(logging.ERROR, "relay.node"):
        told, request_id, (status, code, details) = asyncio.run(scenario())
    assert told == f"the node failed; its log has the details under request {request_id}"
    assert (status, code) == (grpc.StatusCode.INTERNAL, "internal")
    assert "secret" not in details
    assert f"request {request_id}, session unlucky: failed" in caplog.text
    assert "RuntimeError: secret" in caplog.text
