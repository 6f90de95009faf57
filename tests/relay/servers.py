"""Real nodes on free ports of this machine, in the test's own event loop."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from relay.client.aio import AsyncRelayClient
from relay.client.types import GenerateOptions, Prompt, Token
from relay.node.config import NodeConfig
from relay.node.serve import NodeServer

HOST = "127.0.0.1"


def config(bundle: Path, tier: str, upstream: NodeServer | None = None, **overrides: Any) -> NodeConfig:
    """A test's node: one thread, no waiting when it stops."""
    settings: dict[str, Any] = {
        "listen": f"{HOST}:0",
        "threads": 1,
        "drain_s": 0.0,
        "upstream": address(upstream) if upstream else None,
    }
    return NodeConfig(tier=tier, bundle=bundle, **{**settings, **overrides})


def address(server: NodeServer) -> str:
    return f"{HOST}:{server.port}"


@asynccontextmanager
async def running(config: NodeConfig) -> AsyncIterator[NodeServer]:
    """One node."""
    server = NodeServer(config)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


@dataclass(frozen=True)
class Chain:
    device: NodeServer
    edge: NodeServer
    cloud: NodeServer

    def sessions(self) -> list[int]:
        return [len(server.node.sessions) for server in (self.device, self.edge, self.cloud)]


@asynccontextmanager
async def chain(bundle: Path, **overrides: Any) -> AsyncIterator[Chain]:
    """Device, edge and cloud, one segment each."""
    async with (
        running(config(bundle, "cloud", **overrides)) as cloud,
        running(config(bundle, "edge", cloud, **overrides)) as edge,
        running(config(bundle, "device", edge, **overrides)) as device,
    ):
        yield Chain(device, edge, cloud)


@asynccontextmanager
async def single(bundle: Path, **overrides: Any) -> AsyncIterator[NodeServer]:
    """All segments in one process: the reference."""
    async with running(config(bundle, "all", segments=(1, 2, 3), **overrides)) as server:
        yield server


async def text(server: NodeServer, prompt: Prompt, **options: Any) -> list[Token]:
    """All tokens of one generation."""
    async with AsyncRelayClient(address(server)) as client:
        return [token async for token in client.generate(prompt, **GenerateOptions(**options))]
