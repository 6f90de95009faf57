"""Cross-entropy of every exit and its agreement with the last, measured on the written graphs; what codecs cost."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedTokenizerFast

from exporter.runner import GraphRunner
from family.files import sha256_file
from family.manifest import TOKENIZER_NAME, CodecQuality, ExitQuality, Graph, Manifest, Quality
from family.spec import FamilySpec
from relay.codec import carried
from relay.names import Codec
from training.data import eval_ids
from training.errors import DataError
from training.evaluate import LogitsFn, Marks, joined, mark, windows

WINDOW = 512
"""Tokens that the exits see at once; windows do not overlap."""
LOSSY = tuple(codec for codec in Codec if codec is not Codec.F32)

F32 = npt.NDArray[np.float32]
I64 = npt.NDArray[np.int64]


def measure_quality(
    bundle: Path,
    graphs: tuple[Graph, ...],
    spec: FamilySpec,
    tokenizer: Any,
    text: Path,
    tokens: int,
    codecs: Sequence[Codec] = (),
    progress: Callable[[int], None] = lambda _: None,
) -> Quality:
    """Score the exits on the first `tokens` tokens of a text file, as `training.data` reads it; with exact rows, and in
    each of the lossy `codecs`.

    `progress` is called with the number of positions that were scored. Raises `DataError` for a text that cannot be
    read or is shorter than a window.
    """
    window = min(WINDOW, spec.context)
    ids = eval_ids(text, tokenizer, tokens + 1)
    relayed = Relayed(bundle, graphs, spec)
    parts: dict[tuple[Codec, int], list[Marks]] = {}
    for chunk, _ in windows(ids, window, window):
        for codec, exit_, logits in relayed.logits(chunk[:-1], (Codec.F32, *codecs)):
            parts.setdefault((codec, exit_), []).append(mark(logits, chunk[1:]))
        progress(window)
    if not parts:
        raise DataError(f"held-out text: {len(ids)} tokens, fewer than one window of {window} and its target")
    found = {key: joined(marks) for key, marks in parts.items()}
    last = found[Codec.F32, spec.granularity]
    exact = [
        ExitQuality(g, marks.cross_entropy, _share(marks.top == last.top))
        for (codec, g), marks in found.items()
        if codec is Codec.F32
    ]
    lossy = [
        CodecQuality(codec.label, g, marks.cross_entropy, _share(marks.top == found[Codec.F32, g].top))
        for (codec, g), marks in found.items()
        if codec is not Codec.F32
    ]
    return Quality(text.name, sha256_file(text), len(last), window, window, tuple(exact), tuple(lossy))


def _share(agree: npt.NDArray[np.bool_]) -> float:
    return float(agree.mean())


def bundle_tokenizer(bundle: Path, manifest: Manifest) -> Any:
    """The tokenizer that the bundle was written with, from the bundle alone."""
    make: Any = PreTrainedTokenizerFast
    return make(tokenizer_file=str(bundle / TOKENIZER_NAME), **manifest.special_tokens)


def bundle_logits(bundle: Path, graphs: tuple[Graph, ...], spec: FamilySpec) -> LogitsFn:
    """Logits of all exits for a window of token ids from position 0, the segments relayed in this process."""
    relayed = Relayed(bundle, graphs, spec)
    return lambda ids: {exit_: logits for _, exit_, logits in relayed.logits(ids, (Codec.F32,))}


class Relayed:
    """A bundle's graphs, relayed in this process as from node to node."""

    def __init__(self, bundle: Path, graphs: tuple[Graph, ...], spec: FamilySpec) -> None:
        self._depth = spec.granularity
        self._runners = {graph.name: GraphRunner(bundle, graph, spec) for graph in graphs}

    def logits(self, ids: I64, codecs: Sequence[Codec]) -> Iterator[tuple[Codec, int, F32]]:
        """Logits (T, vocab_size) of a window of ids (T,) from position 0, for each codec and exit; of a lossy codec for
        each but the first, which no rows are sent to.
        """
        first = self._runners["segment-1"].run(ids, 0)
        for codec in codecs:
            rows = first
            for g in range(1, self._depth + 1):
                if g > 1:
                    rows = self._runners[f"segment-{g}"].run(carried(rows, codec), 0)
                if g > 1 or codec is Codec.F32:
                    yield codec, g, self._runners[f"exit-{g}"].run(rows, 0)
