"""What an upstream may answer: every reply that does not fit the question ends the text with who sent it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc import aio

from family.manifest import load_manifest
from family.spec import FamilySpec
from relay import wire
from relay.errors import UpstreamError
from relay.fence import Stale
from relay.hop import Envelope
from relay.log import Mark
from relay.messages import Advance, Answer, Behind, Logprobs, Question
from relay.node.serve import NodeServer
from relay.policy import FixedExit
from relay.v1 import relay_pb2 as pb
from relay.v1 import relay_pb2_grpc as rpc
from tests.relay.processes import raw_generate
from tests.relay.servers import HOST, config, running, text

VALUE = bytes(16)
ANSWER = Answer(
    cached=6,
    tokens=(7, 8),
    confidence=(0.5, 0.25),
    exit=3,
    tier="cloud",
    engine_ms=1.5,
    logits=np.arange(2 * 512, dtype=np.float32).reshape(2, 512),
)


@pytest.fixture(scope="module")
def spec(tiny_bundle: Path) -> FamilySpec:
    return load_manifest(tiny_bundle).spec


def sent(**changes: Any) -> Envelope:
    """Rows 3, 4 and 5, and a question about all of them."""
    question = Question(**{"exit": 3, "want": 3, "drafts": (7, 9), "logits": True, **changes})
    return Envelope(5, 2, Advance(3, VALUE, (VALUE,) * 3, np.zeros((3, 64), np.float32), question))


@pytest.mark.parametrize(
    ("question", "reply"),
    [
        (sent(), ANSWER),
        (sent(logits=False), replace(ANSWER, logits=None)),
        (sent(want=0, drafts=()), Answer(cached=6)),
        (sent(logprobs=1), replace(ANSWER, logprobs=(Logprobs(-0.5, ((7, -0.5),)), Logprobs(-2.0, ((9, -0.25),))))),
        (sent(), Behind(2, (Mark(1, VALUE), Mark(0, VALUE)))),
        (sent(), Behind(0, ())),
        (sent(), Stale(5)),
    ],
    ids=str,
)
def test_a_reply_that_fits_is_read_as_it_was_written(
    question: Envelope, reply: Answer | Behind | Stale, spec: FamilySpec
) -> None:
    read = wire.result(wire.reply(question, reply), question, spec, "here:1")
    assert read == reply
    if isinstance(reply, Answer) and reply.logits is not None:
        assert isinstance(read, Answer) and np.array_equal(read.logits, reply.logits)  # type: ignore[arg-type]


MISFITS: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({}, {"cached": 5}, "cached: 5 rows"),
    ({}, {"tokens": (), "confidence": (), "logits": None}, "tokens: 0 for 3 wanted"),
    ({}, {"tokens": (7, 9, 1, 2)}, "tokens: 4 for 3 wanted"),
    ({"want": 0, "drafts": ()}, {}, "tokens: 2 for 0 wanted"),
    ({}, {"tokens": (7, 512)}, "tokens: an id outside the vocabulary"),
    ({}, {"tokens": (6, 8)}, "tokens: other drafts than were sent"),
    ({}, {"confidence": (0.5,)}, "confidence: 1 for 2 tokens"),
    ({}, {"confidence": (0.5, float("nan"))}, "confidence: no probability"),
    ({}, {"engine_ms": float("nan")}, "engine_ms: nan"),
    ({}, {"engine_ms": -1.0}, "engine_ms: -1.0"),
    ({}, {"link_ms": float("inf")}, "link_ms: inf"),
    ({}, {"logprobs": (Logprobs(0.0),) * 2}, "logprobs: 2, expected 0"),
    ({"logprobs": 0}, {}, "logprobs: 0, expected 2"),
    ({"logprobs": 1}, {"logprobs": (Logprobs(0.0),) * 2}, "logprobs: 0 alternatives"),
    ({"logprobs": 1}, {"logprobs": (Logprobs(0.0, ((512, -1.0),)),) * 2}, "logprobs: an id outside the vocabulary"),
    ({}, {"logits": None}, "logits: 0 bytes, expected 4096"),
    ({}, {"logits": np.zeros((1, 512), np.float32)}, "logits: 2048 bytes, expected 4096"),
    ({"logits": False}, {}, "logits: 4096 bytes, expected 0"),
    ({}, {"exit": 0}, "exit: 0"),
    ({"exit": 2}, {}, "exit: 3"),
    ({}, {"exit": 2}, "exit: 2"),
    ({}, {"tier": ""}, "tier: no name"),
    ({}, {"tier": "\x1b[2J"}, "tier: no name"),
]


@pytest.mark.parametrize(("question", "answer", "says"), MISFITS, ids=[says for _, _, says in MISFITS])
def test_an_answer_that_does_not_fit_the_question_is_refused(
    question: dict[str, Any], answer: dict[str, Any], says: str, spec: FamilySpec
) -> None:
    envelope = sent(**question)
    with pytest.raises(UpstreamError) as raised:
        wire.result(wire.reply(envelope, replace(ANSWER, **answer)), envelope, spec, "here:1")
    assert str(raised.value).startswith(f"the node at here:1 answered what does not fit the question ({says}")
    assert str(raised.value).endswith("both ends need the same release")


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        (Behind(257, ()), "cached: 257 rows"),
        (Behind(2, (Mark(2, VALUE),)), "behind: a mark at 2"),
        (Behind(2, (Mark(0, b"short"),)), "behind: a mark at 0"),
        (Stale(4), "stale: epoch 4"),
        (Stale(1 << 63), "stale: epoch 9223372036854775808"),
        (None, "no result"),
    ],
    ids=str,
)
def test_a_refusal_that_does_not_fit_is_refused(reply: Behind | Stale | None, says: str, spec: FamilySpec) -> None:
    message = pb.AdvanceReply(epoch=5, seq=2) if reply is None else wire.reply(sent(), reply)
    with pytest.raises(UpstreamError) as raised:
        wire.result(message, sent(), spec, "here:1")
    assert f"({says})" in str(raised.value)


@pytest.mark.parametrize(("epoch", "seq"), [(4, 2), (5, 1), (0, 0)])
def test_the_reply_to_another_message_breaks_the_stream(epoch: int, seq: int, spec: FamilySpec) -> None:
    message = wire.reply(replace(sent(), epoch=epoch, seq=seq), ANSWER)
    with pytest.raises(ConnectionError, match="the node at here:1 answered another message"):
        wire.result(message, sent(), spec, "here:1")


class Upstream(rpc.HopServicer):
    """Answers with what `change` makes of a good answer; told the number of the stream too."""

    def __init__(self, change: Callable[[pb.AdvanceReply, int], None]) -> None:
        self.change = change
        self.streams = 0

    async def Advance(  # noqa: N802
        self, request_iterator: AsyncIterator[pb.AdvanceRequest], context: Any
    ) -> AsyncIterator[pb.AdvanceReply]:
        self.streams += 1
        stream = self.streams
        async for message in request_iterator:
            reply = pb.AdvanceReply(epoch=message.epoch, seq=message.seq, cached=message.base + message.rows.count)
            reply.answer.MergeFrom(pb.Answer(tokens=[7], confidence=[0.5], exit=message.target_exit, tier="edge"))
            self.change(reply, stream)
            yield reply


@asynccontextmanager
async def device_of(upstream: Upstream, bundle: Path) -> AsyncIterator[tuple[NodeServer, str]]:
    """A device node with this upstream, and the upstream's address."""
    server = aio.server()
    rpc.add_HopServicer_to_server(upstream, server)
    there = f"{HOST}:{server.add_insecure_port(f'{HOST}:0')}"
    await server.start()
    try:
        async with running(replace(config(bundle, "device"), upstream=there)) as device:
            yield device, there
    finally:
        await server.stop(None)


def test_a_client_is_told_which_node_answered_what_does_not_fit(tiny_bundle: Path) -> None:
    async def scenario() -> None:
        async with device_of(Upstream(lambda reply, _: reply.answer.tokens.append(6)), tiny_bundle) as (device, there):
            status, code, details = await raw_generate(device, 2)
            assert (status, code) == (grpc.StatusCode.FAILED_PRECONDITION, "upstream")
            assert f"the node at {there} answered what does not fit the question (tokens: 2 for 1 wanted)" in details

    asyncio.run(scenario())


def test_a_stream_that_is_out_of_step_is_replaced_by_a_new_one(tiny_bundle: Path) -> None:
    def out_of_step_at_first(reply: pb.AdvanceReply, stream: int) -> None:
        reply.seq += stream == 1

    async def scenario() -> None:
        upstream = Upstream(out_of_step_at_first)
        async with device_of(upstream, tiny_bundle) as (device, _):
            tokens = await text(device, [5], policy=FixedExit(2), max_tokens=2, ignore_stop=True)
            assert [token.id for token in tokens] == [7, 7]
            assert upstream.streams == 2

    asyncio.run(scenario())
