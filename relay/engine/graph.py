"""One ONNX graph of a bundle and the views that sessions open on it.

Key and value buffers belong to the view; the graph reads and writes them in place. They have one slot more than the
context, for attention's dummy row. Memory is taken by the system only where a position was written.
"""

import math
import mmap
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from family.errors import BundleError
from family.graphs import (
    INPUT_IDS,
    LOGITS,
    ROWS_IN,
    ROWS_OUT,
    SEQLENS_K,
    TOTAL,
    WANTED,
    past_names,
    present_names,
)
from family.manifest import Graph
from family.spec import FamilySpec
from relay.log import Rows
from relay.messages import Logits

_CPU = "cpu"


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


def _reserve(shape: tuple[int, ...]) -> NDArray[np.float32]:
    """An array whose pages the system gives when they are first written: a session costs what it holds, no more.

    Not `np.empty`, which asks for huge pages: one position of every head would then cost two megabytes.
    """
    count = math.prod(shape)
    if count == 0:
        return np.empty(shape, np.float32)
    pages = mmap.mmap(-1, count * np.dtype(np.float32).itemsize)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        pages.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(pages, np.float32).reshape(shape)


class _Cache:
    """The key and value buffers of one view, bound to a graph once."""

    def __init__(self, session: ort.InferenceSession, kv_layers: int, spec: FamilySpec) -> None:
        self.binding = session.io_binding()
        shape = (1, spec.kv_heads, spec.context + 1, spec.head_dim)
        self._buffers = _reserve((kv_layers, 2, *shape))
        """Kept: the binding holds pointers into it."""
        for layer in range(kv_layers):
            for past, present, buffer in zip(
                past_names(layer), present_names(layer), self._buffers[layer], strict=True
            ):
                pointer = buffer.ctypes.data
                self.binding.bind_input(past, _CPU, 0, np.float32, shape, pointer)
                self.binding.bind_output(present, _CPU, 0, np.float32, shape, pointer)
        self._session = session
        self._has_attention = kv_layers > 0

    def run(self, inputs: dict[str, NDArray[np.generic]], output: str, out: NDArray[np.float32], total: int) -> None:
        """One forward over positions up to `total` - 1 into `out`."""
        if self._has_attention:
            inputs[SEQLENS_K] = np.array([total - 1], np.int32)
            inputs[TOTAL] = np.array(total, np.int32)
        for name, array in inputs.items():
            self.binding.bind_cpu_input(name, array)
        self.binding.bind_output(output, _CPU, 0, np.float32, out.shape, out.ctypes.data)
        self._session.run_with_iobinding(self.binding)


@dataclass
class Work:
    """What a graph computed for all its views."""

    rows: int = 0
    logits: int = 0
    """Of an exit: rows whose logits were wanted."""


class OrtSegmentView:
    """A trunk segment's view for one session."""

    def __init__(self, session: ort.InferenceSession, graph: Graph, spec: FamilySpec, work: Work) -> None:
        self._work = work
        self._cache = _Cache(session, graph.kv_layers, spec)
        self._input = INPUT_IDS if graph.index == 1 else ROWS_IN
        self._d_model = spec.d_model

    def run(self, rows: Rows | NDArray[np.int64], past: int) -> Rows:
        """Consume rows (q, d_model), or ids (q,) for segment 1, at positions past..; returns (q, d_model)."""
        count = len(rows)
        out = np.empty((1, count, self._d_model), np.float32)
        self._cache.run({self._input: np.ascontiguousarray(rows)[None]}, ROWS_OUT, out, past + count)
        self._work.rows += count
        made: Rows = out[0]
        return made


class OrtExitView:
    """An exit's view for one session: branch, norm and head."""

    def __init__(self, session: ort.InferenceSession, graph: Graph, spec: FamilySpec, work: Work) -> None:
        self._work = work
        self._cache = _Cache(session, graph.kv_layers, spec)
        self._vocab_size = spec.vocab_size
        self.has_cache = graph.kv_layers > 0

    def run(self, rows: Rows, past: int, wanted: int) -> Logits:
        """Consume rows (q, d_model) at positions past..; the logits of the last `wanted` of them, (wanted, vocab)."""
        return self.logits(rows, past, np.arange(len(rows) - wanted, len(rows)))

    def logits(self, rows: Rows, past: int, wanted: NDArray[np.int64]) -> Logits:
        """The same for any indices into the rows."""
        out = np.empty((len(wanted), self._vocab_size), np.float32)
        inputs: dict[str, NDArray[np.generic]] = {ROWS_IN: np.ascontiguousarray(rows)[None], WANTED: wanted}
        self._cache.run(inputs, LOGITS, out, past + len(rows))
        self._work.rows += len(rows)
        self._work.logits += len(wanted)
        return out
