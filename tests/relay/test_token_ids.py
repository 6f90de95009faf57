"""Token ids in place of rows, and the loop handed to a node that holds all segments."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from relay.client.aio import AsyncRelayClient
from relay.errors import InvalidRequestError, PeerMismatchError
from relay.node.serve import NodeServer
from relay.policy import ConfidenceExit, ExitSchedule, FixedExit, Policy, SpeculativeExit
from tests.relay.processes import Gate
from tests.relay.servers import address, config, running, single, text

PROMPT = list(range(3, 20))
OPTIONS = {"max_tokens": 30, "logits": True, "ignore_stop": True, "temperature": 0.8, "seed": 4}
POLICIES = [
    FixedExit(3),
    FixedExit(3, burst=7),
    FixedExit(2, burst=32),
    ExitSchedule(5),
    ConfidenceExit(0.02),
    SpeculativeExit(),
    SpeculativeExit(draft_exit=1, length=4, shorten=True),
]


@asynccontextmanager
async def pair(bundle: Path) -> AsyncIterator[tuple[NodeServer, NodeServer]]:
    """A device with segment 1, and all segments above it."""
    async with (
        running(config(bundle, "cloud", segments=(1, 2, 3))) as cloud,
        running(config(bundle, "device", cloud, segments=(1,), send="ids")) as device,
    ):
        yield device, cloud


@pytest.mark.parametrize("policy", POLICIES, ids=str)
def test_the_text_is_the_same_to_the_bit(policy: Policy, tiny_bundle_int4: Path) -> None:
    async def scenario() -> None:
        async with pair(tiny_bundle_int4) as (device, _), single(tiny_bundle_int4) as one:
            sent = await text(device, PROMPT, policy=policy, **OPTIONS)
            if isinstance(policy, SpeculativeExit):
                policy_of_one: Policy = FixedExit(3)
            else:
                policy_of_one = policy
            whole = await text(one, PROMPT, policy=policy_of_one, **OPTIONS)
            assert [(t.id, t.exit, t.position) for t in sent] == [(t.id, t.exit, t.position) for t in whole]
            assert all((a.logits == b.logits).all() for a, b in zip(sent, whole, strict=True))

    asyncio.run(scenario())


def test_a_device_that_sends_ids_computes_nothing_until_its_own_exit_is_asked(tiny_bundle: Path) -> None:
    async def scenario() -> None:
        async with pair(tiny_bundle) as (device, _), AsyncRelayClient(address(device)) as client:
            first = [
                t.id async for t in client.generate(PROMPT, policy=FixedExit(3), max_tokens=5, session="a", keep=True)
            ]
            here, there = await client.describe()
            assert here.work["segment-1"].rows == 0 and there.work["segment-1"].rows == len(PROMPT) + 4
            assert here.bytes_sent < 5 * 64 * 4, "five rows of 64 channels would take more"
            again = [*PROMPT, *first]
            tokens = [t async for t in client.generate(again, policy=FixedExit(1), max_tokens=3, session="a")]
            here, _ = await client.describe()
            assert {t.exit for t in tokens} == {1} and here.work["segment-1"].rows == len(again) + 2

    asyncio.run(scenario())


def test_a_burst_is_one_message_and_the_loop_is_taken_back(tiny_bundle: Path) -> None:
    async def scenario() -> None:
        async with (
            pair(tiny_bundle) as (device, _),
            single(tiny_bundle) as one,
            AsyncRelayClient(address(device)) as client,
        ):
            options = {"max_tokens": 24, "ignore_stop": True}
            plain = [t.id for t in await text(one, PROMPT, policy=FixedExit(3), **options)]
            burst = client.generate(PROMPT, policy=FixedExit(3, burst=7), session="b", keep=True, **options)
            assert [t.id async for t in burst] == plain
            here, _ = await client.describe()
            assert here.messages_sent == 3
            shorter = [*PROMPT, *plain[:5], 9]  # goes back to the middle of what the cloud decided by itself
            expected = [t.id for t in await text(one, shorter, policy=FixedExit(3), **options)]
            assert [t.id async for t in client.generate(shorter, session="b", **options)] == expected

    asyncio.run(scenario())


def test_a_text_of_one_stop_in_a_burst_ends_there(tiny_bundle: Path) -> None:
    async def scenario() -> None:
        async with pair(tiny_bundle) as (device, _):
            all_ids = [t.id for t in await text(device, PROMPT, policy=FixedExit(3, burst=15), **OPTIONS)]
            stop = all_ids[9]
            cut = await text(device, PROMPT, policy=FixedExit(3, burst=15), stop_ids=[stop], **OPTIONS)
            assert [t.id for t in cut] == all_ids[: all_ids.index(stop) + 1]

    asyncio.run(scenario())


def test_a_text_that_begins_upstream_keeps_its_session_to_itself(tiny_bundle: Path) -> None:
    async def scenario() -> None:
        async with pair(tiny_bundle) as (device, cloud), AsyncRelayClient(address(cloud)) as client:
            plain = [t.id for t in await text(cloud, PROMPT, **OPTIONS)]
            gate = Gate(cloud.node.engine, free=3)
            stream = client.generate(PROMPT, session="chat", **OPTIONS)
            told = [(await anext(stream)).id]
            with pytest.raises(InvalidRequestError, match="session chat is in use"):
                await text(device, [9, 8], session="chat", policy=FixedExit(3), max_tokens=2)
            gate.open()
            assert [*told, *[t.id async for t in stream]] == plain

    asyncio.run(scenario())


def test_rows_that_are_not_sent_have_no_codec(tiny_bundle: Path) -> None:
    async def scenario() -> None:
        async with pair(tiny_bundle) as (device, _):
            with pytest.raises(InvalidRequestError, match="codec int8 is for rows, and this node sends token ids"):
                await text(device, PROMPT, max_tokens=1, codec="int8")

    asyncio.run(scenario())


def test_ids_for_a_node_that_reads_rows_are_refused(tiny_bundle: Path) -> None:
    async def scenario() -> None:
        async with (
            running(config(tiny_bundle, "cloud", segments=(2, 3))) as cloud,
            running(config(tiny_bundle, "device", cloud, segments=(1,), send="ids")) as device,
        ):
            with pytest.raises(PeerMismatchError, match="sends token ids, but tier 'cloud' begins with segment 2"):
                await text(device, PROMPT, max_tokens=1)

    asyncio.run(scenario())
