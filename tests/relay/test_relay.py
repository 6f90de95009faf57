"""Three real nodes against one, on a tiny family with real graphs."""

import asyncio
import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from relay.client.aio import AsyncRelayClient
from relay.client.sync import RelayClient
from relay.client.types import Token
from relay.errors import TimeoutExceededError, UnreachableError
from relay.policy import ExitSchedule, FixedExit, Policy, target_exit
from tests.relay.servers import Chain, address, chain, config, running, single, text
from training.loaded import LoadedFamily

PROMPT = list(range(3, 20))
OPTIONS = {"max_tokens": 24, "logits": True, "ignore_stop": True}


def same(a: list[Token], b: list[Token]) -> bool:
    """Equal to the bit in all that the model decided."""
    assert all(x.logits is not None and y.logits is not None for x, y in zip(a, b, strict=True))
    return all(
        (x.id, x.exit) == (y.id, y.exit) and np.array_equal(x.logits, y.logits) for x, y in zip(a, b, strict=True)
    )  # type: ignore[arg-type]


async def settled(chain: Chain) -> None:
    """Wait until no node holds a session."""
    async with asyncio.timeout(10):
        while any(chain.sessions()):
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("precision", ["f32", "int4"])
@pytest.mark.parametrize("policy", [FixedExit(1), FixedExit(2), FixedExit(3), ExitSchedule(5)], ids=str)
def test_three_nodes_decide_to_the_bit_what_one_process_decides(
    policy: Policy, precision: str, tiny_bundle: Path, tiny_bundle_int4: Path
) -> None:
    bundle = tiny_bundle if precision == "f32" else tiny_bundle_int4

    async def scenario() -> None:
        async with chain(bundle) as nodes, single(bundle) as one:
            relayed = await text(nodes.device, PROMPT, policy=policy, **OPTIONS)
            whole = await text(one, PROMPT, policy=policy, **OPTIONS)
            assert len(relayed) == 24
            assert same(relayed, whole)
            assert [t.exit for t in relayed] == [target_exit(policy, t.position, 3) for t in relayed]
            assert {t.tier for t in relayed} <= {"device", "edge", "cloud"}
            assert [("device", "edge", "cloud")[t.exit - 1] for t in relayed] == [t.tier for t in relayed]

    asyncio.run(scenario())


def test_every_f32_logits_row_is_the_pytorch_sub_models(tiny_bundle: Path, tiny_family: LoadedFamily) -> None:
    async def scenario() -> list[Token]:
        async with chain(tiny_bundle) as nodes:
            return await text(nodes.device, PROMPT, policy=ExitSchedule(1), **OPTIONS)

    tokens = asyncio.run(scenario())
    ids = torch.tensor([PROMPT + [t.id for t in tokens]])
    for token in tokens:
        assert token.logits is not None
        with torch.no_grad():
            expected = tiny_family.submodel(token.exit)(ids[:, : token.position]).logits[0, -1].numpy()
        assert np.abs(token.logits - expected).max() <= 1e-4 * np.ptp(expected)
        assert token.id == expected.argmax()


def test_the_blocking_client_gives_the_same_text(tiny_bundle: Path) -> None:
    async def scenario() -> None:
        async with chain(tiny_bundle) as nodes:

            def blocking() -> tuple[list[Token], str]:
                with RelayClient(address(nodes.device)) as client:
                    stream = client.generate(PROMPT, max_tokens=5, ignore_stop=True)
                    tokens = list(stream)
                    assert stream.finish is not None
                    assert [node.tier for node in client.describe()] == ["device", "edge", "cloud"]
                    return tokens, stream.finish.reason

            tokens, reason = await asyncio.to_thread(blocking)
            again = await text(nodes.device, PROMPT, max_tokens=5, ignore_stop=True)
            assert [t.id for t in tokens] == [t.id for t in again]
            assert reason == "length"

    asyncio.run(scenario())


def test_text_chat_and_ids_all_reach_the_model(tiny_bundle: Path) -> None:
    async def scenario() -> None:
        async with chain(tiny_bundle) as nodes, AsyncRelayClient(address(nodes.device)) as client:
            for prompt in ("the sea", [{"role": "user", "content": "the sea"}], [5, 6]):
                stream = client.generate(prompt, max_tokens=3, ignore_stop=True)  # type: ignore[arg-type]
                assert len([token async for token in stream]) == 3
                assert stream.finish is not None and stream.finish.prompt_tokens > 0

    asyncio.run(scenario())


def test_a_text_ends_where_the_context_is_full(tiny_bundle: Path, tiny_family: LoadedFamily) -> None:
    context = tiny_family.spec.context

    async def scenario() -> None:
        async with chain(tiny_bundle) as nodes, AsyncRelayClient(address(nodes.device)) as client:
            stream = client.generate([7] * (context - 3), policy=ExitSchedule(0), ignore_stop=True)
            assert len([token async for token in stream]) == 3
            assert stream.finish is not None and stream.finish.reason == "context"

    asyncio.run(scenario())


def test_a_finished_text_leaves_no_session_anywhere(tiny_bundle: Path) -> None:
    async def scenario() -> None:
        async with chain(tiny_bundle) as nodes:
            await text(nodes.device, PROMPT, max_tokens=2)
            await settled(nodes)

    asyncio.run(scenario())


def test_a_cancelled_text_frees_every_node_long_before_the_grace_is_over(tiny_bundle: Path) -> None:
    async def scenario() -> None:
        async with chain(tiny_bundle, grace_s=3600.0) as nodes, AsyncRelayClient(address(nodes.device)) as client:
            stream = client.generate(PROMPT, ignore_stop=True)
            await anext(aiter(stream))
            assert nodes.sessions() == [1, 1, 1]
            await stream.aclose()
            await settled(nodes)

    asyncio.run(scenario())


def test_a_timeout_reaches_every_hop(tiny_bundle: Path) -> None:
    async def scenario() -> None:
        async with chain(tiny_bundle, grace_s=3600.0) as nodes:
            with pytest.raises(TimeoutExceededError, match="larger timeout"):
                await text(nodes.device, PROMPT, timeout=0.15, ignore_stop=True)
            await settled(nodes)

    asyncio.run(scenario())


def test_a_node_that_dies_in_mid_sentence_and_comes_back_changes_no_token(
    tiny_bundle: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "relay.node")

    async def scenario() -> None:
        async with (
            running(config(tiny_bundle, "cloud")) as cloud,
            running(config(tiny_bundle, "edge", cloud)) as edge,
            running(config(tiny_bundle, "device", edge)) as device,
            single(tiny_bundle) as one,
        ):
            whole = await text(one, PROMPT, policy=ExitSchedule(5), **OPTIONS)
            async with AsyncRelayClient(address(device)) as client:
                relayed = []
                async for token in client.generate(PROMPT, policy=ExitSchedule(5), **OPTIONS):  # type: ignore[arg-type]
                    relayed.append(token)
                    if len(relayed) == 8:
                        await edge.stop()
                        successor = running(config(tiny_bundle, "edge", cloud, listen=address(edge)))
                        await successor.__aenter__()
            assert same(relayed, whole)
            assert caplog.text.count(f"the link to {address(edge)} broke, trying again: ") == 1
            assert caplog.text.count(f"the link to {address(edge)} works again") == 1
            await successor.__aexit__(None, None, None)

    asyncio.run(scenario())


def test_without_the_next_node_the_shallow_exits_go_on_and_the_deep_ones_say_why_not(tiny_bundle: Path) -> None:
    async def scenario() -> None:
        async with running(config(tiny_bundle, "device", upstream=None)) as alone:
            assert len(await text(alone, PROMPT, max_tokens=3, ignore_stop=True)) == 3
        async with chain(tiny_bundle) as nodes:
            await nodes.edge.stop()
            assert len(await text(nodes.device, PROMPT, max_tokens=3, policy=FixedExit(1), ignore_stop=True)) == 3
            with pytest.raises(UnreachableError, match="no relay node answers at"):
                await text(nodes.device, PROMPT, max_tokens=3, policy=FixedExit(2))

    asyncio.run(scenario())


def test_many_sessions_at_once_do_not_mix(tiny_bundle: Path) -> None:
    prompts = [[i + 3, i + 4, i + 5] * (i + 1) for i in range(6)]

    async def scenario() -> None:
        async with chain(tiny_bundle) as nodes, single(tiny_bundle) as one:
            options = {"policy": ExitSchedule(2), **OPTIONS}
            together = await asyncio.gather(*(text(nodes.device, prompt, **options) for prompt in prompts))
            for prompt, tokens in zip(prompts, together, strict=True):
                assert same(tokens, await text(one, prompt, **options))

    asyncio.run(scenario())
