"""`BundleEngine`: the segments and exits that one node serves, and the thread that runs them."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from family.manifest import Manifest, verify_files
from relay.engine.graph import OrtGraph, OrtView

T = TypeVar("T")
_SPARE = 8
"""Slots for the self-test. Each session may take two: one that is closed keeps its own until its last forward is over.
"""


class BundleEngine:
    """Opens only the files of its own segments and exits. Raises `family.BundleError` for one not as written."""

    def __init__(
        self, bundle: Path, manifest: Manifest, segments: tuple[int, ...], threads: int, sessions: int = 64
    ) -> None:
        """`sessions` is how many can be open at a time."""
        graphs = [manifest.graph(kind, index) for index in segments for kind in ("segment", "exit")]
        verify_files(manifest, bundle, sorted({name for graph in graphs for name in graph.files}))
        self.segments = segments
        self.d_model = manifest.spec.d_model
        slots = 2 * sessions + _SPARE
        self._opened = {graph.name: OrtGraph(bundle, graph, manifest.spec, threads, slots) for graph in graphs}
        self.work = {name: graph.computed for name, graph in self._opened.items()}
        """What each graph computed since the start."""
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="engine")
        self._pending = set[Future[Any]]()
        """Forwards that wait for the thread or run on it, those that nobody waits for any more too."""

    def open_segment(self, index: int) -> OrtView:
        """A fresh view of segment `index`."""
        return OrtView(self._opened[f"segment-{index}"])

    def open_exit(self, index: int) -> OrtView:
        """A fresh view of exit `index`."""
        return OrtView(self._opened[f"exit-{index}"])

    async def run(self, forward: Callable[[], T], *, short: bool) -> T:
        """Call `forward` on the engine's thread and wait for it.

        A short one is called at once if the thread is idle, which spares two changes of thread.
        """
        if short and not self._pending:
            return forward()
        future = self._thread.submit(forward)
        self._pending.add(future)
        future.add_done_callback(self._pending.discard)
        return await asyncio.wrap_future(future)

    def forget_work(self) -> None:
        """Count from here on."""
        for work in self.work.values():
            work.rows = work.logits = 0

    def close(self) -> None:
        """Wait for the forward that is under way and stop the thread."""
        self._thread.shutdown(wait=True, cancel_futures=True)
