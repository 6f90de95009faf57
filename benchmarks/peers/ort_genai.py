"""ONNX Runtime GenAI on its model builder's graphs. Settings: `threads`.

Turns run on a graph whose head sees the last position only (the builder's `prune_lm_head`); scores on one without.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime_genai as og
from numpy.typing import NDArray

from benchmarks.peers.protocol import Child, Settings, serve

CONTEXT = 1024
MIXED = "matmul_mixed_precision=last_matmul:int8,mixed_layers:int8"
TYPES = {
    "int8": ("int8", ()),
    "int8-block64": ("int8", ("block_size=64",)),
    "int4": ("int4", ()),
    "int4-mixed": ("int4", ("algo_config=rtn", MIXED)),
    "int4-kquant-mixed": ("int4", ("algo_config=k_quant", MIXED)),
    "f32": ("fp32", ()),
}
"""Type to the builder's precision and options."""


class OrtGenAi:
    """A folder that `export` wrote, one sequence."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        self.version = version("onnxruntime-genai")
        self._folder, self._threads = folder, settings["threads"]
        self._model = self._open("last")
        self._generator: Any = None

    def prefill(self, ids: Sequence[int]) -> int:
        self._generator = self._start(self._model)
        self._generator.append_tokens(np.asarray([ids], np.int32))
        return self._next()

    def decode(self, token: int) -> int:  # noqa: ARG002
        """The generator has kept `token`, which it chose itself, and reads it now."""
        return self._next()

    def logits(self, ids: Sequence[int]) -> NDArray[np.float32]:
        generator = self._start(self._whole)
        generator.append_tokens(np.asarray([ids], np.int32))
        logits: NDArray[np.float32] = generator.get_output("logits")[0]
        return logits

    @cached_property
    def _whole(self) -> Any:
        return self._open("all")

    def _next(self) -> int:
        self._generator.generate_next_token()
        return int(self._generator.get_next_tokens()[0])

    def _start(self, model: Any) -> Any:
        params = og.GeneratorParams(model)
        params.set_search_options(max_length=CONTEXT, min_length=CONTEXT, do_sample=False)
        return og.Generator(model, params)

    def _open(self, kind: str) -> Any:
        config = og.Config(str(self._folder / kind))
        options = {"intra_op_num_threads": self._threads, "session.force_spinning_stop": "1"}
        config.overlay(json.dumps({"model": {"decoder": {"session_options": options}}}))
        return og.Model(config)


def export(source: Path, type_: str, out: Path) -> None:
    """Let the model builder write the Hugging Face model in `source`, with and without the pruned head."""
    builder, options = TYPES[type_]
    for kind, pruned in (("last", "prune_lm_head=true"), ("all", "prune_lm_head=false")):
        command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", str(source), "-o", str(out / kind)]
        command += ["-p", builder, "-e", "cpu", "-c", str(out / "cache"), "--extra_options", pruned, *options]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ValueError(f"the model builder ended with {done.returncode}: {' '.join(done.stderr.split())[-300:]}")


if __name__ == "__main__":
    serve(Child(OrtGenAi, export).handlers())
