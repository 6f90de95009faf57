"""How long sessions live: goodbyes, broken streams, cuts in mid-exchange, takeovers, texts that are dropped."""

import asyncio
import gc
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from grpc import aio

from relay import batch, chain, hop
from relay.client.aio import AsyncRelayClient
from relay.client.sync import RelayClient
from relay.client.types import GenerateOptions
from relay.node.serve import NodeServer
from relay.policy import ExitSchedule, FixedExit
from relay.tls import NOBODY
from relay.v1 import relay_pb2 as pb
from relay.v1 import relay_pb2_grpc as rpc
from tests.relay.processes import Gate, eventually
from tests.relay.servers import Chain, address, config, running, single, text
from tests.relay.servers import chain as three_nodes
from tests.relay.test_relay import OPTIONS, PROMPT, same

IDS = [5, 6, 7]
ALONE = (("grpc.use_local_subchannel_pool", 1),)
"""A connection that no other channel shares, so that cutting it cuts this one only."""


def message(
    server: NodeServer, epoch: int, seq: int, exit_: int, session: str = "s", ids: Sequence[int] = IDS
) -> pb.AdvanceRequest:
    """Rows for an edge node, as a device would send them, of a text that ends with them."""
    node = server.node
    genesis = chain.genesis(node.manifest.export_fingerprint)
    width = node.engine.d_model
    rows = np.random.default_rng(0).standard_normal((len(ids), width)).astype("<f4")
    peer = pb.Peer(
        tier="device",
        family_fingerprint=node.manifest.family_fingerprint,
        export_fingerprint=node.manifest.export_fingerprint,
        boundary=1,
        positions=len(ids),
    )
    return pb.AdvanceRequest(
        session=session,
        epoch=epoch << 32,
        seq=seq,
        peer=peer,
        anchor=genesis,
        chain=b"".join(chain.extend(genesis, ids, pb.CODEC_F32)),
        rows=pb.Rows(codec=pb.CODEC_F32, count=len(ids), width=width, data=rows.tobytes()),
        target_exit=exit_,
        want=1,
    )


def stream(server: NodeServer) -> tuple[aio.Channel, Any]:
    channel = aio.insecure_channel(address(server), ALONE)
    return channel, rpc.HopStub(channel).Advance()


def test_a_stream_that_breaks_keeps_its_session_until_the_grace_is_over(tiny_bundle: Path) -> None:
    async def scenario() -> None:
        async with running(config(tiny_bundle, "edge", grace_s=0.4)) as edge:
            for end in ("cancelled", "half-closed", "connection lost"):
                channel, call = stream(edge)
                await call.write(message(edge, 1, 1, exit_=2, session=end))
                assert (await call.read()).answer.tokens
                if end == "cancelled":
                    call.cancel()
                if end == "half-closed":
                    await call.done_writing()
                    assert await call.read() is aio.EOF
                await channel.close()
                assert end in edge.node.sessions
                await eventually(lambda end=end: end not in edge.node.sessions)  # type: ignore[misc]

    asyncio.run(scenario())


def test_a_new_stream_takes_a_kept_session_up_where_it_was(tiny_bundle: Path) -> None:
    async def scenario() -> None:
        async with running(config(tiny_bundle, "edge", grace_s=3600.0)) as edge:
            channel, call = stream(edge)
            await call.write(message(edge, 1, 1, exit_=2))
            first = await call.read()
            await channel.close()
            channel, call = stream(edge)
            request = message(edge, 2, 1, exit_=2)
            request.base, request.anchor, request.chain = 2, request.chain[16:32], request.chain[32:]
            request.rows.count, request.rows.data = 1, request.rows.data[2 * 4 * request.rows.width :]
            await call.write(request)
            again = await call.read()
            assert list(again.answer.tokens) == list(first.answer.tokens) != []
            assert again.cached == 3
            await channel.close()

    asyncio.run(scenario())


def test_a_goodbye_frees_the_session_here_and_upstream_at_once(tiny_bundle: Path) -> None:
    async def scenario() -> None:
        async with (
            running(config(tiny_bundle, "cloud", grace_s=3600.0)) as cloud,
            running(config(tiny_bundle, "edge", cloud, grace_s=3600.0)) as edge,
        ):
            channel, call = stream(edge)
            await call.write(message(edge, 1, 1, exit_=3))
            assert (await call.read()).answer.tier == "cloud"
            await call.write(pb.AdvanceRequest(session="s", goodbye=True))
            assert await call.read() is aio.EOF
            await eventually(lambda: (len(edge.node.sessions), len(cloud.node.sessions)) == (0, 0))
            await channel.close()

    asyncio.run(scenario())


def test_a_cut_while_the_node_between_waits_for_its_upstream_leaves_the_session_usable(tiny_bundle: Path) -> None:
    async def scenario() -> None:
        async with running(config(tiny_bundle, "cloud")) as cloud, running(config(tiny_bundle, "edge", cloud)) as edge:
            gate = Gate(cloud.node.engine)
            channel, call = stream(edge)
            await call.write(message(edge, 1, 1, exit_=3))
            await eventually(lambda: gate.waiting > 0)
            call.cancel()
            await channel.close()
            await eventually(lambda: edge.node.sessions.streams("s") == 0)
            channel, call = stream(edge)
            await call.write(message(edge, 2, 1, exit_=3))
            gate.open()
            reply = await asyncio.wait_for(call.read(), 20)
            assert (reply.seq, reply.answer.tier) == (1, "cloud")
            await channel.close()

    asyncio.run(scenario())


def test_a_longer_text_takes_over_from_one_whose_stream_hangs(tiny_bundle: Path) -> None:
    async def scenario() -> None:
        async with running(config(tiny_bundle, "cloud")) as cloud, running(config(tiny_bundle, "edge", cloud)) as edge:
            hangs, old = stream(edge)
            await old.write(message(edge, 1, 1, exit_=3))
            assert (await old.read()).answer.tier == "cloud"
            channel, call = stream(edge)
            await call.write(message(edge, 2, 1, exit_=3, ids=[*IDS, 8, 9]))
            assert (await call.read()).answer.tier == "cloud"
            assert [node.node.sessions.positions("s") for node in (edge, cloud)] == [5, 5]
            await hangs.close()
            await channel.close()

    asyncio.run(scenario())


def test_a_text_whose_place_upstream_was_taken_while_its_stream_was_broken_waits_for_another(
    tiny_bundle: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async with (
            running(config(tiny_bundle, "edge", max_sessions=1)) as edge,
            running(config(tiny_bundle, "device", edge)) as device,
        ):
            gate = Gate(device.node.engine, free=3)
            options: GenerateOptions = {"policy": FixedExit(2), "max_tokens": 6, "ignore_stop": True, "session": "s"}
            reading = asyncio.ensure_future(text(device, IDS, **options))
            await eventually(lambda: gate.waiting > 0)
            held = device.node.sessions.of("s", NOBODY)
            assert held is not None
            held.session.pause()
            await eventually(lambda: edge.node.sessions.streams("s") == 0)
            channel, call = stream(edge)
            await call.write(message(edge, 1, 1, exit_=2, session="other"))
            assert (await call.read()).answer.tokens and "s" not in edge.node.sessions
            gate.open()
            await eventually(lambda: "session s: refused, busy" in caplog.text)
            await call.write(pb.AdvanceRequest(session="other", goodbye=True))
            assert len(await reading) == 6
            await channel.close()

    with caplog.at_level(logging.INFO, "relay.node"):
        asyncio.run(scenario())


def test_one_senders_goodbye_leaves_a_session_that_another_still_uses(tiny_bundle: Path) -> None:
    """Two devices on one edge whose users chose the same session name: each text is still exactly its own."""

    async def scenario() -> None:
        async with (
            running(config(tiny_bundle, "edge")) as edge,
            running(config(tiny_bundle, "device", edge)) as one,
            running(config(tiny_bundle, "device", edge)) as other,
            single(tiny_bundle) as alone,
        ):
            options = {**OPTIONS, "policy": FixedExit(2), "session": "chat"}
            long, short = await asyncio.gather(
                text(one, PROMPT, **options), text(other, [9, 8, 7], **{**options, "max_tokens": 3})
            )
            assert same(long, await text(alone, PROMPT, **options))
            assert same(short, await text(alone, [9, 8, 7], **{**options, "max_tokens": 3}))

    asyncio.run(scenario())


def test_a_long_prompt_goes_up_in_several_messages(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hop, "ROWS_PER_MESSAGE_BYTES", 4 * 64 * 10)  # ten rows of the tiny family

    async def scenario() -> None:
        async with three_nodes(tiny_bundle) as nodes, single(tiny_bundle) as one:
            prompt = [i % 200 + 3 for i in range(95)]
            options = {**OPTIONS, "policy": ExitSchedule(3)}
            assert same(await text(nodes.device, prompt, **options), await text(one, prompt, **options))
            assert nodes.device.node.link.messages > 10

    asyncio.run(scenario())


def test_a_text_that_is_over_no_longer_decodes_on_any_node(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "RECENT_S", float("inf"))

    def decodes(server: NodeServer) -> bool:
        return server.node.engine._worker._batch.others_decode(owner=None)

    async def scenario() -> None:
        async with three_nodes(tiny_bundle) as nodes, AsyncRelayClient(address(nodes.device)) as client:
            servers = (nodes.device, nodes.edge, nodes.cloud)
            for keep in (False, True):
                options = GenerateOptions(policy=FixedExit(3), max_tokens=8, ignore_stop=True, keep=keep)
                seen = [all(decodes(server) for server in servers) async for _ in client.generate(PROMPT, **options)]
                assert any(seen)
                await eventually(lambda: not any(decodes(server) for server in servers))

    asyncio.run(scenario())


def test_texts_that_are_dropped_half_read_end_on_every_node_and_do_not_block_the_client(nodes: Chain) -> None:
    with RelayClient(address(nodes.device)) as client:
        for _ in range(20):
            for _token in client.generate(PROMPT, ignore_stop=True):
                break
            client._loop.wait(_collect())  # the collector may run on the client's own thread
        assert len(client.describe()) == 3
        kept = client.generate(PROMPT, ignore_stop=True)
        next(kept)
        del kept

    async def freed() -> None:
        await eventually(lambda: nodes.sessions() == [0, 0, 0])

    asyncio.run(freed())


async def _collect() -> None:
    gc.collect()
