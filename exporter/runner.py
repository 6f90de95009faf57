"""Runs one graph of a bundle on its own, through the engine that will serve it: for parity, quality and tests."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from family.manifest import Graph
from family.spec import FamilySpec
from relay.engine.graph import OrtExitView, OrtSegmentView, Work, open_graph

F32 = npt.NDArray[np.float32]
I64 = npt.NDArray[np.int64]


class GraphRunner:
    """A graph and its buffers."""

    def __init__(self, bundle: Path, graph: Graph, spec: FamilySpec, threads: int = 2) -> None:
        self.graph = graph
        kind = OrtExitView if graph.kind == "exit" else OrtSegmentView
        self._view = kind(open_graph(bundle, graph, threads), graph, spec, Work())

    def run(self, rows: F32 | I64, position: int, wanted: I64 | None = None) -> F32:
        """Consume ids [q] or rows [q, d_model] from `position` on; gives rows [q, d_model] or logits [w, vocab].

        `wanted` are the indices into `rows` whose logits are asked of an exit; all of them by default.
        """
        if isinstance(self._view, OrtSegmentView):
            return self._view.run(rows, position)
        indices = np.arange(len(rows)) if wanted is None else wanted
        return self._view.logits(rows.astype(np.float32, copy=False), position, indices)
