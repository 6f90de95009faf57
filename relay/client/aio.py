"""`AsyncRelayClient`: the client SDK, written once; `RelayClient` runs it on a thread."""

import asyncio
from types import TracebackType
from typing import Unpack

from grpc import aio

from relay.channel import open_channel
from relay.client import types
from relay.client.request import default_request, generate_request
from relay.client.types import Finish, GenerateOptions, Node, Prompt, Token
from relay.errors import REQUEST_KEY, ClosedError, UnknownSessionError, from_rpc, new_request_id
from relay.options import policy_message
from relay.policy import Policy
from relay.tls import File, client_credentials
from relay.v1 import relay_pb2 as pb
from relay.v1 import relay_pb2_grpc as rpc

DESCRIBE_TIMEOUT_S = 5.0
STEER_TIMEOUT_S = 5.0


class Generation:
    """A text under way: iterate for its tokens; `finish` is set when it is complete.

    With `samples`, the texts come one after the other: `token.sample` counts them, and `finishes` has the end of each.
    A text that is dropped or closed (`aclose`) before its end is cancelled on every node.
    """

    def __init__(
        self, stub: "rpc.RelayAsyncStub", address: str, request: pb.GenerateRequest, timeout: float | None
    ) -> None:
        self.session = request.session
        """Names the text on every node."""
        self.request_id = new_request_id()
        """Names the request in every node's log."""
        self.seed = request.sampling.seed
        """Of its sampling, drawn or given: the same one gives the same text."""
        self.finishes: list[Finish] = []
        """The end of every complete sample."""
        self._stub = stub
        self._address = address
        self._call = stub.Generate(request, timeout=timeout, metadata=((REQUEST_KEY, self.request_id),))

    @property
    def finish(self) -> Finish | None:
        """The newest complete sample's end."""
        return self.finishes[-1] if self.finishes else None

    def __aiter__(self) -> "Generation":
        return self

    async def __anext__(self) -> Token:
        try:
            event = await self._call.read()
        except aio.AioRpcError as error:
            raise from_rpc(error, self._address, self.request_id) from None
        except asyncio.CancelledError:
            reader = asyncio.current_task()
            if reader is not None and reader.cancelling():
                raise
            raise ClosedError("the text was closed before it was complete; ask for it again") from None
        if not isinstance(event, pb.GenerateEvent):
            raise StopAsyncIteration
        if event.HasField("token"):
            return types.token(event.token)
        self.finishes.append(types.finish(event.finish))
        return await anext(self)

    async def steer(self, policy: Policy) -> bool:
        """Change the policy from the node's next token on, which may be some ahead of those read so far.

        False if the text was complete already.
        """
        request = pb.SteerRequest(session=self.session, policy=policy_message(policy))
        metadata = ((REQUEST_KEY, self.request_id),)
        try:
            await self._call.initial_metadata()  # it comes when the text is under way
            await self._stub.Steer(request, timeout=STEER_TIMEOUT_S, metadata=metadata)
        except aio.AioRpcError as error:
            refused = from_rpc(error, self._address, self.request_id)
            if isinstance(refused, UnknownSessionError):
                return False
            raise refused from None
        return True

    def cancel(self) -> None:
        """Cancel what is still under way. For the event loop's thread only."""
        self._call.cancel()

    async def aclose(self) -> None:
        """Cancel what is still under way, as `contextlib.aclosing` expects it."""
        self.cancel()


class AsyncRelayClient:
    """A client of the node that serves segment 1. Raises `relay.RelayError` and its kinds, never a gRPC error."""

    def __init__(
        self, address: str, *, ca: File | None = None, cert: File | None = None, key: File | None = None
    ) -> None:
        """With `ca`, PEM certificates of authorities, the node is asked over TLS and must have a certificate of theirs;
        `cert` and `key` are the client's own, for a node that asks for one (mutual TLS).

        Raises `ConfigurationError` for files that cannot be used.
        """
        self.address = address
        """HOST:PORT of the entry node."""
        self._channel = open_channel(address, client_credentials(ca, cert, key))
        self._stub = rpc.RelayStub(self._channel)
        self._closed = False

    async def __aenter__(self) -> "AsyncRelayClient":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection; texts under way are cancelled on every node."""
        self._closed = True
        await self._channel.close()

    def generate(self, prompt: Prompt, **options: Unpack[GenerateOptions]) -> Generation:
        """Continue a text, token ids or a conversation. The request is sent at once; iterate for the tokens."""
        self._check_open()
        return Generation(self._stub, self.address, generate_request(prompt, options), options.get("timeout"))

    async def describe(self, timeout: float = DESCRIBE_TIMEOUT_S) -> tuple[Node, ...]:
        """The entry node and those upstream of it, in relay order."""
        self._check_open()
        request_id = new_request_id()
        try:
            metadata = ((REQUEST_KEY, request_id),)
            reply = await self._stub.Describe(pb.DescribeRequest(), timeout=timeout, metadata=metadata)
        except aio.AioRpcError as error:
            raise from_rpc(error, self.address, request_id) from None
        return tuple(types.node(message) for message in reply.nodes)

    async def steer(self, policy: Policy | None = None, codec: str | None = None) -> None:
        """Set what texts of this caller on the entry node do that choose no policy or codec: new ones, and those under
        way from their next token on, which keep their codec. It holds for all clients of the same certificate, or
        without one, until the node stops. By default the deepest exit, and the codec that the node is set up with.
        """
        self._check_open()
        request_id = new_request_id()
        request = default_request(policy, codec)
        try:
            await self._stub.Steer(request, timeout=STEER_TIMEOUT_S, metadata=((REQUEST_KEY, request_id),))
        except aio.AioRpcError as error:
            raise from_rpc(error, self.address, request_id) from None

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError(f"the client of {self.address} is closed; open another one")
