"""The start-up self-test: does a row's result depend on what else, and whose, was in the same forward?

Chunk invariance is what makes replay, batching and speculation literal. It is a property of the kernels on this CPU,
so it is checked here and reported in `Describe`; a node that fails it still serves.
"""

from collections.abc import Sequence
from itertools import accumulate, pairwise, zip_longest

import numpy as np
from numpy.typing import NDArray

from family.spec import FamilySpec
from relay.engine.engine import BundleEngine
from relay.log import Rows
from relay.messages import Logits
from relay.views import Forward

_TAIL = 24
"""Positions at the end whose logits are compared too."""
_SHORT = ([24], [1] * 24, [2] * 12, [5, 1, 9, 1, 1, 7], [23, 1])
_LONG = ([160], [127, 1, 1, 31])
"""Kernels may change their ways with the length of the past."""


def is_chunk_invariant(engine: BundleEngine, spec: FamilySpec) -> bool:
    """Run every graph over the same rows in one shot, in several splits, and in all of these splits together as so many
    sessions; True if all bits agree.
    """
    rng = np.random.default_rng(0)
    invariant = True
    for splits in (_SHORT, _LONG):
        length = sum(splits[0])
        if length > spec.context:
            continue
        ids = rng.integers(0, spec.vocab_size, length)
        rows = rng.standard_normal((length, engine.d_model), dtype=np.float32)
        for index in engine.segments:
            inputs = ids if index == 1 else rows
            whole, *others = (_run(engine, index, inputs, [split])[0] for split in splits)
            others += _run(engine, index, inputs, splits)
            invariant &= all(np.array_equal(a, b) for other in others for a, b in zip(whole, other, strict=True))
    return invariant


def _run(
    engine: BundleEngine, index: int, inputs: Rows | NDArray[np.int64], splits: Sequence[list[int]]
) -> list[tuple[Rows, Logits]]:
    """A segment's rows, and its exit's logits of the last `_TAIL`, of sessions that each read the inputs in forwards of
    so many rows, together.
    """
    segments, exits = ([opened(index) for _ in splits] for opened in (engine.open_segment, engine.open_exit))
    made: list[list[Rows]] = [[] for _ in splits]
    logits: list[list[Logits]] = [[] for _ in splits]
    for turn in zip_longest(*(pairwise(accumulate(split, initial=0)) for split in splits)):
        taking = [(i, *bounds) for i, bounds in enumerate(turn) if bounds]
        batch = [Forward(segments[i], inputs[start:stop], start) for i, start, stop in taking]
        for (i, *_), rows in zip(taking, segments[0].graph.run(batch), strict=True):
            made[i].append(rows)
        wanted = [max(0, stop - max(start, len(inputs) - _TAIL)) for _, start, stop in taking]
        batch = [Forward(exits[i], made[i][-1], start, w) for (i, start, _), w in zip(taking, wanted, strict=True)]
        for (i, *_), found in zip(taking, exits[0].graph.run(batch), strict=True):
            logits[i].append(found)
    return [(np.concatenate(r), np.concatenate(f)) for r, f in zip(made, logits, strict=True)]
