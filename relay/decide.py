"""From logits to tokens: pure functions of (logits, drafts)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from relay.messages import Logits


@dataclass(frozen=True)
class Decision:
    """The accepted drafts and one more token, with the largest probability behind each."""

    tokens: tuple[int, ...]
    confidence: tuple[float, ...]


def decide(logits: Logits, drafts: Sequence[int]) -> Decision:
    """Greedy decoding of consecutive positions, logits (len(drafts) + 1, vocab). Row i + 1 counts only if row i's token
    is draft i.
    """
    tokens: list[int] = []
    confidence: list[float] = []
    for i, row in enumerate(logits):
        token = int(np.argmax(row))
        tokens.append(token)
        confidence.append(float(1.0 / np.exp(row - row[token]).sum()))
        if i < len(drafts) and drafts[i] != token:
            break
    return Decision(tuple(tokens), tuple(confidence))
