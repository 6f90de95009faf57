"""`BundleEngine`: the segments and exits that one node serves, and the thread that runs them."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import onnxruntime as ort

from family.manifest import Graph, Manifest, verify_files
from relay.engine.graph import OrtExitView, OrtSegmentView, open_graph

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
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="engine")

    def open_segment(self, index: int) -> OrtSegmentView:
        """A fresh view of segment `index`."""
        return OrtSegmentView(*self._opened[f"segment-{index}"], self._spec)

    def open_exit(self, index: int) -> OrtExitView:
        """A fresh view of exit `index`."""
        return OrtExitView(*self._opened[f"exit-{index}"], self._spec)

    async def run(self, forward: Callable[[], T]) -> T:
        """Call `forward` on the engine's thread and wait for it."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, forward)

    def close(self) -> None:
        """Wait for the forward that is under way and stop the thread."""
        self._thread.shutdown(wait=True, cancel_futures=True)
