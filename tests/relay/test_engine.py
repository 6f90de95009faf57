"""Where the engine runs forwards: one at a time, whoever asked and whoever still waits."""

import asyncio
import threading
from pathlib import Path

from family.manifest import load_manifest
from relay.engine.engine import BundleEngine
from tests.relay.processes import PATIENCE_S


def test_short_work_runs_at_once_only_while_nothing_else_is_at_work(tiny_bundle: Path) -> None:
    engine = BundleEngine(tiny_bundle, load_manifest(tiny_bundle), (1,), threads=1)
    begun, go_on, order = threading.Event(), threading.Event(), list[str]()

    def long() -> None:
        begun.set()
        assert go_on.wait(PATIENCE_S)
        order.append("long")

    async def scenario() -> None:
        here = threading.current_thread()
        assert await engine.run(threading.current_thread, short=True) is here
        assert await engine.run(threading.current_thread, short=False) is not here
        waiting = asyncio.ensure_future(engine.run(long, short=False))
        await asyncio.to_thread(begun.wait)
        waiting.cancel()  # nobody waits for it any more, but it is at work
        short = asyncio.ensure_future(engine.run(lambda: order.append("short"), short=True))
        await asyncio.gather(waiting, return_exceptions=True)
        assert order == []
        go_on.set()
        await short
        assert order == ["long", "short"]

    asyncio.run(scenario())
    engine.close()
