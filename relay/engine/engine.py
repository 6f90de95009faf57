"""`BundleEngine`: the segments and exits that one node serves, and the thread that runs them."""

from pathlib import Path
from typing import TypeVar

from family.manifest import Manifest, verify_files
from relay.engine.graph import OrtGraph, OrtView
from relay.engine.worker import Worker
from relay.views import Work

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
        self._worker = Worker()

    def open_segment(self, index: int) -> OrtView:
        """A fresh view of segment `index`."""
        return OrtView(self._opened[f"segment-{index}"])

    def open_exit(self, index: int) -> OrtView:
        """A fresh view of exit `index`."""
        return OrtView(self._opened[f"exit-{index}"])

    async def run(self, work: Work[T], owner: object, *, at_once: bool = True) -> tuple[T, float]:
        """Do an owner's work, together with that of others, as `relay.views.Engine` says."""
        return await self._worker.run(work, owner, at_once=at_once)

    def leave(self, owner: object) -> None:
        """An owner's text is over, as `relay.views.Engine` says."""
        self._worker.leave(owner)

    def forget_work(self) -> None:
        """Count from here on."""
        for work in self.work.values():
            work.rows = work.logits = 0

    def close(self) -> None:
        """Wait for the forward that is under way and stop the thread; who still waits is cancelled."""
        self._worker.close()
