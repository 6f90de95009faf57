"""Runs one graph of a bundle on its own, with its keys and values in place: for parity, quality and tests."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from exporter.graphs import INPUT_IDS, LOGITS, ROWS_IN, ROWS_OUT, SEQLENS_K, TOTAL, WANTED, past_names, present_names
from family.manifest import Graph
from family.spec import FamilySpec

F32 = npt.NDArray[np.float32]
I64 = npt.NDArray[np.int64]


def session_options(threads: int) -> ort.SessionOptions:
    """The options that every session of the project runs with on CPU."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return options


class GraphRunner:
    """A graph and its buffers. `slots` positions at most, one of them scratch."""

    def __init__(self, bundle: Path, graph: Graph, spec: FamilySpec, slots: int, threads: int = 2) -> None:
        self.graph = graph
        self.spec = spec
        self._session = ort.InferenceSession(
            str(bundle / graph.files[0]), session_options(threads), providers=["CPUExecutionProvider"]
        )
        shape = (1, spec.kv_heads, slots, spec.head_dim)
        self._buffers = [(np.zeros(shape, np.float32), np.zeros(shape, np.float32)) for _ in range(graph.kv_layers)]

    def run(self, rows: F32 | I64, position: int, wanted: I64 | None = None) -> F32:
        """Consume ids [q] or rows [q, d_model] from `position` on; gives rows [q, d_model] or logits [w, vocab].

        `wanted` are the indices into `rows` whose logits are asked of an exit; all of them by default.
        """
        binding = self._session.io_binding()
        is_exit = self.graph.kind == "exit"
        count = rows.shape[0]
        inputs: dict[str, npt.NDArray[Any]] = {
            INPUT_IDS if rows.ndim == 1 else ROWS_IN: np.ascontiguousarray(rows[None])
        }
        if is_exit:
            inputs[WANTED] = np.arange(count) if wanted is None else wanted
        if self._buffers:
            inputs[SEQLENS_K] = np.array([position + count - 1], np.int32)
            inputs[TOTAL] = np.array(position + count, np.int32)
        for name, value in inputs.items():
            binding.bind_cpu_input(name, value)
        binding.bind_output(LOGITS if is_exit else ROWS_OUT, "cpu")
        for layer, buffers in enumerate(self._buffers):
            names = zip(past_names(layer), present_names(layer), buffers, strict=True)
            for past, present, buffer in names:
                binding.bind_input(past, "cpu", 0, np.float32, buffer.shape, buffer.ctypes.data)
                binding.bind_output(present, "cpu", 0, np.float32, buffer.shape, buffer.ctypes.data)
        self._session.run_with_iobinding(binding)
        out: F32 = binding.get_outputs()[0].numpy()
        return out if is_exit else out[0]
