"""The gRPC services of a node: thin, they check, translate and pass on."""

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

from grpc import aio

from relay import wire
from relay.errors import InternalError, InvalidRequestError, NotReadyError, public, refuse
from relay.node.generate import Decided, Job, check, generate
from relay.node.node import Node
from relay.node.sessions import Held
from relay.policy import ExitSchedule, FixedExit, Policy
from relay.v1 import relay_pb2 as pb
from relay.v1 import relay_pb2_grpc as rpc

log = logging.getLogger("relay.node")

Context: TypeAlias = aio.ServicerContext[Any, Any]
DESCRIBE_UPSTREAM_S = 2.0


class Readiness:
    """The node once it is loaded, or why there is none. Set by `serve`."""

    def __init__(self) -> None:
        self.node: Node | None = None
        self.draining = False

    def ready(self) -> Node:
        """The node. Raises `NotReadyError` while it loads or drains."""
        if self.draining:
            raise NotReadyError("the node is shutting down; ask another one, or this one after its restart")
        if self.node is None:
            raise NotReadyError("the node is still loading its graphs; try again in a few seconds")
        return self.node


class RelayServicer(rpc.RelayServicer):
    """`relay.v1.Relay`: what applications call."""

    def __init__(self, readiness: Readiness) -> None:
        self._readiness = readiness

    async def Generate(self, request: pb.GenerateRequest, context: Context) -> AsyncIterator[pb.GenerateEvent]:  # noqa: N802
        """Stream decided tokens, then one Finish."""
        name = request.session or uuid.uuid4().hex
        async with _guarded(context, name):
            wire.name("session", name)
            job = await _job(self._readiness.ready(), request)
            node = self._readiness.ready()  # it may have begun to drain; from here on nothing waits
            if name in node.sessions:
                raise InvalidRequestError(f"session {name} is in use; choose another id, or leave it empty")
            held = node.sessions.enter(name, _deadline(context))
            try:
                async for event in self._events(node, held, job):
                    yield event
            finally:
                node.sessions.leave(name, held, over=True)

    async def Describe(self, request: pb.DescribeRequest, context: Context) -> pb.DescribeReply:  # noqa: N802, ARG002
        """This node and those upstream."""
        async with _guarded(context, "describe"):
            remaining_s = context.time_remaining()
            timeout_s = DESCRIBE_UPSTREAM_S if remaining_s is None else min(DESCRIBE_UPSTREAM_S, remaining_s / 2)
            return pb.DescribeReply(nodes=await self._readiness.ready().describe(timeout_s))
        raise AssertionError("unreachable: aborting raises")

    async def _events(self, node: Node, held: Held, job: Job) -> AsyncIterator[pb.GenerateEvent]:
        assert node.text is not None
        count = 0
        async for step in generate(held.session, job, node.text.decoder(job.ids)):
            if isinstance(step, Decided):
                count += 1
                yield pb.GenerateEvent(token=_token(step))
            else:
                reason = pb.Finish.Reason.Value(f"REASON_{step.upper()}")
                yield pb.GenerateEvent(finish=pb.Finish(reason=reason, prompt_tokens=len(job.ids), tokens=count))


class HopServicer(rpc.HopServicer):
    """`relay.v1.Hop`: what the node downstream calls."""

    def __init__(self, readiness: Readiness) -> None:
        self._readiness = readiness

    async def Advance(  # noqa: N802
        self, request_iterator: AsyncIterator[pb.AdvanceRequest], context: Context
    ) -> AsyncIterator[pb.AdvanceReply]:
        """Answer the messages of one session's stream in order, until it says goodbye or breaks."""
        name, held, over = "", None, False
        node = self._readiness.node
        try:
            async for message in request_iterator:
                async with _guarded(context, name or message.session):
                    if held is None:
                        node = self._readiness.ready()
                        node.check_peer(message.peer)
                    elif message.session != name:
                        raise InvalidRequestError("a stream serves one session; open another one for another session")
                    assert node is not None
                    if message.goodbye:
                        over = True
                        return
                    envelope = wire.envelope(message, node.manifest.spec, node.first_segment)
                    if held is None:
                        name = message.session
                        held = node.sessions.enter(name, _deadline(context))
                    reply = wire.reply(envelope, await held.receive(envelope))
                yield reply
        except aio.AbortError:  # refused: the sender gives the session up
            over = True
            raise
        finally:
            if held is not None and node is not None:
                remaining_s = context.time_remaining()
                late = remaining_s is not None and remaining_s <= 0
                node.sessions.leave(name, held, over=over or late)


async def _job(node: Node, request: pb.GenerateRequest) -> Job:
    """A checked request. Raises `InvalidRequestError`."""
    if node.text is None:
        raise InvalidRequestError(
            f"this node serves segments {node.first_segment}-{node.last_segment}; "
            "send the prompt to the node that serves segment 1"
        )
    match request.WhichOneof("prompt"):
        case "text":
            ids: Sequence[int] = await asyncio.to_thread(node.text.encode, request.text)
        case "ids":
            ids = request.ids.ids
        case "chat":
            ids = await asyncio.to_thread(node.text.encode_chat, request.chat.turns)
        case _:
            raise InvalidRequestError("the request has no prompt; give text, ids or chat")
    spec = node.manifest.spec
    policy = _policy(request.policy, node)
    check(ids, policy, vocab_size=spec.vocab_size, context=spec.context, granularity=spec.granularity)
    room = spec.context - len(ids)
    return Job(
        ids=tuple(ids),
        most=min(request.max_tokens or room, room),
        limit="length" if 0 < request.max_tokens <= room else "context",
        policy=policy,
        deepest=node.deepest_exit,
        stop_ids=frozenset() if request.ignore_stop else frozenset(node.manifest.stop_ids),
        logits=request.logits,
    )


def _policy(policy: pb.Policy, node: Node) -> Policy:
    match policy.WhichOneof("kind"):
        case "exit":
            return FixedExit(policy.exit)
        case "schedule":
            return ExitSchedule(policy.schedule.seed)
        case _:
            return FixedExit(node.deepest_exit)


def _token(step: Decided) -> pb.Token:
    answer = step.answer
    return pb.Token(
        id=step.id,
        text=step.text,
        position=step.position,
        exit=answer.exit,
        tier=answer.tier,
        confidence=answer.confidence[-1],
        timings=pb.Timings(elapsed_ms=step.elapsed_ms, engine_ms=answer.engine_ms),
        logits=b"" if answer.logits is None else answer.logits[-1].tobytes(),
    )


def _deadline(context: Context) -> float | None:
    remaining_s = context.time_remaining()
    return None if remaining_s is None else asyncio.get_running_loop().time() + remaining_s


@asynccontextmanager
async def _guarded(context: Context, session: str) -> AsyncIterator[None]:
    """Turn every error into a status with our code; the text of a defect goes to the log only."""
    try:
        yield
    except (aio.AbortError, asyncio.CancelledError, GeneratorExit):
        raise
    except Exception as error:
        known = public(error, session)
        if isinstance(known, InternalError):
            log.exception("session %s failed", session)
        await refuse(context, known)
