"""A relay of real `relay-node` processes on this machine, for the demo and the benchmarks."""

import asyncio
import json
import os
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import IO

from family.errors import FamilialError
from family.manifest import Manifest

READY_S = 120.0
"""A node verifies its files and tests itself before it is ready."""
STOP_S = 40.0
"""A node that stops finishes its texts first, for up to 30 s by default."""


class NodeFailedError(FamilialError):
    """A node did not start; the text is the node's own where it gave one."""


@asynccontextmanager
async def node(bundle: Path, tier: str, upstream: str | None, *options: str) -> AsyncIterator[str]:
    """A `relay-node` process on a free port; gives its address, and stops it. Raises `NodeFailedError`."""
    command = [sys.executable, "-m", "relay.cli.node", "--tier", tier, "--bundle", str(bundle), "--json"]
    command += ["--config", os.devnull, "--listen", "localhost:0"]
    command += [*(["--upstream", upstream] if upstream else []), *options]
    with tempfile.TemporaryFile() as log:  # not a pipe: nobody reads it while the node runs
        process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, stderr=log, env=_without_settings()
        )
        try:
            yield await _address(process, tier, log)
        finally:
            await _stop(process)


def _without_settings() -> dict[str, str]:
    """This process's environment, without the user's settings of another node."""
    return {name: value for name, value in os.environ.items() if not name.startswith("RELAY_")}


async def _address(process: asyncio.subprocess.Process, tier: str, log: IO[bytes]) -> str:
    """Where the node listens, once it is ready."""
    assert process.stdout is not None
    try:
        async with asyncio.timeout(READY_S):
            ready = await process.stdout.readline()
    except TimeoutError:
        process.kill()  # it would hear a polite request only once it is ready
        raise NodeFailedError(f"the {tier} node was not ready after {READY_S:.0f} s") from None
    if not ready:
        await process.wait()
        log.seek(0)
        *_, said = ["", *log.read().decode(errors="replace").splitlines()]
        raise NodeFailedError(said.removeprefix("error: ") or f"the {tier} node did not start")
    address: str = json.loads(ready)["address"]
    return address


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.terminate()
    try:
        async with asyncio.timeout(STOP_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


@asynccontextmanager
async def chain(bundle: Path, manifest: Manifest, listen: str = "localhost:0") -> AsyncIterator[str]:
    """One process per tier, started from the last to the first; gives the entry node's address, which is `listen`'s."""
    entry, *others = manifest.tiers
    async with AsyncExitStack() as stack:
        upstream: str | None = None
        for tier in reversed(others):
            upstream = await stack.enter_async_context(node(bundle, tier, upstream))
        yield await stack.enter_async_context(node(bundle, entry, upstream, "--listen", listen))
