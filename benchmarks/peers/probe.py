"""What the machine can do: a `turn` measures memory reads and matrix products, with PyTorch. Settings: `threads`."""

import time
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.peers.protocol import serve

READ_BYTES = 256 << 20
"""Far more than any cache here."""
SIDE = 1024
"""Of the square matrices that are multiplied."""
REPEATS = 4


class Probe:
    """The arrays that are read and multiplied."""

    def open(self, request: dict[str, Any]) -> dict[str, Any]:
        """Make them; `settings` has the number of threads."""
        torch.set_num_threads(request["settings"]["threads"])
        self._memory = torch.ones(READ_BYTES // 4)
        square = torch.randn(SIDE, SIDE)
        self._matrices = {"f32": square, "bf16": square.to(torch.bfloat16)}
        self._int8 = (square * 30).to(torch.int8)
        return {"version": torch.__version__}

    def turn(self, request: dict[str, Any]) -> dict[str, Any]:  # noqa: ARG002
        """Best of a few: bytes read per second, and floating-point operations per second by type."""
        flops = 2 * SIDE**3
        found = {name: flops / best_s(lambda m=matrix: m @ m) for name, matrix in self._matrices.items()}  # type: ignore[misc]
        found["int8"] = flops / best_s(lambda: torch._int_mm(self._int8, self._int8))
        return {"read_bps": READ_BYTES / best_s(self._memory.max), "matmul_flops": found}


def best_s(work: Callable[[], object]) -> float:
    """Seconds of the fastest repetition."""
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)


if __name__ == "__main__":
    probe = Probe()
    serve({"open": probe.open, "turn": probe.turn})
