"""What a user is told: the right class of `relay.errors`, a text that says what to do, and the code on the wire."""

import asyncio
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from relay.client.aio import AsyncRelayClient
from relay.client.sync import RelayClient
from relay.client.types import GenerateOptions, Prompt
from relay.errors import (
    InvalidRequestError,
    PromptTooLongError,
    RelayError,
    UnknownExitError,
)
from relay.policy import ExitSchedule, FixedExit
from relay.v1 import relay_pb2 as pb
from relay.v1 import relay_pb2_grpc as rpc
from tests.relay.bundles import with_chat_template
from tests.relay.processes import PATIENCE_S, Gate, collect, eventually, raw_error
from tests.relay.servers import Chain, address, config, running, text


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
        ("x" * (1 << 20), {}, PromptTooLongError, "has 1048576 bytes; .* context is 256 tokens, .* send a shorter one"),
        ([{"role": "user", "content": "x" * (1 << 20)}], {}, PromptTooLongError, r"has \d{7} bytes; .* a shorter one"),
        ([{"role": "user", "content": ""}] * 256, {}, PromptTooLongError, "has 256 turns; .* so send fewer"),
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
        (b"tea", {}, InvalidRequestError, "neither text nor token ids; decode it"),
        ([5], {"temprature": 0.7}, InvalidRequestError, "has no option 'temprature'; it has .*temperature"),
        ([5], {"temperature": None}, InvalidRequestError, "a value is not what its option takes"),
        ([5], {"session": 5}, InvalidRequestError, "a value is not what its option takes"),
        ([1.5], {}, InvalidRequestError, "a value is not what its option takes"),
        ([5], {"policy": 3}, InvalidRequestError, "3 is no policy; give FixedExit"),
        ([5], {"timeout": -1.0}, InvalidRequestError, "timeout cannot be -1.0; give seconds, more than 0"),
        ([5], {"timeout": float("nan")}, InvalidRequestError, "timeout cannot be nan"),
        ([5], {"timeout": 1e10}, InvalidRequestError, "timeout cannot be 10000000000.0"),
        ([5], {"repetition_penalty": 1e-300}, InvalidRequestError, "repetition_penalty cannot be 1e-300; give 0.001"),
        ([5], {"frequency_penalty": -1e308}, InvalidRequestError, "frequency_penalty cannot be -1e.308; give -1000"),
        ([5], {"samples": 0}, InvalidRequestError, "samples cannot be 0; give 1 or more"),
        ([5], {"samples": 65}, InvalidRequestError, "65 samples of one prompt; ask for at most 64"),
        ([5], {"stop": ["x"] * 17}, InvalidRequestError, "17 stop strings; give at most 16"),
        ([5], {"stop_ids": [1] * 257}, InvalidRequestError, "257 stop ids; give at most 256"),
        ([5], {"stop_ids": [512]}, InvalidRequestError, r"stop id 512 is outside the vocabulary; .* ids 0\.\.511"),
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
        (pb.GenerateRequest(text="a", session="s" * 20_000), "invalid-request", "session: expected a name of 1 to 128"),
        (pb.GenerateRequest(text="a", session="s\nt"), "invalid-request", "session: expected a name of 1 to 128"),
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


def test_a_prompt_larger_than_a_message_is_refused(client: RelayClient) -> None:
    with pytest.raises(InvalidRequestError, match="larger than a message may be; send a shorter prompt"):
        list(client.generate("x" * (65 << 20)))


@pytest.mark.parametrize(
    ("template", "says"),
    [
        (None, "has no chat template; send text or token ids"),
        ("{{ raise_exception('roles must alternate') }}", "refuses this conversation: roles must alternate"),
        ("{{ messages[9].content }}", "refuses this conversation"),
        ("{{ 1 / 0 }}", "refuses this conversation: division by zero"),
        ("{{ raise_exception('no\\n' * 100000) }}", "refuses this conversation: no no no"),
    ],
)
def test_a_conversation_that_the_model_cannot_take_is_refused(
    template: str | None, says: str, tiny_bundle: Path, tmp_path: Path
) -> None:
    bundle = with_chat_template(tiny_bundle, tmp_path, template)

    async def scenario() -> None:
        async with running(config(bundle, "device")) as device:
            with pytest.raises(InvalidRequestError, match=says):
                await text(device, [{"role": "user", "content": "tea"}])

    asyncio.run(scenario())


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


def test_a_node_answers_others_while_it_reads_a_long_prompt(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with running(config(tiny_bundle, "device")) as device, AsyncRelayClient(address(device)) as client:
            assert device.node.text is not None
            read, encode, reading = threading.Event(), device.node.text.encode, list[str]()

            def slow(prompt: str) -> list[int]:
                reading.append(prompt)
                assert read.wait(PATIENCE_S)
                return encode(prompt)

            monkeypatch.setattr(device.node.text, "encode", slow)
            options = {"session": "twin", "max_tokens": 200, "ignore_stop": True}
            twins = [asyncio.ensure_future(text(device, "tea", **options)) for _ in range(2)]
            await eventually(lambda: len(reading) == 2)
            assert len(await client.describe()) == 1
            assert len(await collect(client.generate([5], max_tokens=2, ignore_stop=True))) == 2
            read.set()
            one, other = await asyncio.gather(*twins, return_exceptions=True)
            served, refused = (one, other) if isinstance(one, list) else (other, one)
            assert isinstance(served, list) and len(served) == 200
            assert isinstance(refused, InvalidRequestError) and "session twin is in use" in str(refused)

    asyncio.run(scenario())
