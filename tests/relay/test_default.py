"""What texts do that choose no policy or codec: a caller's default on the entry node, changed while texts run."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from relay.client.aio import AsyncRelayClient
from relay.client.sync import RelayClient
from relay.client.types import Token
from relay.errors import InvalidRequestError, NoUpstreamError, UnknownExitError
from relay.policy import ConfidenceExit, FixedExit, SpeculativeExit
from relay.v1 import relay_pb2 as pb
from relay.v1 import relay_pb2_grpc as rpc
from tests.relay.certificates import Authority
from tests.relay.processes import Gate
from tests.relay.servers import Chain, address, chain, config, running, text

PROMPT = list(range(3, 20))
GREEDY: dict[str, Any] = {"max_tokens": 20, "ignore_stop": True}


def ids(tokens: list[Token]) -> list[int]:
    return [token.id for token in tokens]


def with_chain(bundle: Path, scenario: Callable[[Chain, AsyncRelayClient], Awaitable[None]]) -> None:
    async def run() -> None:
        async with chain(bundle) as nodes, AsyncRelayClient(address(nodes.device)) as client:
            await scenario(nodes, client)

    asyncio.run(run())


def test_a_text_under_way_that_chose_no_policy_follows_the_default(tiny_bundle: Path) -> None:
    async def scenario(nodes: Chain, client: AsyncRelayClient) -> None:
        await client.steer(FixedExit(1))
        gate = Gate(nodes.device.node.engine, free=5)
        follows = client.generate(PROMPT, **GREEDY)
        tokens = [await anext(follows) for _ in range(5)]
        await client.steer(SpeculativeExit(3, 1, 4))
        gate.open()
        tokens += [token async for token in follows]
        # The sixth token's policy was asked before the gate held it.
        assert [t.exit for t in tokens] == [1] * 6 + [3] * 14
        alone = {**GREEDY, "policy": FixedExit(1), "max_tokens": 6}
        assert ids(tokens[:6]) == ids(await text(nodes.device, PROMPT, **alone))
        rest = {**GREEDY, "policy": FixedExit(3), "max_tokens": 14}
        assert ids(tokens[6:]) == ids(await text(nodes.device, PROMPT + ids(tokens[:6]), **rest))

    with_chain(tiny_bundle, scenario)


def test_a_text_that_chose_its_policy_or_was_steered_keeps_it(tiny_bundle: Path) -> None:
    async def scenario(nodes: Chain, client: AsyncRelayClient) -> None:
        gate = Gate(nodes.device.node.engine)
        chose = client.generate(PROMPT, policy=FixedExit(2), **GREEDY)
        steered = client.generate(PROMPT, **GREEDY)
        assert await steered.steer(FixedExit(2))
        await client.steer(FixedExit(1))
        gate.open()
        assert {token.exit async for token in chose} == {2}
        assert [token.exit async for token in steered][1:] == [2] * 19, "the first one's policy was asked before"

    with_chain(tiny_bundle, scenario)


def test_new_texts_take_the_defaults_policy_and_codec_until_it_is_set_back(tiny_bundle: Path) -> None:
    async def scenario(nodes: Chain, client: AsyncRelayClient) -> None:
        sent = nodes.device.node.link

        async def bytes_of(**options: Any) -> tuple[set[int], list[int], int]:
            before = sent.bytes
            tokens = await text(nodes.device, PROMPT, **GREEDY, **options)
            return {t.exit for t in tokens}, ids(tokens), sent.bytes - before

        exact = await bytes_of()
        await client.steer(ConfidenceExit(0.0), "int4")
        assert (await bytes_of())[0] == {1}
        await client.steer(codec="int4")
        small = await bytes_of()
        assert small[:2] == (await bytes_of(codec="int4"))[:2] and small[0] == {3}
        assert small[2] < exact[2] / 2
        assert (await bytes_of(codec="f32"))[1] == exact[1]
        await client.steer()
        assert (await bytes_of())[:2] == exact[:2]

    with_chain(tiny_bundle, scenario)


def test_a_default_that_the_node_cannot_follow_is_refused_and_changes_nothing(tiny_bundle: Path) -> None:
    async def scenario(nodes: Chain, client: AsyncRelayClient) -> None:
        with pytest.raises(UnknownExitError, match="exit 4 is unknown"):
            await client.steer(FixedExit(4))
        with pytest.raises(InvalidRequestError, match="codec: expected f32, bf16, int8, int4, got 'int5'"):
            await client.steer(codec="int5")
        async with AsyncRelayClient(address(nodes.edge)) as edge:
            with pytest.raises(InvalidRequestError, match=r"serves segments 2-2; send the prompt to the node"):
                await edge.steer(FixedExit(3))
        async with (
            running(config(nodes.device.config.bundle, "device")) as lone,
            AsyncRelayClient(address(lone)) as own,
        ):
            with pytest.raises(NoUpstreamError):
                await own.steer(FixedExit(3))
        assert {t.exit for t in await text(nodes.device, PROMPT, **GREEDY)} == {3}

    with_chain(tiny_bundle, scenario)


def test_penalties_do_not_follow_a_default_that_nobody_chose_for_them(tiny_bundle: Path) -> None:
    async def scenario() -> None:
        async with running(config(tiny_bundle, "all", segments=(1, 2, 3))) as one:
            async with AsyncRelayClient(address(one)) as client:
                await client.steer(SpeculativeExit(3, 1))
            assert {t.exit for t in await text(one, PROMPT, presence_penalty=1.0, **GREEDY)} == {3}

    asyncio.run(scenario())


def test_a_text_under_way_keeps_its_codec(tiny_bundle: Path) -> None:
    async def scenario(nodes: Chain, client: AsyncRelayClient) -> None:
        request = pb.SteerRequest(session="any", policy=pb.Policy(exit=1), codec=pb.CODEC_INT8)
        with pytest.raises(Exception, match="a text keeps the codec that it began with"):
            await rpc.RelayStub(client._channel).Steer(request)

    with_chain(tiny_bundle, scenario)


def test_a_caller_with_a_certificate_sets_the_default_of_its_own_texts_alone(
    tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    authority = Authority(tmp_path_factory.mktemp("certificates"))

    async def scenario() -> None:
        served = authority.node("node").mutual
        phone, tablet = authority.machine("phone").client, authority.machine("tablet").client
        async with (
            running(config(tiny_bundle, "all", segments=(1, 2, 3), **served)) as one,
            AsyncRelayClient(address(one), **phone) as mine,
            AsyncRelayClient(address(one), **tablet) as other,
        ):
            await mine.steer(FixedExit(1))
            assert {token.exit async for token in mine.generate(PROMPT, **GREEDY)} == {1}
            assert {token.exit async for token in other.generate(PROMPT, **GREEDY)} == {3}

    asyncio.run(scenario())


def test_a_description_has_the_time_to_the_upstream_and_of_messages(nodes: Chain) -> None:
    with RelayClient(address(nodes.device)) as client:
        before = client.describe()[0].timed
        list(client.generate(PROMPT, **GREEDY))
        device, edge, cloud = client.describe()
        client.steer()
    assert device.upstream_ms > 0 and edge.upstream_ms > 0 and cloud.upstream_ms == 0
    assert device.timed.count - before.count == 20 and cloud.timed.count == 0
    more = device.timed.x - before.x
    assert more > 0 and device.timed.xx - before.xx >= more**2 / 20
