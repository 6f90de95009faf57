"""Real commands in processes of their own, and nodes on an event loop in a thread, for tests that block."""

import asyncio
import json
import os
import queue
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

import grpc
import pytest
from grpc import aio

from relay.errors import CODE_KEY
from relay.node.serve import NodeServer
from relay.v1 import relay_pb2 as pb
from relay.v1 import relay_pb2_grpc as rpc
from tests.relay.servers import HOST, address

T = TypeVar("T")
PATIENCE_S = 60.0
"""No condition here takes so long, even on a busy machine."""


def command(name: str) -> str:
    """The installed console script."""
    return str(Path(sys.executable).with_name(name))


def environment(**changes: str) -> dict[str, str]:
    """This process's, without settings of ours and what colours or silences output, and with `changes`."""
    ours = ("NO_COLOR", "FORCE_COLOR")
    kept = {key: value for key, value in os.environ.items() if key not in ours and not key.startswith("RELAY_")}
    return {**kept, **changes}


def run(*arguments: str, stdin: str | None = None, **changes: str) -> subprocess.CompletedProcess[str]:
    """A command from its start to its end."""
    return subprocess.run(
        [command(arguments[0]), *arguments[1:]],
        input=stdin,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=PATIENCE_S,
        check=False,
        env=environment(**changes),
    )


def one_line_error(done: subprocess.CompletedProcess[str]) -> str:
    """The text of a user's error: one line, exit code 2, nothing else said."""
    assert done.returncode == 2, (done.stdout, done.stderr)
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    return line


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def free_ports(count: int) -> int:
    """The first of so many consecutive ports that were free a moment ago."""
    while True:
        first = free_port()
        with suppress(OSError), ExitStack() as probes:
            for port in range(first, first + count):
                probes.enter_context(socket.create_server((HOST, port)))
            return first


@dataclass
class NodeProcess:
    """A `relay-node` that said it is ready."""

    process: subprocess.Popen[str]
    address: str

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def wait(self) -> int:
        """The exit code."""
        return self.process.wait(PATIENCE_S)


@contextmanager
def node_process(bundle: Path, tier: str, *arguments: str, listen: str = f"{HOST}:0") -> Iterator[NodeProcess]:
    """One node in a process of its own, from its ready line on; killed at the end if it still runs."""
    process = start_node(bundle, tier, *arguments, listen=listen)
    try:
        assert process.stdout is not None
        ready = json.loads(first_line(process.stdout))
        assert ready["tier"] == tier
        yield NodeProcess(process, ready["address"])
    finally:
        process.kill()
        process.communicate()


def start_node(bundle: Path, tier: str, *arguments: str, listen: str) -> subprocess.Popen[str]:
    """A `relay-node --json` that may not be ready yet."""
    given = ["--tier", tier, "--bundle", str(bundle), "--listen", listen, "--threads", "1", "--json", *arguments]
    return subprocess.Popen(
        [command("relay-node"), *given],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment(),
    )


def first_line(stream: IO[str]) -> str:
    """The next line of a process, waited for at most `PATIENCE_S`."""
    lines: queue.Queue[str] = queue.Queue()
    threading.Thread(target=lambda: lines.put(stream.readline()), daemon=True).start()
    line = lines.get(timeout=PATIENCE_S)
    assert line, "the process ended without a line"
    return line


@contextmanager
def in_background(nodes: AbstractAsyncContextManager[T]) -> Iterator[T]:
    """Nodes on an event loop in a thread, for tests whose client blocks."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    def wait(work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, loop).result(PATIENCE_S)

    try:
        served = wait(nodes.__aenter__())
        try:
            yield served
        finally:
            wait(nodes.__aexit__(None, None, None))
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def eventually(holds: Callable[[], bool]) -> None:
    """Wait until a condition holds."""
    async with asyncio.timeout(PATIENCE_S):
        while not holds():
            await asyncio.sleep(0.005)


def until(holds: Callable[[], bool]) -> None:
    """Wait until a condition holds."""
    asyncio.run(eventually(holds))


class Gate:
    """Lets `free` pieces of work of an engine through and holds the others until it is opened, from any thread: a
    generation that is surely still under way.
    """

    def __init__(self, engine: Any, free: int = 0) -> None:
        self._run, self._free = engine.run, free
        self._opened = threading.Event()
        self.waiting = 0
        engine.run = self.pass_through

    async def pass_through(self, *work: Any, **options: Any) -> Any:
        self._free -= 1
        if self._free < 0:
            self.waiting += 1
            await eventually(self._opened.is_set)
        return await self._run(*work, **options)

    def open(self) -> None:
        self._opened.set()


def raw_error(call: Any) -> tuple[grpc.StatusCode, str, str]:
    """Status, `relay-code` and details of a call that is refused."""
    with pytest.raises(grpc.RpcError) as raised:
        list(call)
    error: Any = raised.value
    return error.code(), dict(error.trailing_metadata()).get(CODE_KEY, ""), error.details()


async def collect(stream: Any) -> list[Any]:
    """All that a stream yields."""
    return [token async for token in stream]


async def raw_generate(server: NodeServer, exit_: int) -> tuple[grpc.StatusCode, str, str]:
    """Status, `relay-code` and details of a generation that is refused, in the loop of the nodes."""
    request = pb.GenerateRequest(ids=pb.TokenIds(ids=[5]), policy=pb.Policy(exit=exit_))
    async with aio.insecure_channel(address(server)) as channel:
        with pytest.raises(aio.AioRpcError) as raised:
            await collect(rpc.RelayStub(channel).Generate(request))
    error = raised.value
    return error.code(), str(dict(error.trailing_metadata() or ()).get(CODE_KEY)), error.details() or ""
