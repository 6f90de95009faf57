"""One ONNX graph of a bundle, and the views that sessions open on it."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, chain, pairwise
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from family.errors import BundleError
from family.graphs import (
    INPUT_IDS,
    LOGITS,
    PADDED_ROWS,
    QUERY_SEQLENS,
    ROWS_IN,
    ROWS_OUT,
    SEQLENS_K,
    TOTAL,
    TRUE_ROWS,
    WANTED,
)
from family.manifest import Graph
from family.spec import FamilySpec
from relay.batch import MOST_ROWS
from relay.engine.pool import CPU, KvPool
from relay.log import Rows, pieces
from relay.messages import Logits
from relay.views import Forward, Made

Inputs = dict[str, NDArray[np.generic]]


def session_options(threads: int) -> ort.SessionOptions:
    """How graphs run here. Threads stop spinning after each forward, so several graphs share the cores."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.log_severity_level = 3
    return options


def open_graph(bundle: Path, graph: Graph, threads: int) -> ort.InferenceSession:
    """Open a graph's files. Raises `family.BundleError` if this ONNX Runtime cannot."""
    path = bundle / graph.files[0]
    try:
        return ort.InferenceSession(str(path), session_options(threads), providers=["CPUExecutionProvider"])
    except Exception as error:  # its kinds share no other base
        reason = " ".join(str(error).split())
        raise BundleError(
            f"{path}: onnxruntime {ort.__version__} cannot open it; install the version that the manifest's tools "
            f"name, or export the bundle again ({reason})"
        ) from None


@dataclass
class Computed:
    """What a graph computed for all its views."""

    rows: int = 0
    logits: int = 0
    """Of an exit: rows whose logits were wanted."""


class OrtGraph:
    """A segment or an exit in ONNX Runtime, with room for the keys and values of `slots` sessions."""

    def __init__(self, bundle: Path, graph: Graph, spec: FamilySpec, threads: int, slots: int) -> None:
        self.has_cache = graph.kv_layers > 0
        self.is_exit = graph.kind == "exit"
        self.computed = Computed()
        self._session = open_graph(bundle, graph, threads)
        self.pool = KvPool(self._session, graph.kv_layers, spec, slots)
        self._input = INPUT_IDS if graph.name == "segment-1" else ROWS_IN
        self._width = spec.vocab_size if self.is_exit else spec.d_model

    def run(self, batch: Sequence[Forward]) -> list[Made]:
        """One forward of several views, each with at most `MOST_ROWS` rows; what each makes."""
        counts = ends = list(accumulate(len(forward.rows) for forward in batch))
        wanted = None
        if self.is_exit:
            places = [range(end - forward.wanted, end) for forward, end in zip(batch, ends, strict=True)]
            wanted = np.fromiter(chain.from_iterable(places), np.int64)
            counts = list(accumulate(forward.wanted for forward in batch))
        made = self._run(batch, wanted)
        return [made[start:stop] for start, stop in pairwise([0, *counts])]

    def wanted(self, forward: Forward, wanted: NDArray[np.int64]) -> Logits:
        """An exit's logits of any indices into one view's rows."""
        return self._run([forward], wanted)

    def _run(self, batch: Sequence[Forward], wanted: NDArray[np.int64] | None) -> Made:
        rows = batch[0].rows if len(batch) == 1 else np.concatenate([forward.rows for forward in batch])
        inputs: Inputs = {self._input: np.ascontiguousarray(rows)[None]}
        slots = [forward.view.slot for forward in batch]  # type: ignore[attr-defined]
        first, stop = min(slots), max(slots) + 1
        if self.has_cache:
            inputs |= by_sequence(batch, [slot - first for slot in slots], stop - first)
        if wanted is None:
            output, made = ROWS_OUT, np.empty((len(rows), self._width), np.float32)
        else:
            output, made = LOGITS, np.empty((len(wanted), self._width), np.float32)
            inputs[WANTED] = wanted
        out = made[None] if wanted is None else made
        binding = self.pool.binding(first, stop)
        for name, array in inputs.items():
            binding.bind_cpu_input(name, array)
        binding.bind_output(output, CPU, 0, np.float32, out.shape, out.ctypes.data)
        self._session.run_with_iobinding(binding)
        self.computed.rows += len(rows)
        self.computed.logits += 0 if wanted is None else len(wanted)
        return made


def by_sequence(batch: Sequence[Forward], places: Sequence[int], count: int) -> Inputs:
    """Attention's inputs: forward i is sequence `places[i]` of `count`, the others take no part."""
    seqlens = np.zeros(count, np.int32)
    for forward, place in zip(batch, places, strict=True):
        seqlens[place] = forward.past + len(forward.rows)
    lying = _lying(tuple(len(forward.rows) for forward in batch), tuple(places), count)
    return {SEQLENS_K: seqlens, TOTAL: np.array(seqlens.max() + 1, np.int32), **lying}


@lru_cache(256)
def _lying(rows: tuple[int, ...], places: tuple[int, ...], count: int) -> Inputs:
    """Where so many rows of each sequence lie among all, and where in attention; each one's dummy is its last row."""
    longest = max(rows) + 1
    queries = np.zeros(count, np.int32)
    padded = np.zeros((count, longest), np.int64)
    true = []
    for new, place, end in zip(rows, places, accumulate(rows), strict=True):
        queries[place] = new + 1
        padded[place, : new + 1] = *range(end - new, end), end - 1
        true.append(np.arange(place * longest, place * longest + new))
    return {QUERY_SEQLENS: queries, PADDED_ROWS: padded, TRUE_ROWS: np.concatenate(true)[None]}


class OrtView:
    """A segment's or an exit's view for one session."""

    def __init__(self, graph: OrtGraph) -> None:
        self.graph = graph
        self.has_cache = graph.has_cache
        self.slot = graph.pool.take(self)

    def run(self, rows: Rows | NDArray[np.int64], past: int, wanted: int = 0) -> Made:
        """Consume rows (q, d_model), or ids (q,) of segment 1, at positions past.., alone.

        Gives rows (q, d_model), or of an exit the logits of the last `wanted`.
        """
        whole = Forward(self, rows, past, wanted)
        parts = [self.graph.run([whole.part(*piece)])[0] for piece in pieces(0, len(rows), MOST_ROWS)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)
