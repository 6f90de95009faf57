"""The start-up self-test: does a row's result depend on what else was in the same forward?

Chunk invariance is what makes replay, batching and speculation literal. It is a property of the kernels on this CPU,
so it is checked here and reported in `Describe`; a node that fails it still serves.
"""

from itertools import pairwise

import numpy as np

from relay.engine.engine import BundleEngine
from relay.views import ExitView, SegmentView

_LENGTH = 24
_SPLITS = ([1] * _LENGTH, [2] * (_LENGTH // 2), [5, 1, 9, 1, 1, 7], [23, 1])


def is_chunk_invariant(engine: BundleEngine, vocab_size: int) -> bool:
    """Run every graph over the same rows in one shot and in several splits; True if all bits agree."""
    rng = np.random.default_rng(0)
    invariant = True
    ids = rng.integers(0, vocab_size, _LENGTH)
    rows = rng.standard_normal((_LENGTH, engine.d_model), dtype=np.float32)
    for index in engine.segments:
        inputs = ids if index == 1 else rows
        whole = engine.open_segment(index).run(inputs, 0)
        logits = engine.open_exit(index).run(whole, 0, _LENGTH)
        for split in _SPLITS:
            bounds = np.cumsum([0, *split])
            segment: SegmentView = engine.open_segment(index)
            exit_: ExitView = engine.open_exit(index)
            for start, stop in pairwise(bounds):
                piece = segment.run(inputs[start:stop], int(start))
                at_exit = exit_.run(piece, int(start), int(stop - start))
                invariant &= np.array_equal(piece, whole[start:stop])
                invariant &= np.array_equal(at_exit, logits[start:stop])
    return bool(invariant)
