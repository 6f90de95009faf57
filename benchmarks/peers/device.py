"""What the relay adds on a device: processor time per token of its node at exit 1, beside a bare loop's."""

import asyncio
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from statistics import median

import psutil

from benchmarks.peers.child import Child, processor_s
from deploy.local import node
from family.manifest import Manifest
from relay.client.aio import AsyncRelayClient
from relay.policy import FixedExit


async def overhead(
    bundle: Path,
    manifest: Manifest,
    prompt: Sequence[int],
    tokens: int,
    rounds: int,
    threads: int,
    alone: Callable[[], AbstractContextManager[None]],
) -> dict[str, float]:
    """Medians of processor ms per decoded token, of the node's process (gRPC and text included) and of the loop's."""
    tier = next(iter(manifest.tiers))
    running = set(psutil.Process().children())
    settings = {"threads": threads, "context": len(prompt) + tokens}
    ours, bare = [], []
    with Child("bare loop", "bare", Path(sys.executable)) as loop:
        loop.ask("open", model=str(bundle), settings=settings)
        async with node(bundle, tier, None) as address, AsyncRelayClient(address) as client:
            (process,) = (p for p in psutil.Process().children() if p not in running and p.pid != loop.pid)
            for _ in range(1 + rounds):
                with alone():
                    ours.append(await _node_ms(client, process.pid, prompt, tokens))
                    turn = await asyncio.to_thread(loop.ask, "turn", ids=list(prompt), tokens=tokens)
                    bare.append(turn["processor_s"] / tokens * 1e3)
    return {"device_cpu_ms": round(median(ours[1:]), 3), "bare_cpu_ms": round(median(bare[1:]), 3)}


async def _node_ms(client: AsyncRelayClient, pid: int, prompt: Sequence[int], tokens: int) -> float:
    """Processor ms per token that a node's process uses between its first token and its last."""
    started = 0.0
    async for token in client.generate(list(prompt), policy=FixedExit(1), max_tokens=1 + tokens, ignore_stop=True):
        started = started or processor_s(pid)
        assert token.exit == 1
    return (processor_s(pid) - started) / tokens * 1e3
