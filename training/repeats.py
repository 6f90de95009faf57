"""How much of a text repeats itself, as greedy text of language models tends to (Holtzman et al., arXiv 1904.09751)."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

GRAM = 4
LOOP_TOKENS = 16
"""A loop is at least so long,"""
LOOP_PASSES = 3
"""and goes round at least so often."""


def repeats(ids: Sequence[int]) -> NDArray[np.bool_]:
    """Which tokens (N,) complete a 4-gram that occurred before in the same text.

    Their share of all 4-grams is seq-rep-4 of Welleck et al. (arXiv 1908.04319). The first three tokens never do.
    """
    seen: set[tuple[int, ...]] = set()
    found = np.zeros(len(ids), dtype=np.bool_)
    for end in range(GRAM, len(ids) + 1):
        gram = tuple(ids[end - GRAM : end])
        found[end - 1] = gram in seen
        seen.add(gram)
    return found


def ends_in_loop(ids: Sequence[int]) -> bool:
    """Whether a text ends in a loop: some period p, of which the last max(3 p, 16) tokens are repetitions.

    That is, each of these tokens but the first p is the one p places before it. A text that is shorter has no loop.
    """
    for period in range(1, len(ids) // LOOP_PASSES + 1):
        length = max(LOOP_PASSES * period, LOOP_TOKENS)
        tail = list(ids[-length:])
        if len(tail) == length and tail[period:] == tail[:-period]:
            return True
    return False
