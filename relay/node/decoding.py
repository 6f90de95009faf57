"""Requests that are no messages of ours, refused as every other error is: with a status, a code and what to do.

gRPC reads a request before its handler runs, and tells the sender what its own reader said when that fails. So here the
reader keeps such bytes as `Undecodable`, and the handler is wrapped to refuse them.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import grpc
from google.protobuf.message import DecodeError
from grpc import aio

from relay.errors import InvalidRequestError, refuse, request_id_of
from relay.node.ahead import ahead

Context: TypeAlias = aio.ServicerContext[Any, Any]
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any] | None"
_OURS = "/relay.v1."


@dataclass(frozen=True)
class Undecodable:
    """A request whose bytes are no message of the expected type."""


class DecodingInterceptor(aio.ServerInterceptor):
    """Refuses undecodable requests to `relay.v1` with `InvalidRequestError`, those within a stream too."""

    async def intercept_service(
        self,
        continuation: "Callable[[grpc.HandlerCallDetails], Awaitable[Handler]]",
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "Handler":
        """The service's own handler, wrapped if it is one of ours."""
        handler: Any = await continuation(handler_call_details)
        if handler is None or not handler_call_details.method.startswith(_OURS):
            return cast("Handler", handler)
        read = _reader(handler.request_deserializer)
        write = handler.response_serializer
        if handler.request_streaming:
            return grpc.stream_stream_rpc_method_handler(_stream_stream(handler.stream_stream), read, write)
        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(_unary_stream(handler.unary_stream), read, write)
        return grpc.unary_unary_rpc_method_handler(_unary_unary(handler.unary_unary), read, write)


def _reader(deserialize: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    def read(data: bytes) -> Any:
        try:
            return deserialize(data)
        except DecodeError:
            return Undecodable()

    return read


async def _checked(request: Any, context: Context) -> Any:
    if isinstance(request, Undecodable):
        problem = "not a relay.v1 message; write it with protos/relay/v1/relay.proto of this node's release"
        await refuse(context, InvalidRequestError(problem), request_id_of(context))
    return request


def _unary_unary(handle: Any) -> Any:
    async def checked(request: Any, context: Context) -> Any:
        return await handle(await _checked(request, context), context)

    return checked


def _unary_stream(handle: Any) -> Any:
    async def checked(request: Any, context: Context) -> AsyncIterator[Any]:
        async with aclosing(handle(await _checked(request, context), context)) as replies:
            async for reply in replies:
                yield reply

    return checked


def _stream_stream(handle: Any) -> Any:
    async def checked(requests: AsyncIterator[Any], context: Context) -> AsyncIterator[Any]:
        async with aclosing(ahead(requests)) as coming:
            messages = (await _checked(request, context) async for request in coming)
            async with aclosing(handle(messages, context)) as replies:
                async for reply in replies:
                    yield reply

    return checked
