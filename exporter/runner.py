"""Runs one graph of a bundle on its own, through the engine that will serve it: for parity, quality and tests."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from family.manifest import Graph
from family.spec import FamilySpec
from relay.engine.graph import OrtGraph, OrtView
from relay.views import Forward

F32 = npt.NDArray[np.float32]
I64 = npt.NDArray[np.int64]


class GraphRunner:
    """A graph and its buffers."""

    def __init__(self, bundle: Path, graph: Graph, spec: FamilySpec, threads: int = 2) -> None:
        self.graph = graph
        self._opened = OrtGraph(bundle, graph, spec, threads, slots=1)
        self._view = OrtView(self._opened)

    def run(self, rows: F32 | I64, position: int, wanted: I64 | None = None) -> F32:
        """Consume ids [q] or rows [q, d_model] from `position` on; gives rows [q, d_model] or logits [w, vocab].

        `wanted` are the indices into `rows` whose logits are asked of an exit; all of them by default.
        """
        if wanted is None:
            return self._view.run(rows, position, len(rows))
        return self._opened.wanted(Forward(self._view, rows, position), wanted)
