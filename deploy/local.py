"""A relay of real `relay-node` processes on this machine, for the demo and the benchmarks."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from family.errors import FamilialError
from family.manifest import Manifest

READY_S = 120.0


class NodeFailedError(FamilialError):
    """A node did not start; the text is the node's own."""


@asynccontextmanager
async def node(bundle: Path, tier: str, upstream: str | None, *options: str) -> AsyncIterator[str]:
    """A `relay-node` process on a free port; gives its address, and stops it."""
    command = [sys.executable, "-m", "relay.cli.node", "--tier", tier, "--bundle", str(bundle), "--json"]
    command += ["--listen", "localhost:0", *(["--upstream", upstream] if upstream else []), *options]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=pipe)
    assert process.stdout is not None and process.stderr is not None
    try:
        async with asyncio.timeout(READY_S):
            ready = await process.stdout.readline()
        if not ready:
            raise NodeFailedError((await process.stderr.read()).decode().strip() or f"the {tier} node did not start")
        yield json.loads(ready)["address"]
    finally:
        if process.returncode is None:
            process.terminate()
        await process.communicate()


@asynccontextmanager
async def chain(bundle: Path, manifest: Manifest) -> AsyncIterator[str]:
    """One process per tier, started from the last to the first; gives the entry node's address."""
    async with AsyncExitStack() as stack:
        upstream: str | None = None
        for tier in reversed(list(manifest.tiers)):
            upstream = await stack.enter_async_context(node(bundle, tier, upstream))
        assert upstream is not None
        yield upstream
