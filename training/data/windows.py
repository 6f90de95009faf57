"""The order of training: windows of token ids from all sources, mixed by weight, decided by the seed alone.

Windows come in blocks of `BLOCK`; each block has every source's share of it, as nearly as whole windows allow and
exactly in the long run, in an order of its own. A source's windows are cut one after another from its tokens, taken as
a ring, and come in another order and from another first cut in every epoch. So window k is a pure function of the seed,
the sources and k: a resumed run goes on in mid-epoch without replaying anything, and a longer run begins as the shorter
one did.

A run may go through its windows several times (`passes`): these same windows then come again, in another order.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.data.documents import Ids, check_vocabulary
from training.data.sources import Source
from training.data.tokens import TokenFile, tokenize
from training.errors import DataError

BLOCK = 256
_GOLDEN = (5**0.5 - 1) / 2
_BLOCK_ORDER, _EPOCH_ORDER, _EPOCH_CUT, _PASS_ORDER = range(4)  # streams of random numbers


@dataclass(frozen=True)
class SourceUse:
    """What a run takes from a source."""

    file: str
    sha256: str
    documents: int
    """In the source."""
    unique_tokens: int
    """In the source."""
    tokens: int
    """Taken, in whole windows."""
    passes: float
    """Epochs: how often its text is gone through; below 1 where only a part is needed."""


class Windows:
    """`length` windows of `window` token ids, `passes` times: a data set for `transformers.Trainer`, read in order.

    Args:
        parts: the sources' token files.
        weights: their shares of the windows, in any unit.
        window: tokens per window.
        length: windows of one pass.
        seed: decides the order.
        passes: how often they come.

    Raises:
        DataError: a source is shorter than one window.
    """

    def __init__(
        self,
        parts: Sequence[TokenFile],
        weights: Sequence[float],
        *,
        window: int,
        length: int,
        seed: int,
        passes: int = 1,
    ) -> None:
        for part in parts:
            if part.header.tokens < window:
                raise DataError(f"{part.name}: {part.header.tokens} tokens, fewer than one window of {window}")
        self.parts, self.window = tuple(parts), window
        self.passes, self._length, self._seed = passes, length, seed
        shares = np.cumsum([0.0, *weights]) / np.sum(weights)
        shares[-1] = 1.0
        turns = np.arange(-(-length // BLOCK)) * _GOLDEN % 1
        self._cuts = np.floor(shares * BLOCK + turns[:, None]).astype(np.int64)  # (blocks, sources + 1)
        taken = np.cumsum(np.diff(self._cuts), axis=0)
        self._before = np.concatenate([np.zeros((1, len(parts)), np.int64), taken])  # windows before each block
        self._orders: dict[int, tuple[int, NDArray[np.int64]]] = {}
        self._pass_order = (0, np.arange(length))

    def __len__(self) -> int:
        return self._length * self.passes

    def __getitem__(self, k: int) -> dict[str, Ids]:
        """Window k as `input_ids` (window,)."""
        if not 0 <= k < len(self):
            raise IndexError(k)
        source, ordinal = self.place(self._in_first_pass(k))
        part = self.parts[source]
        epoch, i = divmod(ordinal, self._per_epoch(source))
        cut = 0 if epoch == 0 else int(self._rng(_EPOCH_CUT, source, epoch).integers(self.window))
        start = (cut + int(self._epoch_order(source, epoch)[i]) * self.window) % part.header.tokens
        return {"input_ids": part.window(start, self.window)}

    def place(self, k: int) -> tuple[int, int]:
        """The source of window k of the first pass, and which of that source's windows it is, counted from 0."""
        block, at = divmod(k, BLOCK)
        sources = self._block_sources(block)
        source = int(sources[at])
        return source, int(self._before[block, source] + np.count_nonzero(sources[:at] == source))

    def uses(self) -> list[SourceUse]:
        """What all windows take from each source."""
        whole, rest = divmod(self._length, BLOCK)
        taken = self._before[whole].copy()
        if rest:
            taken += np.bincount(self._block_sources(whole)[:rest], minlength=len(self.parts))
        return [self._use(source, int(count)) for source, count in enumerate(taken)]

    def _use(self, source: int, count: int) -> SourceUse:
        part = self.parts[source]
        return SourceUse(
            file=part.name,
            sha256=part.header.source_sha256,
            documents=part.header.documents,
            unique_tokens=part.header.tokens,
            tokens=self.passes * count * self.window,
            passes=round(self.passes * count / self._per_epoch(source), 3),
        )

    def _per_epoch(self, source: int) -> int:
        return self.parts[source].header.tokens // self.window

    def _block_sources(self, block: int) -> NDArray[np.int64]:
        """The source of each of a block's windows."""
        sources = np.repeat(np.arange(len(self.parts)), np.diff(self._cuts[block]))
        return self._rng(_BLOCK_ORDER, block).permutation(sources)

    def _in_first_pass(self, k: int) -> int:
        """Which window of the first pass window k is; the others have orders of their own."""
        number, at = divmod(k, self._length)
        if not number:
            return at
        if self._pass_order[0] != number:
            self._pass_order = (number, self._rng(_PASS_ORDER, number).permutation(self._length))
        return int(self._pass_order[1][at])

    def _epoch_order(self, source: int, epoch: int) -> NDArray[np.int64]:
        """Kept for one epoch of each source: making it takes as long as the source is."""
        kept = self._orders.get(source)
        if kept is None or kept[0] != epoch:
            order = self._rng(_EPOCH_ORDER, source, epoch).permutation(self._per_epoch(source))
            self._orders[source] = kept = (epoch, order)
        return kept[1]

    def _rng(self, *what: int) -> np.random.Generator:
        return np.random.default_rng([self._seed, *what])


def open_windows(
    sources: Sequence[Source],
    tokenizer: Any,
    cache: Path,
    *,
    vocab_size: int,
    window: int,
    length: int,
    seed: int,
    passes: int = 1,
) -> Windows:
    """Windows of all sources, tokenized into `cache` where they are not yet.

    Raises:
        DataError: a source is missing, malformed, empty, shorter than one window or outside the model's vocabulary.
    """
    parts = [tokenize(source, tokenizer, cache) for source in sources]
    for part in parts:
        check_vocabulary(part.name, part.header.max_id, vocab_size)
    return Windows(parts, [source.weight for source in sources], window=window, length=length, seed=seed, passes=passes)
