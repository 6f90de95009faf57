"""Our engine as a node runs it: `Session` over `BundleEngine`, all segments in one process.

A turn is what `relay/node/generate.py` does for a text: one `Advance` for the prompt and one for each token.
Settings: `threads`, and `exit` (null: the last).
"""

import asyncio
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.protocol import Child, Settings, serve
from family.manifest import load_manifest
from relay import chain
from relay.engine.engine import BundleEngine
from relay.messages import Advance, Answer, Question
from relay.session import Session

CODEC = 0
"""Rows do not leave this process."""


class Ours:
    """A bundle up to one exit, one session at a time."""

    def __init__(self, bundle: Path, settings: Settings) -> None:
        manifest = load_manifest(bundle)
        self.version = version("onnxruntime")
        self._exit = settings["exit"] or manifest.spec.granularity
        self._genesis = chain.genesis(manifest.export_fingerprint)
        self._engine = BundleEngine(bundle, manifest, tuple(range(1, self._exit + 1)), settings["threads"])
        self._loop = asyncio.Runner()
        self._session = self._open()

    def prefill(self, ids: Sequence[int]) -> int:
        self._loop.run(self._session.close())
        self._session = self._open()
        return self._advance(ids)

    def decode(self, token: int) -> int:
        return self._advance([token])

    def logits(self, ids: Sequence[int]) -> NDArray[np.float32]:
        rows: Any = np.asarray(ids, np.int64)
        for index in self._engine.segments:
            rows = self._engine.open_segment(index).run(rows, 0)
        return self._engine.open_exit(self._exit).run(rows, 0, len(ids))

    def _open(self) -> Session:
        return Session(self._engine, self._genesis, "all", None)

    def _advance(self, ids: Sequence[int]) -> int:
        base = len(self._session.history)
        anchor = self._session.history.value(base - 1)
        values = tuple(chain.extend(anchor, ids, CODEC))
        message = Advance(base, anchor, values, np.asarray(ids, np.int64), Question(self._exit, want=1))
        answer = self._loop.run(self._session.advance(message))
        assert isinstance(answer, Answer), "a session that is alone is never behind"
        return answer.tokens[0]


if __name__ == "__main__":
    serve(Child(Ours).handlers())
