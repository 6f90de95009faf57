"""The least that a device tier at exit 1 can do: segment 1 and exit 1 in ONNX Runtime, bound once, called in a loop.

A turn's `processor_s` is the processor time of its decode. Settings: `threads`.
"""

import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.protocol import serve
from family import graphs
from family.manifest import Graph, Manifest, load_manifest
from relay.engine.graph import open_graph

CPU = "cpu"


class Bound:
    """A graph and the memory that it is bound to."""

    def __init__(self, bundle: Path, graph: Graph, manifest: Manifest, threads: int, context: int) -> None:
        spec = manifest.spec
        self.session = open_graph(bundle, graph, threads)
        self.binding = self.session.io_binding()
        self.seqlens = np.zeros(1, np.int32)
        self.total = np.zeros((), np.int32)
        self.has_cache = graph.kv_layers > 0
        shape = (1, spec.kv_heads, context + 1, spec.head_dim)
        self.caches = np.zeros((graph.kv_layers, 2, *shape), np.float32)
        for layer in range(graph.kv_layers):
            names = zip(graphs.past_names(layer), graphs.present_names(layer), self.caches[layer], strict=True)
            for past, present, cache in names:
                self.binding.bind_input(past, CPU, 0, np.float32, shape, cache.ctypes.data)
                self.binding.bind_output(present, CPU, 0, np.float32, shape, cache.ctypes.data)
        if self.has_cache:
            self.read(graphs.SEQLENS_K, self.seqlens)
            self.read(graphs.TOTAL, self.total)

    def read(self, name: str, array: np.ndarray[Any, Any]) -> None:
        self.binding.bind_input(name, CPU, 0, array.dtype, array.shape, array.ctypes.data)

    def write(self, name: str, array: np.ndarray[Any, Any]) -> None:
        self.binding.bind_output(name, CPU, 0, array.dtype, array.shape, array.ctypes.data)

    def take(self, count: int) -> None:
        """Forwards are of `count` rows from now on, and attention's dummy."""
        if self.has_cache:
            rows = np.arange(count)
            self.lying: tuple[np.ndarray[Any, Any], ...] = (
                np.array([count + 1], np.int32),
                np.append(rows, count - 1)[None],
                rows[None],
            )
            for name, array in zip(
                (graphs.QUERY_SEQLENS, graphs.PADDED_ROWS, graphs.TRUE_ROWS), self.lying, strict=True
            ):
                self.read(name, array)

    def run(self, total: int) -> None:
        """One forward that ends at `total` positions."""
        self.seqlens[0] = total
        self.total[()] = total + 1
        self.session.run_with_iobinding(self.binding)


class Bare:
    """The loop."""

    def open(self, request: dict[str, Any]) -> dict[str, Any]:
        """Open both graphs."""
        bundle, threads, context = (
            Path(request["model"]),
            request["settings"]["threads"],
            request["settings"]["context"],
        )
        manifest = load_manifest(bundle)
        self._spec = manifest.spec
        self._segment, self._exit = (
            Bound(bundle, manifest.graph(kind, 1), manifest, threads, context) for kind in ("segment", "exit")
        )
        return {"version": "bare"}

    def turn(self, request: dict[str, Any]) -> dict[str, Any]:
        """Read the prompt, then decode."""
        token = self._forward(request["ids"], len(request["ids"]))
        started = time.process_time()
        ids = [token]
        step = self._bind(1)
        for total in range(len(request["ids"]) + 1, len(request["ids"]) + 1 + request["tokens"]):
            step[0][0, 0] = ids[-1]
            self._segment.run(total)
            self._exit.run(total)
            ids.append(int(step[1].argmax()))
        return {"processor_s": time.process_time() - started, "ids": ids}

    def _forward(self, ids: list[int], total: int) -> int:
        given, logits = self._bind(len(ids))
        given[0] = ids
        self._segment.run(total)
        self._exit.run(total)
        return int(logits.argmax())

    def _bind(self, count: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Arrays (1, count) of ids and (1, vocab_size) of the last row's logits, bound to both graphs."""
        given, wanted = np.zeros((1, count), np.int64), np.array([count - 1], np.int64)
        rows = np.empty((1, count, self._spec.d_model), np.float32)
        logits = np.empty((1, self._spec.vocab_size), np.float32)
        self._held = (given, wanted, rows, logits)
        """The bindings hold pointers only."""
        self._segment.take(count)
        self._exit.take(count)
        self._segment.read(graphs.INPUT_IDS, given)
        self._segment.write(graphs.ROWS_OUT, rows)
        self._exit.read(graphs.ROWS_IN, rows)
        self._exit.read(graphs.WANTED, wanted)
        self._exit.write(graphs.LOGITS, logits)
        return given, logits


if __name__ == "__main__":
    bare = Bare()
    serve({"open": bare.open, "turn": bare.turn})
