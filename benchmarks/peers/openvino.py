"""OpenVINO on optimum-intel's export. Settings: `threads`, `hint` (inference precision), `kv` (cache precision).

Turns run on the model with its head behind a slice of the last position, as OpenVINO GenAI does it; scores without.
"""

import subprocess
import sys
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from numpy.typing import NDArray
from openvino import opset13 as ops

from benchmarks.peers.protocol import Child, Settings, serve

FOUR_BIT = ("--weight-format", "int4", "--group-size", "32", "--ratio", "1.0")
TYPES = {
    "int8": ("--weight-format", "int8"),
    "int8-sym": ("--weight-format", "int8", "--sym"),
    "int4": FOUR_BIT,
    "int4-sym": (*FOUR_BIT, "--sym"),
    "f16": ("--weight-format", "fp16"),
}
"""Type to optimum-cli's options; the embedding and the head of the 4-bit ones are at 8 bits, which is its default."""


class OpenVino:
    """A folder that optimum-cli wrote, one sequence."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        self.version: str = ov.get_version()
        self._path, self._settings = folder / "openvino_model.xml", settings
        self._request = self._open(last_only=True)
        self._length = 0

    def prefill(self, ids: Sequence[int]) -> int:
        self._request.reset_state()
        self._length = 0
        return self._top(self._read(self._request, ids))

    def decode(self, token: int) -> int:
        return self._top(self._read(self._request, [token]))

    def logits(self, ids: Sequence[int]) -> NDArray[np.float32]:
        self._whole.reset_state()
        self._length = 0
        return self._read(self._whole, ids)

    @cached_property
    def _whole(self) -> Any:
        return self._open(last_only=False)

    def _read(self, request: Any, ids: Sequence[int]) -> NDArray[np.float32]:
        """Logits (positions, vocab_size)."""
        end = self._length + len(ids)
        given = {
            "input_ids": np.asarray([ids], np.int64),
            "attention_mask": np.ones((1, end), np.int64),
            "position_ids": np.arange(self._length, end)[None],
            "beam_idx": np.zeros(1, np.int32),
        }
        request.infer(given, share_inputs=True)
        self._length = end
        logits: NDArray[np.float32] = request.get_output_tensor(0).data[0]
        return logits

    def _top(self, logits: NDArray[np.float32]) -> int:
        return int(logits[-1].argmax())

    def _open(self, last_only: bool) -> Any:
        core = ov.Core()
        model = core.read_model(self._path)
        if last_only:
            slice_head(model)
        options = {
            "INFERENCE_NUM_THREADS": self._settings["threads"],
            "INFERENCE_PRECISION_HINT": self._settings["hint"],
            "PERFORMANCE_HINT": "LATENCY",
        }
        if self._settings["kv"]:
            options["KV_CACHE_PRECISION"] = self._settings["kv"]
        return core.compile_model(model, "CPU", options).create_infer_request()


def slice_head(model: Any) -> None:
    """Give the last matrix product of `model` the last position only."""
    node = model.output("logits").get_node()
    while node.get_type_name() != "MatMul":
        node = node.input_value(0).get_node()
    rows = node.input_value(0)
    last = ops.gather(rows, ops.constant(np.array([-1], np.int64)), ops.constant(np.int64(1)))
    node.input(0).replace_source_output(last.output(0))
    model.validate_nodes_and_infer_types()


def export(source: Path, type_: str, out: Path) -> None:
    """Let optimum-cli convert and compress the Hugging Face model in `source`."""
    command = [str(Path(sys.executable).with_name("optimum-cli")), "export", "openvino", "--model", str(source)]
    command += ["--task", "text-generation-with-past", "--disable-convert-tokenizer", *TYPES[type_], str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(f"optimum-cli ended with {done.returncode}: {' '.join(done.stderr.split())[-300:]}")


if __name__ == "__main__":
    serve(Child(OpenVino, export).handlers())
