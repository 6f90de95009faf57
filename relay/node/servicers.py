"""The gRPC services of a node: thin, they check, translate and pass on."""

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from functools import partial
from typing import Any, TypeAlias

from grpc import aio

from relay import options, wire
from relay.errors import InternalError, InvalidRequestError, NotReadyError, public, refuse, request_id_of
from relay.names import is_name
from relay.node.ahead import ahead
from relay.node.generate import Decided, Finished, generate
from relay.node.job import Job, checked, default_of, job_of
from relay.node.node import Node
from relay.node.sessions import Held, Text
from relay.policy import Policy
from relay.tls import peer_of
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
        """Stream decided tokens, then one Finish; so for every sample."""
        started = time.perf_counter()
        name, request_id = request.session or uuid.uuid4().hex, request_id_of(context)
        async with _guarded(context, request_id, name):
            wire.name("session", name)
            owner = peer_of(context)
            job = await job_of(self._readiness.ready(), request, owner)
            node = self._readiness.ready()  # it may have begun to drain; from here on nothing waits
            held = node.sessions.of(name, owner)
            if held is not None and held.streams:
                raise _in_use(name)
            held = node.sessions.enter(name, owner, job.positions, _deadline(context), request_id)
            held.text = Text(job.policy, job.penalties)
            log.info("request %s, session %s: a text of %d prompt tokens begins", request_id, name, len(job.ids))
            how = "cut short"
            try:
                await context.send_initial_metadata(())  # from here on it may be steered
                async with (
                    aclosing(self._events(node, held, held.text, job, started)) as events,
                    aclosing(ahead(events)) as coming,
                ):
                    async for event in coming:
                        yield event
                how = "complete"
            except Exception:
                how = "failed"
                raise
            finally:
                held.text = None
                log.info("request %s, session %s: %s", request_id, name, how)
                if request.keep and how != "failed":
                    node.sessions.keep(name, held)
                else:
                    node.sessions.leave(name, held, over=True)

    async def Steer(self, request: pb.SteerRequest, context: Context) -> pb.SteerReply:  # noqa: N802
        """Change the policy of a text under way, or the caller's default."""
        request_id = request_id_of(context)
        async with _guarded(context, request_id, request.session):
            node = self._readiness.ready()
            if not request.session:
                default = node.defaults[peer_of(context)] = await default_of(node, request)
                log.info("request %s: by default %s, rows as %s", request_id, default.policy, default.codec.label)
                return pb.SteerReply()
            policy = options.policy(request.policy)
            if request.codec:
                raise InvalidRequestError("a text keeps the codec that it began with; leave the codec out")
            if policy is None:
                raise InvalidRequestError("the request has no policy; give exit, schedule, confidence or speculative")
            text = node.sessions.text(wire.name("session", request.session), peer_of(context))
            text.policy = checked(policy, text.penalties, node)
            return pb.SteerReply()
        raise AssertionError("unreachable: aborting raises")

    async def Describe(self, request: pb.DescribeRequest, context: Context) -> pb.DescribeReply:  # noqa: N802, ARG002
        """This node and those upstream."""
        request_id = request_id_of(context)
        async with _guarded(context, request_id, "-"):
            remaining_s = context.time_remaining()
            timeout_s = DESCRIBE_UPSTREAM_S if remaining_s is None else min(DESCRIBE_UPSTREAM_S, remaining_s / 2)
            return pb.DescribeReply(nodes=await self._readiness.ready().describe(timeout_s, request_id))
        raise AssertionError("unreachable: aborting raises")

    async def _events(
        self, node: Node, held: Held, text: Text, job: Job, started: float
    ) -> AsyncGenerator[pb.GenerateEvent, None]:
        assert node.text is not None
        decoder = partial(node.text.decoder, job.ids)

        def policy() -> Policy:
            return text.policy or node.default(held.owner).policy

        async for step in generate(held.session, job, policy, node.pace, decoder, started):
            if isinstance(step, Decided):
                yield pb.GenerateEvent(token=_token(step))
            else:
                yield pb.GenerateEvent(finish=_finish(step, job))


class HopServicer(rpc.HopServicer):
    """`relay.v1.Hop`: what the node downstream calls."""

    def __init__(self, readiness: Readiness) -> None:
        self._readiness = readiness

    async def Advance(  # noqa: N802
        self, request_iterator: AsyncIterator[pb.AdvanceRequest], context: Context
    ) -> AsyncIterator[pb.AdvanceReply]:
        """Answer the messages of one session's stream in order, until it says goodbye or breaks."""
        name, held, over, positions = "", None, False, 0
        request_id = request_id_of(context)
        node = self._readiness.node
        try:
            async for message in request_iterator:
                async with _guarded(context, request_id, message.session if is_name(message.session) else "-"):
                    if held is None:
                        node = self._readiness.ready()
                        node.check_peer(message.peer)
                        positions = message.peer.positions or node.manifest.spec.context
                    elif message.session != name:
                        raise InvalidRequestError("a stream serves one session; open another one for another session")
                    assert node is not None
                    if message.goodbye:
                        over = True
                        return
                    envelope = wire.envelope(message, node.manifest.spec, positions, node.first_segment)
                    if held is None:
                        name, owner = message.session, peer_of(context)
                        known = node.sessions.of(name, owner)
                        if known is not None and known.text is not None:
                            raise _in_use(name)  # a text that begins here is written by one request alone
                        held = node.sessions.enter(name, owner, positions, _deadline(context), request_id)
                        log.info("request %s, session %s: rows from tier %s", request_id, name, message.peer.tier)
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


def _in_use(name: str) -> InvalidRequestError:
    return InvalidRequestError(f"session {name} is in use; choose another id, or leave it empty")


def _token(step: Decided) -> pb.Token:
    answer = step.answer
    return pb.Token(
        id=step.id,
        text=step.text,
        position=step.position,
        exit=answer.exit,
        tier=answer.tier,
        confidence=answer.confidence[-1],
        timings=pb.Timings(elapsed_ms=step.elapsed_ms, engine_ms=answer.engine_ms, link_ms=answer.link_ms),
        logits=b"" if answer.logits is None else answer.logits[-1].tobytes(),
        sample=step.sample,
        logprobs=options.logprobs_message(answer.logprobs[-1]) if answer.logprobs else None,
    )


def _finish(end: Finished, job: Job) -> pb.Finish:
    return pb.Finish(
        reason=pb.Finish.Reason.Value(f"REASON_{end.reason.upper()}"),
        prompt_tokens=len(job.ids),
        tokens=end.tokens,
        sample=end.sample,
        stop=end.stop,
        cached_tokens=end.cached,
    )


def _deadline(context: Context) -> float | None:
    remaining_s = context.time_remaining()
    return None if remaining_s is None else asyncio.get_running_loop().time() + remaining_s


@asynccontextmanager
async def _guarded(context: Context, request_id: str, session: str) -> AsyncIterator[None]:
    """Turn every error into a status with our code; the text of a defect goes to the log only."""
    try:
        yield
    except (aio.AbortError, asyncio.CancelledError, GeneratorExit):
        raise
    except Exception as error:
        known = public(error, request_id)
        if isinstance(known, InternalError):
            log.exception("request %s, session %s: failed", request_id, session)
        else:
            log.info("request %s, session %s: refused, %s: %s", request_id, session, known.code, known)
        await refuse(context, known, request_id)
