"""Rounds of speculation in the mean: how many tokens they decide, and how long they take (as `relay.pace` argues).

A round makes drafts, sends k of them and waits; meanwhile it drafts on, as many as the next round may send, and one
more. With acceptance a it decides (1 - a^(k+1)) / (1 - a) tokens (Leviathan et al., arXiv 2211.17192, eq. 1). Where all
were right, and the first that was made ahead is too, the next round begins with the others ready. So rounds are a chain
of two states.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

MOST_DRAFTS = 32
Lengths = NDArray[np.float64]


@dataclass(frozen=True)
class Rounds:
    """The mean over rounds."""

    tokens: float
    """Decided."""
    seconds: float
    drafts: float
    """Sent."""
    made: float
    """Drafts made, those that came to nothing included."""


@lru_cache(1 << 14)
def rounds(
    draft_s: float, verify_s: float, row_s: float, acceptance: float, length: int | None, *, overlap: bool = True
) -> Rounds:
    """What rounds of `length` drafts come to; of the best lengths, if it is None.

    Args:
        draft_s: a draft.
        verify_s: from sending no draft to the answer.
        row_s: more of it, for each draft.
        acceptance: the share of drafts that are right where all before them are.
        length: drafts of a message.
        overlap: whether drafts are made while others are verified: elsewhere, that is.
    """
    right = min(acceptance, 1 - 1e-6)
    if length is not None:
        return _at(draft_s, verify_s, row_s, right, np.array([[length]], float), np.array([[length]], float), overlap)
    lengths = np.arange(MOST_DRAFTS + 1, dtype=float)
    return _at(draft_s, verify_s, row_s, right, lengths[:, None], lengths[None, :], overlap)


def _at(
    draft_s: float, verify_s: float, row_s: float, right: float, fresh: Lengths, ready: Lengths, overlap: bool
) -> Rounds:
    """The best of the pairs of lengths: of rounds that begin with no draft, and with those that were made ahead."""
    waits = verify_s + row_s * fresh
    beside = np.clip(waits // max(draft_s, 1e-9), 0, ready + 1) if overlap else np.zeros_like(waits)
    ahead = np.maximum(0, beside - 1)  # the first is not there to be sent
    fresh_s = fresh * draft_s + waits
    ready_s = (ready - ahead) * draft_s + verify_s + row_s * ready
    begins, stays = np.where(ahead > 0, right ** (fresh + 1), 0.0), right ** (ready + 1)
    share = begins / (begins + 1 - stays)
    tokens = (1 - share) * _decided(right, fresh) + share * _decided(right, ready)
    seconds = (1 - share) * fresh_s + share * ready_s
    i = np.unravel_index(np.argmax(tokens / seconds), tokens.shape)
    sent = float(((1 - share) * fresh + share * ready)[i])
    new = float(((1 - share) * fresh + share * (ready - ahead))[i])
    made = new + float(np.broadcast_to(beside, tokens.shape)[i])
    return Rounds(float(tokens[i]), float(seconds[i]), sent, made)


def _decided(right: float, length: Lengths) -> Lengths:
    found: Lengths = (1 - right ** (length + 1)) / (1 - right)
    return found
