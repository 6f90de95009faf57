"""What a child does: open an engine, take turns, score texts; one JSON object a line in, one out.

    {"do": "open", "model": "/m", "settings": {"threads": 2}}         -> {"version": "1.2.3"}
    {"do": "turn", "ids": [1, 2, 3], "tokens": 64}                    -> {"prefill_s": 0.8, "decode_s": 0.7, "ids": [4]}
    {"do": "score", "windows": [[1, 2, 3]]}                           -> {"nats": 3.41}
    {"do": "export", "source": "/s", "type": "int8", "out": "/m"}     -> {}

A failure is `{"error": "what it was"}`. The child ends when its input does. What a library prints goes to stderr.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Settings = dict[str, Any]
"""How an engine is opened: `threads`, and what else its module documents."""


class Engine(Protocol):
    """One model, opened for one sequence; greedy."""

    version: str
    """Of the engine's library."""

    def prefill(self, ids: Sequence[int]) -> int:
        """Forget what was, read `ids` from position 0 on, and give the next id."""
        ...

    def decode(self, token: int) -> int:
        """Read one more id and give the next."""
        ...

    def logits(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """Forget what was; logits (len(ids), vocab_size) of every position."""
        ...


OpenEngine = Callable[[Path, Settings], Engine]
Export = Callable[[Path, str, Path], None]
"""(source, type, out): write the source's weights as a model of that type."""
Handler = Callable[[dict[str, Any]], dict[str, Any]]


class Child:
    """The requests of one engine."""

    def __init__(self, open_engine: OpenEngine, export: Export | None = None) -> None:
        self._open_engine = open_engine
        self._export = export
        self._engine: Engine | None = None

    def handlers(self) -> dict[str, Handler]:
        """What it answers to."""
        return {"open": self._opened, "turn": self._turn, "score": self._score, "export": self._exported}

    def _opened(self, request: dict[str, Any]) -> dict[str, Any]:
        self._engine = self._open_engine(Path(request["model"]), request["settings"])
        return {"version": self._engine.version}

    def _turn(self, request: dict[str, Any]) -> dict[str, Any]:
        engine = self._ready()
        started = time.perf_counter()
        made = [engine.prefill(request["ids"])]
        read = time.perf_counter()
        for _ in range(request["tokens"]):
            made.append(engine.decode(made[-1]))
        return {"prefill_s": read - started, "decode_s": time.perf_counter() - read, "ids": made}

    def _score(self, request: dict[str, Any]) -> dict[str, Any]:
        engine = self._ready()
        losses = [losses_of(engine.logits(window[:-1]), window[1:]) for window in request["windows"]]
        return {"nats": float(np.concatenate(losses).mean())}

    def _exported(self, request: dict[str, Any]) -> dict[str, Any]:
        if self._export is None:
            raise ValueError("this engine exports nothing")
        self._export(Path(request["source"]), request["type"], Path(request["out"]))
        return {}

    def _ready(self) -> Engine:
        if self._engine is None:
            raise ValueError("open the engine first")
        return self._engine


def losses_of(logits: NDArray[np.float32], targets: Sequence[int]) -> NDArray[np.float64]:
    """Nats of each target (T,) under the softmax of its row of logits (T, vocab_size)."""
    losses = np.empty(len(targets))
    for i, (row, target) in enumerate(zip(logits, targets, strict=True)):
        wide = row.astype(np.float64)
        top = wide.max()
        losses[i] = np.log(np.exp(wide - top).sum()) + top - wide[target]
    return losses


def serve(handlers: dict[str, Handler]) -> None:
    """Answer requests on the standard streams until the input ends."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # a library that prints must not speak into the protocol
    for line in sys.stdin:
        try:
            request = json.loads(line)
            reply = handlers[request["do"]](request)
        except Exception as error:  # whatever an engine raises is its answer
            reply = {"error": f"{type(error).__name__}: {' '.join(str(error).split())}"}
        out.write(json.dumps(reply) + "\n")
        out.flush()
