"""What a user is told: the right class of `relay.errors`, a text that says what to do, and the code on the wire."""

import asyncio
import logging
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

import relay
from family.errors import BundleError
from relay import errors
from relay.client.aio import AsyncRelayClient
from relay.client.sync import RelayClient
from relay.client.types import GenerateOptions, Prompt
from relay.engine.graph import OrtSegmentView
from relay.errors import (
    CATALOGUE,
    CODE_KEY,
    BusyError,
    ClosedError,
    InternalError,
    InvalidRequestError,
    NotReadyError,
    NoUpstreamError,
    PeerMismatchError,
    PromptTooLongError,
    RelayError,
    TimeoutExceededError,
    UnknownExitError,
    UnreachableError,
)
from relay.node import serve
from relay.node.serve import NodeServer
from relay.policy import ExitSchedule, FixedExit
from relay.v1 import relay_pb2 as pb
from relay.v1 import relay_pb2_grpc as rpc
from tests.relay.bundles import with_field
from tests.relay.processes import Gate, eventually, free_port, in_background, raw_error
from tests.relay.servers import HOST, Chain, address, chain, config, running, text


@pytest.fixture(scope="module")
def nodes(tiny_bundle: Path) -> Iterator[Chain]:
    with in_background(chain(tiny_bundle)) as served:
        yield served


@pytest.fixture(scope="module")
def client(nodes: Chain) -> Iterator[RelayClient]:
    with RelayClient(address(nodes.device)) as opened:
        yield opened


# What a request may get wrong.


@pytest.mark.parametrize(
    ("prompt", "options", "kind", "says"),
    [
        ([5], {"policy": FixedExit(0)}, UnknownExitError, "exit 0 is unknown; exits count from 1"),
        ([5], {"policy": FixedExit(4)}, UnknownExitError, r"exit 4 is unknown; this family has exits 1\.\.3"),
        ([5] * 256, {}, PromptTooLongError, "has 256 tokens; .* context is 256, so send at most 255"),
        ("tea " * 500, {}, PromptTooLongError, "so send at most 255"),
        ([], {}, InvalidRequestError, "prompt is empty; give at least one token"),
        ("", {}, InvalidRequestError, "prompt is empty; give at least one token"),
        ([5, 512], {}, InvalidRequestError, r"token id 512 is outside the vocabulary; .* ids 0\.\.511"),
        ([5, -1], {}, InvalidRequestError, "token id -1 is negative; ids count from 0"),
        ([2**40], {}, InvalidRequestError, "token id 1099511627776 is outside every vocabulary"),
        ([5], {"max_tokens": -1}, InvalidRequestError, "max_tokens cannot be -1; give 0"),
        ([5], {"policy": ExitSchedule(-1)}, InvalidRequestError, "seed .* got -1"),
        ([{"role": "user"}], {}, InvalidRequestError, "a turn needs 'role' and 'content'"),
        ([5, {"role": "user", "content": "x"}], {}, InvalidRequestError, "token ids or turns, not both"),
        ("\udcff", {}, InvalidRequestError, "not valid Unicode"),
    ],
)
def test_a_request_that_cannot_be_served_is_refused_with_what_to_change(
    client: RelayClient, prompt: Prompt, options: GenerateOptions, kind: type[RelayError], says: str
) -> None:
    with pytest.raises(RelayError, match=says) as raised:
        list(client.generate(prompt, **options))
    assert type(raised.value) is kind
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("request_", "code", "says"),
    [
        (pb.GenerateRequest(text="a", policy=pb.Policy(exit=0)), "unknown-exit", r"exits 1\.\.3"),
        (pb.GenerateRequest(text="a", policy=pb.Policy(exit=4)), "unknown-exit", r"exits 1\.\.3"),
        (pb.GenerateRequest(ids=pb.TokenIds(ids=[1] * 256)), "prompt-too-long", "send at most 255"),
        (pb.GenerateRequest(ids=pb.TokenIds()), "invalid-request", "prompt is empty"),
        (pb.GenerateRequest(ids=pb.TokenIds(ids=[512])), "invalid-request", r"ids 0\.\.511"),
        (pb.GenerateRequest(), "invalid-request", "has no prompt; give text, ids or chat"),
    ],
)
def test_a_bad_request_has_its_status_and_code_on_the_wire(
    nodes: Chain, request_: pb.GenerateRequest, code: str, says: str
) -> None:
    with grpc.insecure_channel(address(nodes.device)) as channel:
        status, sent, details = raw_error(rpc.RelayStub(channel).Generate(request_))
    assert (status, sent) == (grpc.StatusCode.INVALID_ARGUMENT, code)
    assert re.search(says, details)


def test_a_prompt_sent_to_a_node_without_segment_1_is_sent_on_its_way(nodes: Chain) -> None:
    with RelayClient(address(nodes.edge)) as client, pytest.raises(InvalidRequestError, match="serves segment 1"):
        list(client.generate([5]))


def test_a_session_name_serves_one_text_at_a_time(tiny_bundle: Path) -> None:
    async def scenario() -> None:
        async with running(config(tiny_bundle, "device")) as device, AsyncRelayClient(address(device)) as client:
            gate = Gate(device.node.engine)
            first = client.generate([5], session="twin", max_tokens=2, ignore_stop=True)
            reading = asyncio.ensure_future(collect(first))
            await eventually(lambda: "twin" in device.node.sessions)
            with pytest.raises(InvalidRequestError, match="session twin is in use; choose another id"):
                await text(device, [5], session="twin")
            gate.open()
            assert len(await reading) == 2
            assert len(await text(device, [5], session="twin", max_tokens=2, ignore_stop=True)) == 2

    asyncio.run(scenario())


async def collect(stream: Any) -> list[Any]:
    return [token async for token in stream]


# What a chain may get wrong.


def raw_generate(server: NodeServer, exit_: int) -> Any:
    """Status, code and details of a raw generation in the loop of the nodes."""

    async def call() -> tuple[grpc.StatusCode, str, str]:
        async with aio.insecure_channel(address(server)) as channel:
            request = pb.GenerateRequest(ids=pb.TokenIds(ids=[5]), policy=pb.Policy(exit=exit_))
            with pytest.raises(aio.AioRpcError) as raised:
                await collect(rpc.RelayStub(channel).Generate(request))
            error = raised.value
            return error.code(), str(dict(error.trailing_metadata() or ()).get(CODE_KEY)), error.details() or ""

    return call()


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
            assert len(await text(device, [5], policy=FixedExit(1), max_tokens=2, ignore_stop=True)) == 2

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
    with pytest.raises(ClosedError, match="open another one"):
        next(iter(unread))
    with pytest.raises(ClosedError, match="open another one"):
        client.describe()


# What no one may see.


@pytest.mark.parametrize("failing", [1, 2], ids=["entry node", "next node"])
def test_a_defect_is_told_to_the_log_and_to_nobody_else(
    failing: int, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> tuple[str, tuple[grpc.StatusCode, str, str]]:
        async with chain(tiny_bundle) as nodes:
            run = OrtSegmentView.run

            def broken(view: OrtSegmentView, rows: Any, past: int) -> Any:
                if view._input == ("input_ids" if failing == 1 else "rows_in"):
                    raise RuntimeError("secret")
                return run(view, rows, past)

            monkeypatch.setattr(OrtSegmentView, "run", broken)
            with pytest.raises(InternalError) as raised:
                await text(nodes.device, [5], session="unlucky")
            on_the_wire = await raw_generate(nodes.device, 3)
            assert nodes.device.node.sessions.deadline("unlucky") is None and len(nodes.device.node.sessions) == 0
            return str(raised.value), on_the_wire

    with caplog.at_level(logging.ERROR, "relay.node"):
        told, (status, code, details) = asyncio.run(scenario())
    assert told == "the node failed on session unlucky; its log has the details under this id"
    assert (status, code) == (grpc.StatusCode.INTERNAL, "internal")
    assert "secret" not in details
    assert "session unlucky failed" in caplog.text
    assert "RuntimeError: secret" in caplog.text


def test_only_errors_of_the_relay_leave_a_server_with_their_text() -> None:
    for error in (BundleError("/srv/secret.data: altered"), OSError("secret"), KeyError("secret")):
        public = errors.public(error, "s")
        assert type(public) is InternalError and "secret" not in str(public)
    assert str(errors.public(BusyError("full"), "s")) == "full"


# The catalogue.


def every_kind(kind: type[RelayError] = RelayError) -> Iterator[type[RelayError]]:
    for child in kind.__subclasses__():
        yield child
        yield from every_kind(child)


def test_the_catalogue_has_every_error_under_a_code_of_its_own() -> None:
    kinds = set(every_kind())
    assert set(CATALOGUE.values()) == kinds
    assert len({kind.code for kind in kinds}) == len(kinds)
    assert all("code" in vars(kind) for kind in kinds)
    assert {f"{kind.__name__} " for kind in kinds} <= set(re.findall(r"\w+Error ", errors.__doc__ or ""))


@pytest.mark.parametrize("kind", list(every_kind()), ids=lambda kind: kind.code)
def test_every_error_is_itself_again_on_the_other_side(kind: type[RelayError]) -> None:
    sent = aio.AioRpcError(kind.status, aio.Metadata(), aio.Metadata((CODE_KEY, kind.code)), details="what to do")
    received = errors.from_rpc(sent, "here:1")
    assert type(received) is kind and str(received) == "what to do"


def test_a_status_that_is_not_ours_still_becomes_one_of_ours() -> None:
    for status in grpc.StatusCode:
        received = errors.from_rpc(aio.AioRpcError(status, aio.Metadata(), aio.Metadata(), details="raw"), "here:1")
        assert isinstance(received, RelayError) and "raw" not in str(received)


def test_the_public_names_are_these() -> None:
    assert relay.__all__ == [
        "AsyncRelayClient",
        "ExitSchedule",
        "Finish",
        "FixedExit",
        "Node",
        "RelayClient",
        "RelayError",
        "Token",
    ]
    assert all(getattr(relay, name).__name__ == name for name in relay.__all__)
