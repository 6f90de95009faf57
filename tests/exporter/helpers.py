"""Runs graphs of a bundle over a history of calls."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from exporter.runner import GraphRunner
from family.manifest import Graph, load_manifest

F32 = npt.NDArray[np.float32]
I64 = npt.NDArray[np.int64]


class Bundle:
    """A bundle's graphs, and the rows at every boundary for some token ids, each graph run in one shot."""

    def __init__(self, folder: Path, ids: I64, threads: int = 2) -> None:
        self.folder = folder
        self.manifest = load_manifest(folder)
        self.threads = threads
        self.rows: list[F32 | I64] = [ids]
        for segment in self.manifest.spec.segments:
            graph = self.manifest.graph("segment", segment.index)
            self.rows.append(self.runner(graph).run(self.rows[-1], 0))

    def runner(self, graph: Graph, threads: int | None = None) -> GraphRunner:
        """The graph with empty buffers."""
        return GraphRunner(self.folder, graph, self.manifest.spec, threads or self.threads)

    def given(self, graph: Graph) -> F32 | I64:
        """What the graph reads: token ids, or rows."""
        return self.rows[graph.index - (graph.kind == "segment")]

    def one_shot(self, graph: Graph) -> F32:
        """The graph's output for all rows at once."""
        return self.runner(graph).run(self.given(graph), 0)

    def replay(self, runner: GraphRunner, calls: Iterable[tuple[int, int]]) -> F32:
        """The last output of every position after calls over rows start..stop."""
        given = self.given(runner.graph)
        spec = self.manifest.spec
        width = spec.vocab_size if runner.graph.kind == "exit" else spec.d_model
        out = np.full((len(given), width), np.nan, np.float32)
        for start, stop in calls:
            out[start:stop] = runner.run(given[start:stop], start)
            out[stop:] = np.nan  # going back forgets what was after
        return out


def chunks(sizes: Iterable[int], n: int) -> list[tuple[int, int]]:
    """Calls of these sizes, one after another, until n rows are done."""
    calls = []
    start = 0
    for size in sizes:
        stop = min(start + size, n)
        calls.append((start, stop))
        start = stop
        if start == n:
            break
    return calls


def wandering(seed: int, n: int) -> list[tuple[int, int]]:
    """Calls of random sizes that now and then go back and overwrite, and end with all n rows done."""
    rng = np.random.default_rng(seed)
    calls = []
    at = 0
    while at < n:
        stop = min(n, at + int(rng.integers(1, 10)))
        calls.append((at, stop))
        at = int(rng.integers(0, stop + 1)) if rng.random() < 0.3 and len(calls) < 60 else stop
    return calls
