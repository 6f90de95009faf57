"""`RelayClient`: the blocking face of `AsyncRelayClient`, which runs on an event loop in a thread of its own."""

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import cache
from types import TracebackType
from typing import Any, TypeVar, Unpack

from relay.client.aio import DESCRIBE_TIMEOUT_S, AsyncRelayClient
from relay.client.aio import Generation as AsyncGeneration
from relay.client.types import Finish, GenerateOptions, Node, Prompt, Token
from relay.policy import Policy
from relay.tls import File

T = TypeVar("T")


class _Loop:
    """The event loop of all blocking clients, in a daemon thread. Never closed: gRPC's poller wakes it at any time,
    whether or not a client is left.
    """

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="relay-client", daemon=True).start()

    def wait(self, work: Coroutine[Any, Any, T]) -> T:
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:  # KeyboardInterrupt too: stop the work, not only the wait
            future.cancel()
            raise

    def soon(self, call: Callable[[], None]) -> None:
        """Have the loop call this, without waiting."""
        with suppress(RuntimeError):  # while the interpreter ends
            self._loop.call_soon_threadsafe(call)


@cache
def _shared_loop() -> _Loop:
    return _Loop()


if hasattr(os, "register_at_fork"):  # threads do not outlive a fork
    os.register_at_fork(after_in_child=_shared_loop.cache_clear)


class Generation:
    """A text under way: iterate for its tokens; `finish` is set when it is complete.

    A text that is dropped or closed before its end is cancelled on every node.
    """

    def __init__(self, loop: _Loop, stream: AsyncGeneration) -> None:
        self._loop = loop
        self._stream = stream

    @property
    def session(self) -> str:
        return self._stream.session

    @property
    def request_id(self) -> str:
        return self._stream.request_id

    @property
    def seed(self) -> int:
        return self._stream.seed

    @property
    def finish(self) -> Finish | None:
        return self._stream.finish

    @property
    def finishes(self) -> list[Finish]:
        return self._stream.finishes

    def __iter__(self) -> "Generation":
        return self

    def __next__(self) -> Token:
        try:
            token = self._loop.wait(_next(self._stream))
        except BaseException:
            self.close()
            raise
        if token is None:
            raise StopIteration
        return token

    def steer(self, policy: Policy) -> bool:
        """Change the policy from the node's next token on, which may be some ahead of those read so far.

        False if the text was complete already. Any thread may.
        """
        return self._loop.wait(self._stream.steer(policy))

    def close(self) -> None:
        """Cancel what is still under way. Never waits, so that any thread may drop a text."""
        self._loop.soon(self._stream.cancel)

    def __del__(self) -> None:
        self.close()


class RelayClient:
    """A client of the node that serves segment 1, for code without an event loop."""

    def __init__(
        self, address: str, *, ca: File | None = None, cert: File | None = None, key: File | None = None
    ) -> None:
        """As `AsyncRelayClient`: over TLS with `ca`, and with `cert` and `key` as itself."""

        async def open_client() -> AsyncRelayClient:
            return AsyncRelayClient(address, ca=ca, cert=cert, key=key)

        self._loop = _shared_loop()
        self._client = self._loop.wait(open_client())

    def __enter__(self) -> "RelayClient":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; texts under way are cancelled on every node."""
        self._loop.wait(self._client.close())

    def generate(self, prompt: Prompt, **options: Unpack[GenerateOptions]) -> Generation:
        """Continue a text, token ids or a conversation; iterate for the tokens."""

        async def start() -> AsyncGeneration:
            return self._client.generate(prompt, **options)

        return Generation(self._loop, self._loop.wait(start()))

    def describe(self, timeout: float = DESCRIBE_TIMEOUT_S) -> tuple[Node, ...]:
        """The entry node and those upstream of it, in relay order."""
        return self._loop.wait(self._client.describe(timeout))

    def steer(self, policy: Policy | None = None, codec: str | None = None) -> None:
        """Set what this caller's texts do that choose nothing themselves, as `AsyncRelayClient.steer`."""
        self._loop.wait(self._client.steer(policy, codec))


async def _next(stream: AsyncGeneration) -> Token | None:
    return await anext(stream, None)
