"""A text's codec holds on every hop, costs only what its round trip costs, and is refused before it can hurt."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from family.manifest import load_manifest
from relay.client.aio import AsyncRelayClient
from relay.client.types import Token
from relay.codec import carried, row_bytes
from relay.engine.engine import BundleEngine
from relay.errors import InvalidRequestError
from relay.names import Codec
from relay.policy import ConfidenceExit, ExitSchedule, FixedExit, Policy, SpeculativeExit
from relay.v1 import relay_pb2 as pb
from tests.relay.processes import raw_error
from tests.relay.servers import Chain, address, chain, config, running, text

PROMPT = list(range(3, 40))
OPTIONS: dict[str, Any] = {"max_tokens": 16, "logits": True, "ignore_stop": True}
LOSSY = [Codec.BF16, Codec.INT8, Codec.INT4]


def with_chain(bundle: Path, scenario: Callable[[Chain], Awaitable[None]], **overrides: Any) -> None:
    async def run() -> None:
        async with chain(bundle, **overrides) as nodes:
            await scenario(nodes)

    asyncio.run(run())


def in_one_process(bundle: Path, ids: list[int], exit_: int, codec: Codec) -> NDArray[np.float32]:
    """Logits of all positions, with a round trip of the codec at every boundary that a chain of three nodes has."""
    engine = BundleEngine(bundle, load_manifest(bundle), (1, 2, 3), threads=1)
    rows = engine.open_segment(1).run(np.array(ids, np.int64), 0)
    for index in range(2, exit_ + 1):
        rows = engine.open_segment(index).run(carried(rows, codec), 0)
    engine.close()
    return engine.open_exit(exit_).run(rows, 0, len(ids))


def assert_exact(bundle: Path, tokens: list[Token], codec: Codec) -> None:
    """Every logit is that of one process, to the bit."""
    ids = PROMPT + [token.id for token in tokens]
    for exit_ in {token.exit for token in tokens}:
        expected = in_one_process(bundle, ids, exit_, codec)
        for token in tokens:
            if token.exit == exit_:
                assert token.logits is not None
                assert np.array_equal(token.logits, expected[token.position - 1])


@pytest.mark.parametrize("codec", LOSSY, ids=lambda codec: codec.label)
@pytest.mark.parametrize("policy", [FixedExit(3), ExitSchedule(5), SpeculativeExit()], ids=str)
def test_a_text_is_that_of_one_process_with_the_same_round_trips(
    policy: Policy, codec: Codec, tiny_bundle: Path
) -> None:
    async def scenario(nodes: Chain) -> None:
        tokens = await text(nodes.device, PROMPT, policy=policy, codec=codec.label, **OPTIONS)
        assert len(tokens) == 16
        assert_exact(tiny_bundle, tokens, codec)

    with_chain(tiny_bundle, scenario)


def test_a_lossy_text_is_the_same_when_a_node_dies_and_is_sent_its_rows_again(tiny_bundle: Path) -> None:
    async def scenario() -> None:
        async with (
            running(config(tiny_bundle, "cloud")) as cloud,
            running(config(tiny_bundle, "edge", cloud)) as edge,
            running(config(tiny_bundle, "device", edge)) as device,
            AsyncRelayClient(address(device)) as client,
        ):
            tokens = []
            async for token in client.generate(PROMPT, policy=ExitSchedule(5), codec="int4", **OPTIONS):
                tokens.append(token)
                if len(tokens) == 6:
                    await edge.stop()
                    successor = running(config(tiny_bundle, "edge", cloud, listen=address(edge)))
                    await successor.__aenter__()
            await successor.__aexit__(None, None, None)
        assert_exact(tiny_bundle, tokens, Codec.INT4)

    asyncio.run(scenario())


def test_fewer_bits_are_fewer_bytes_on_every_hop(tiny_bundle: Path) -> None:
    async def scenario(nodes: Chain) -> None:
        width = load_manifest(tiny_bundle).spec.d_model
        spent = dict[Codec, list[float]]()
        for codec in Codec:
            before = [(node.link.rows, node.link.bytes) for node in (nodes.device.node, nodes.edge.node)]
            await text(nodes.device, PROMPT, max_tokens=8, ignore_stop=True, codec=codec.label)
            links = [node.link for node in (nodes.device.node, nodes.edge.node)]
            rows = [link.rows - rows for link, (rows, _) in zip(links, before, strict=True)]
            assert rows == [len(PROMPT) + 7] * 2
            spent[codec] = [(link.bytes - size) / n for link, (_, size), n in zip(links, before, rows, strict=True)]
        for codec in LOSSY:
            saved = row_bytes(Codec.F32, width) - row_bytes(codec, width)
            for lossless, lossy in zip(spent[Codec.F32], spent[codec], strict=True):
                assert lossless - lossy == pytest.approx(saved, abs=2)

    with_chain(tiny_bundle, scenario)


def test_a_node_may_have_a_codec_of_its_own_for_requests_that_name_none(tiny_bundle: Path) -> None:
    async def scenario(nodes: Chain) -> None:
        assert_exact(tiny_bundle, await text(nodes.device, PROMPT, **OPTIONS), Codec.INT4)
        assert_exact(tiny_bundle, await text(nodes.device, PROMPT, codec="f32", **OPTIONS), Codec.F32)

    with_chain(tiny_bundle, scenario, codec="int4")


def test_a_kept_session_begins_anew_with_another_codec(tiny_bundle: Path) -> None:
    async def scenario(nodes: Chain) -> None:
        async with AsyncRelayClient(address(nodes.device)) as client:
            for codec, cached in [("int4", 0), ("int4", len(PROMPT) - 1), ("int8", 0), ("f32", 0)]:
                stream = client.generate(PROMPT, session="kept", keep=True, codec=codec, **OPTIONS)  # type: ignore[arg-type]
                tokens = [token async for token in stream]
                assert stream.finish is not None and stream.finish.cached_tokens == cached
                assert_exact(tiny_bundle, tokens, Codec.labelled(codec))

    with_chain(tiny_bundle, scenario)


def test_every_node_says_which_codecs_it_knows(nodes: Chain) -> None:
    async def described() -> list[tuple[str, ...]]:
        async with AsyncRelayClient(address(nodes.device)) as client:
            return [node.codecs for node in await client.describe()]

    assert asyncio.run(described()) == [("f32", "bf16", "int8", "int4")] * 3


def test_a_codec_that_nobody_knows_is_refused_by_the_sdk_and_by_the_node(nodes: Chain) -> None:
    with pytest.raises(InvalidRequestError, match="expected f32, bf16, int8, int4, got 'int3'"):
        asyncio.run(text(nodes.device, PROMPT, codec="int3"))
    import grpc

    from relay.v1 import relay_pb2_grpc as rpc

    with grpc.insecure_channel(address(nodes.device)) as channel:
        request = pb.GenerateRequest(ids=pb.TokenIds(ids=[5]), codec=9)  # type: ignore[arg-type]
        refused = raw_error(rpc.RelayStub(channel).Generate(request))
    assert refused[1:] == ("invalid-request", "codec 9 is unknown here; this release knows f32, bf16, int8, int4")


@pytest.mark.parametrize(("codecs", "known"), [([], "f32"), ([pb.CODEC_F32, pb.CODEC_BF16, 99], "f32, bf16")])
def test_a_codec_that_a_node_upstream_does_not_know_is_refused_before_the_first_token(
    codecs: list[int], known: str, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(nodes: Chain) -> None:
        describe = nodes.cloud.node.describe

        async def as_another_release(timeout_s: float, request_id: str) -> list[pb.Node]:
            (me,) = await describe(timeout_s, request_id)
            del me.codecs[:]
            me.codecs.extend(codecs)  # type: ignore[arg-type]
            return [me]

        monkeypatch.setattr(nodes.cloud.node, "describe", as_another_release)
        sure_at_once = {"policy": ConfidenceExit(0.0), "max_tokens": 2, "ignore_stop": True}
        with pytest.raises(InvalidRequestError, match=f"codec int4 is unknown to tier 'cloud', which knows {known}; "):
            await text(nodes.device, PROMPT, codec="int4", **sure_at_once)
        assert nodes.sessions() == [0, 0, 0]
        assert len(await text(nodes.device, PROMPT, codec="f32", **sure_at_once)) == 2
        alone = {**sure_at_once, "policy": FixedExit(1)}
        assert len(await text(nodes.device, PROMPT, codec="int4", **alone)) == 2

    with_chain(tiny_bundle, scenario)


def test_an_upstream_that_does_not_answer_keeps_no_text_from_a_shallow_exit(tiny_bundle: Path) -> None:
    async def scenario(nodes: Chain) -> None:
        await nodes.cloud.stop()
        await nodes.edge.stop()
        tokens = await text(nodes.device, PROMPT, policy=ConfidenceExit(0.0), codec="int8", max_tokens=2)
        assert [token.tier for token in tokens] == ["device"] * 2

    with_chain(tiny_bundle, scenario)
