"""Cross-entropy of every exit and its agreement with the last, measured on the written graphs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedTokenizerFast

from exporter.runner import GraphRunner
from family.files import sha256_file
from family.manifest import TOKENIZER_NAME, ExitQuality, Graph, Manifest, Quality
from family.spec import FamilySpec
from training.data import eval_ids
from training.evaluate import LogitsFn, evaluate

WINDOW = 512
"""Tokens that the exits see at once; windows do not overlap."""


def measure_quality(
    bundle: Path,
    graphs: tuple[Graph, ...],
    spec: FamilySpec,
    tokenizer: Any,
    text: Path,
    tokens: int,
    progress: Callable[[int], None] = lambda _: None,
) -> Quality:
    """Score the exits on the first `tokens` tokens of a text file, as `training.data` reads it.

    `progress` is called with the number of positions that were scored. Raises `DataError` for a text that cannot be
    read or is shorter than a window.
    """
    window = min(WINDOW, spec.context)
    ids = eval_ids(text, tokenizer, tokens + 1)
    found = evaluate(bundle_logits(bundle, graphs, spec), ids, window, window, progress)
    exits = tuple(ExitQuality(e.exit, e.cross_entropy, e.agreement) for e in found.exits)
    return Quality(text.name, sha256_file(text), found.tokens, window, window, exits)


def bundle_tokenizer(bundle: Path, manifest: Manifest) -> Any:
    """The tokenizer that the bundle was written with, from the bundle alone."""
    make: Any = PreTrainedTokenizerFast
    return make(tokenizer_file=str(bundle / TOKENIZER_NAME), **manifest.special_tokens)


def bundle_logits(bundle: Path, graphs: tuple[Graph, ...], spec: FamilySpec) -> LogitsFn:
    """Logits of all exits for a window of token ids from position 0, the segments relayed in this process."""
    runners = {graph.name: GraphRunner(bundle, graph, spec) for graph in graphs}

    def logits(ids: npt.NDArray[np.int64]) -> dict[int, npt.NDArray[np.float32]]:
        found = {}
        rows: npt.NDArray[Any] = ids
        for g in range(1, spec.granularity + 1):
            rows = runners[f"segment-{g}"].run(rows, 0)
            found[g] = runners[f"exit-{g}"].run(rows, 0)
        return found

    return logits
