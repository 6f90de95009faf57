"""Times of whole texts through real nodes on this machine, and what these hold in memory.

The first node has segment 1, the second the rest, and their link is the loopback: what a text takes beyond its forwards
is what a node, its client and a message cost.
"""

import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import chain
from pathlib import Path
from statistics import median

import numpy as np

from family.manifest import Manifest
from family.profile import NodeMemory, TextTime
from relay.batch import SHORT_ROWS
from relay.client.aio import AsyncRelayClient
from relay.client.types import Node
from relay.errors import ConfigurationError
from relay.names import Codec
from relay.policy import FixedExit

SHORT, LONG = (16, 24), (256, 4)
"""Tokens of a prompt and of the text after it: where the steps show, and where the rows do."""
SESSIONS = 4
"""Texts at a time, where there are several."""
REPEATS = 3
"""Texts of each kind, twice as many where they are short."""


async def measure_texts(
    bundle: Path, manifest: Manifest, threads: int
) -> tuple[tuple[TextTime, ...], tuple[NodeMemory, ...]]:
    """The texts, and the memory of nodes before any of them: of each segment alone, and of all together."""
    depth = manifest.spec.granularity
    alone = [str(segment.index) for segment in manifest.spec.segments]
    async with AsyncExitStack() as stack:
        started = [stack.enter_async_context(_node(bundle, s, threads, None)) for s in [*alone, f"1-{depth}"][1:]]
        clients = [AsyncRelayClient(address) for address in await asyncio.gather(*started)]
        memory = [_memory(*await client.describe()) for client in clients]
        for client in clients:
            await client.close()
    async with AsyncExitStack() as stack:
        rest = await stack.enter_async_context(_node(bundle, f"2-{depth}", threads, None)) if depth > 1 else None
        entry = await stack.enter_async_context(_node(bundle, "1", threads, rest))
        client = await stack.enter_async_context(AsyncRelayClient(entry))
        memory += [_memory(node) for node in await client.describe()]
        return await _texts(client, manifest), tuple(sorted(set(memory), key=lambda m: m.segments))


def _memory(node: Node) -> NodeMemory:
    return NodeMemory(node.segments, node.rss_bytes)


async def _texts(client: AsyncRelayClient, manifest: Manifest) -> tuple[TextTime, ...]:
    depth = manifest.spec.granularity
    long = [LONG] if manifest.spec.context >= sum(LONG) else []
    kinds = [(exit_, "f32", size) for exit_ in sorted({1, depth}) for size in (SHORT, *long)]
    kinds += [(depth, codec.label, size) for codec in (Codec.INT8, Codec.INT4) for size in long if depth > 1]
    rng = np.random.default_rng(0)
    found = []
    await _text(client, [0], 2, depth, "f32")
    for exit_, codec, (prompt, tokens) in kinds:
        times = []
        is_long = prompt > SHORT_ROWS
        for _ in range(REPEATS if is_long else 2 * REPEATS):
            ids = rng.integers(0, manifest.spec.vocab_size, prompt).tolist()
            times.append(await _text(client, ids, tokens, exit_, codec))
        ttft_ms, tpot_ms = (round(median(values), 4) for values in zip(*times, strict=True))
        found.append(TextTime(1, exit_, codec, prompt, tokens, ttft_ms, tpot_ms))
    together = [await _together(client, manifest.spec.vocab_size) for _ in range(REPEATS)]
    ttft_ms, tpot_ms = (round(median(values), 4) for values in zip(*together, strict=True))
    found.append(TextTime(1, 1, "f32", *SHORT, ttft_ms, tpot_ms, SESSIONS))
    return tuple(found)


async def _together(client: AsyncRelayClient, vocab_size: int) -> tuple[float, float]:
    """Several texts of the first exit, begun at once; from the last one's first token to the first one's last."""
    rng = np.random.default_rng(0)
    prompt, tokens = SHORT

    async def one() -> list[float]:
        ids = rng.integers(0, vocab_size, prompt).tolist()
        stream = client.generate(ids, policy=FixedExit(1), max_tokens=tokens, ignore_stop=True)
        return [time.perf_counter() async for _ in stream]

    started = time.perf_counter()
    came = await asyncio.gather(*(one() for _ in range(SESSIONS)))
    begin, end = max(times[0] for times in came), min(times[-1] for times in came)
    steps = sum(begin < moment <= end for times in came for moment in times) / SESSIONS
    return (begin - started) * 1e3, (end - begin) * 1e3 / steps


async def _text(client: AsyncRelayClient, ids: list[int], tokens: int, exit_: int, codec: str) -> tuple[float, float]:
    """Time to the first token, and mean time from one to the next; in ms."""
    started = time.perf_counter()
    came = []
    options = {"policy": FixedExit(exit_), "max_tokens": tokens, "ignore_stop": True, "codec": codec}
    async for _ in client.generate(ids, **options):  # type: ignore[arg-type]
        came.append((time.perf_counter() - started) * 1e3)
    return came[0], (came[-1] - came[0]) / (len(came) - 1)


@asynccontextmanager
async def _node(bundle: Path, segments: str, threads: int, upstream: str | None) -> AsyncIterator[str]:
    """A node of its own process on a free port; its address."""
    settings = {
        "--tier": f"profile-{segments}",
        "--bundle": str(bundle),
        "--segments": segments,
        "--threads": str(threads),
        "--listen": "localhost:0",
        "--config": os.devnull,
    }
    command = [sys.executable, "-m", "relay.cli.node", "--json", *chain.from_iterable(settings.items())]
    command += ["--upstream", upstream] if upstream else []
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RELAY_")}
    with tempfile.TemporaryFile() as said:
        process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, stderr=said, env=environment
        )
        try:
            assert process.stdout is not None
            line = await process.stdout.readline()
            if not line:
                said.seek(0)
                reason = said.read().decode(errors="replace").strip().splitlines()[-1:] or ["it said nothing"]
                raise ConfigurationError(f"a node to profile did not start: {reason[0].removeprefix('error: ')}")
            yield json.loads(line)["address"]
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()
