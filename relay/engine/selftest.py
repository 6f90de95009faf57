"""The start-up self-test: does a row's result depend on what else was in the same forward?

Chunk invariance is what makes replay, batching and speculation literal. It is a property of the kernels on this CPU,
so it is checked here and reported in `Describe`; a node that fails it still serves.
"""

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from family.spec import FamilySpec
from relay.engine.engine import BundleEngine
from relay.log import Rows
from relay.messages import Logits

_TAIL = 24
"""Positions at the end whose logits are compared too."""
_SHORT = ([24], [1] * 24, [2] * 12, [5, 1, 9, 1, 1, 7], [23, 1])
_LONG = ([160], [127, 1, 1, 31])
"""Kernels may change their ways with the length of the past."""


def is_chunk_invariant(engine: BundleEngine, spec: FamilySpec) -> bool:
    """Run every graph over the same rows in one shot and in several splits; True if all bits agree."""
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
            whole, *others = (_run(engine, index, inputs, split) for split in splits)
            invariant &= all(np.array_equal(a, b) for other in others for a, b in zip(whole, other, strict=True))
    return invariant


def _run(engine: BundleEngine, index: int, inputs: Rows | NDArray[np.int64], split: list[int]) -> tuple[Rows, Logits]:
    """A segment's rows, and its exit's logits of the last `_TAIL`, from forwards of so many rows."""
    segment, exit_ = engine.open_segment(index), engine.open_exit(index)
    bounds = [int(bound) for bound in np.cumsum([0, *split])]
    made, logits = [], []
    for start, stop in pairwise(bounds):
        made.append(segment.run(inputs[start:stop], start))
        wanted = max(0, stop - max(start, len(inputs) - _TAIL))
        logits.append(exit_.run(made[-1], start, wanted))
    return np.concatenate(made), np.concatenate(logits)
