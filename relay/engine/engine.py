"""`BundleEngine`: the segments and exits that one node serves, and the thread that runs them."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import onnxruntime as ort

from family.manifest import Graph, Manifest, verify_files
from relay.engine.graph import OrtExitView, OrtSegmentView, Work, open_graph

T = TypeVar("T")


class BundleEngine:
    """Opens only the files of its own segments and exits. Raises `family.BundleError` for one not as written."""

    def __init__(self, bundle: Path, manifest: Manifest, segments: tuple[int, ...], threads: int) -> None:
        graphs = [manifest.graph(kind, index) for index in segments for kind in ("segment", "exit")]
        verify_files(manifest, bundle, sorted({name for graph in graphs for name in graph.files}))
        self.segments = segments
        self.d_model = manifest.spec.d_model
        self._spec = manifest.spec
        self._opened: dict[str, tuple[ort.InferenceSession, Graph]] = {
            graph.name: (open_graph(bundle, graph, threads), graph) for graph in graphs
        }
        self.work = {graph.name: Work() for graph in graphs}
        """What each graph computed since the start."""
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="engine")
        self._pending = set[Future[Any]]()
        """Forwards that wait for the thread or run on it, those that nobody waits for any more too."""

    def open_segment(self, index: int) -> OrtSegmentView:
        """A fresh view of segment `index`."""
        name = f"segment-{index}"
        return OrtSegmentView(*self._opened[name], self._spec, self.work[name])

    def open_exit(self, index: int) -> OrtExitView:
        """A fresh view of exit `index`."""
        name = f"exit-{index}"
        return OrtExitView(*self._opened[name], self._spec, self.work[name])

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
