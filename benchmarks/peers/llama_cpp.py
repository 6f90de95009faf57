"""llama.cpp through llama-cpp-python's C bindings. Settings: `threads`, `flash_attention`."""

from collections.abc import Sequence
from ctypes import c_void_p
from pathlib import Path
from typing import Any

import llama_cpp as llama
import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.protocol import Child, Settings, serve

CONTEXT = 1024
SOURCE_TYPE = "Q4_1"
"""The type of the pinned GGUF file: its weights as they are."""


_SILENT: Any = llama.llama_log_callback(lambda *_: None)  # it reports every tensor that it loads


class LlamaCpp:
    """A GGUF file, one sequence."""

    def __init__(self, model: Path, settings: Settings) -> None:
        llama.llama_log_set(_SILENT, c_void_p(0))
        llama.llama_backend_init()
        self.version: str = llama.__version__
        self._model = llama.llama_model_load_from_file(str(model).encode(), llama.llama_model_default_params())
        options = llama.llama_context_default_params()
        options.n_ctx = options.n_batch = options.n_ubatch = options.n_outputs_max = CONTEXT
        options.n_threads = options.n_threads_batch = settings["threads"]
        options.flash_attn_type = (
            llama.LLAMA_FLASH_ATTN_TYPE_ENABLED if settings["flash_attention"] else llama.LLAMA_FLASH_ATTN_TYPE_DISABLED
        )
        self._context = llama.llama_init_from_model(self._model, options)
        if not self._context:
            raise ValueError(f"llama.cpp cannot open {model} with {settings}")
        self._memory = llama.llama_get_memory(self._context)
        self._vocab_size: int = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(self._model))
        self._batch = llama.llama_batch_init(CONTEXT, 0, 1)
        self._length = 0

    def prefill(self, ids: Sequence[int]) -> int:
        self._restart()
        self._read(ids, every=False)
        return self._top()

    def decode(self, token: int) -> int:
        self._read([token], every=False)
        return self._top()

    def logits(self, ids: Sequence[int]) -> NDArray[np.float32]:
        self._restart()
        self._read(ids, every=True)
        flat = np.ctypeslib.as_array(llama.llama_get_logits(self._context), (len(ids) * self._vocab_size,))
        return flat.reshape(len(ids), self._vocab_size)

    def _restart(self) -> None:
        llama.llama_memory_clear(self._memory, False)
        self._length = 0

    def _read(self, ids: Sequence[int], every: bool) -> None:
        batch: Any = self._batch
        batch.n_tokens = len(ids)
        for i, token in enumerate(ids):
            batch.token[i] = token
            batch.pos[i] = self._length + i
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = 0
            batch.logits[i] = every
        batch.logits[len(ids) - 1] = True
        status = llama.llama_decode(self._context, batch)
        if status:
            raise ValueError(f"llama_decode ended with {status}")
        self._length += len(ids)

    def _top(self) -> int:
        row = np.ctypeslib.as_array(llama.llama_get_logits_ith(self._context, -1), (self._vocab_size,))
        return int(row.argmax())


def export(source: Path, type_: str, out: Path) -> None:
    """Write the GGUF file `source` in another type. Matrices that are not of the source's type stay as they are."""
    options = llama.llama_model_quantize_default_params()
    options.ftype = getattr(llama, f"LLAMA_FTYPE_MOSTLY_{type_}")
    options.allow_requantize = True
    out.mkdir(parents=True, exist_ok=True)
    status = llama.llama_model_quantize(str(source).encode(), str(out / "model.gguf").encode(), options)
    if status:
        raise ValueError(f"llama_model_quantize ended with {status}")


if __name__ == "__main__":
    serve(Child(lambda model, settings: LlamaCpp(model / "model.gguf", settings), export).handlers())
