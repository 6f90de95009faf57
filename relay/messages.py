"""The nouns of the one verb between a node and its upstream. See DESIGN in ARCHITECTURE.md, "A session is a log".

Arrays are not copied: whoever makes a message does not change its arrays afterwards.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from relay.log import Mark, Rows
from relay.names import Codec
from relay.policy import Rule
from relay.sampling import F32, GREEDY, Sampling

Logits = NDArray[np.float32]
"""Shape (w, vocab_size)."""


@dataclass(frozen=True)
class Question:
    """What an exit is asked about the last `want` rows that it has been given."""

    exit: int
    """The exit that decides, counted from 1, unless one before it may by the rule; 0 with rows that none reads yet."""
    want: int
    """Rows at the end that want an answer; 0: none, but such a question will follow."""
    drafts: tuple[int, ...] = ()
    """Ids proposed for the positions after the answered rows, the last one's excepted: want - 1 of them."""
    sampling: Sampling = GREEDY
    rule: Rule | None = None
    """When an exit before the target's may decide; None: never."""
    draft_exit: int = 0
    """The exit that made the drafts: those between it and the target's take off the drafts from the first on that they
    would not have made. 0: none does."""
    more: int = 0
    """Tokens that the node may go on to decide after the wanted one, at the same exit, if it holds segment 1."""
    logprobs: int | None = None
    """Log-probabilities of the tokens, and of this many most probable ones beside each; None: not wanted."""
    logits: bool = False
    """Whether the answer carries the logits."""
    adjust: Callable[[F32], F32] | None = field(default=None, compare=False)
    """What the text so far does to the logits (penalties). It needs the token ids, so it never crosses the wire."""

    def rows_only(self) -> "Question":
        """For rows that go before those that the question is about: it says which exits will surely read them."""
        return Question(self.exit, want=0, rule=self.rule)

    @staticmethod
    def later() -> "Question":
        """For rows that nobody may ever read: they are kept until somebody does."""
        return Question(exit=0, want=0)

    def sure(self, first: int) -> int:
        """The deepest exit that is sure to read the rows, at a node whose first exit is `first`."""
        return self.exit if self.rule is None else min(first, self.exit)

    def shortens(self, exit_: int) -> bool:
        """Whether an exit on the way takes off drafts; where a rule holds, it decides instead."""
        return bool(self.drafts) and self.rule is None and 0 < self.draft_exit < exit_ < self.exit


@dataclass(frozen=True)
class Logprobs:
    """Log-probabilities at the exit that decided, before temperature and filters."""

    token: float
    """Of the decided token."""
    top: tuple[tuple[int, float], ...] = ()
    """The most probable ids with theirs, best first."""


@dataclass(frozen=True)
class Advance:
    """Rows of consecutive positions with their chain values, and a question about the last of them."""

    base: int
    """Position of the first row."""
    anchor: bytes
    """Chain value of position base - 1."""
    chain: tuple[bytes, ...]
    """Chain value of each row."""
    rows: Rows | NDArray[np.int64]
    """Hidden states, shape (q, d_model); at boundary 0 token ids, shape (q,)."""
    question: Question
    codec: Codec = Codec.F32
    """How the rows travel, here and on every hop behind: one for the whole history, as chain values depend on it."""


@dataclass(frozen=True)
class Answer:
    """The rows were consumed. Without a wanted row, tokens are empty."""

    cached: int
    """Rows that the node's first segment has consumed."""
    tokens: tuple[int, ...] = ()
    """The accepted drafts and one more."""
    confidence: tuple[float, ...] = ()
    """Largest probability behind each token."""
    logprobs: tuple[Logprobs, ...] = ()
    """One per token, if asked for."""
    exit: int = 0
    tier: str = ""
    engine_ms: float = 0.0
    """Engine time of this node and those upstream for this message."""
    link_ms: float = 0.0
    """What the hops upstream of this node took for it: their round trips less engine time."""
    logits: Logits | None = field(default=None, compare=False)
    """A row per token; only if asked for."""

    def joined(self, later: "Answer") -> "Answer":
        """This answer and the one to the token that it ends with."""
        logits = None if later.logits is None or self.logits is None else np.concatenate([self.logits, later.logits])
        return replace(
            later,
            tokens=self.tokens + later.tokens,
            confidence=self.confidence + later.confidence,
            logprobs=self.logprobs + later.logprobs,
            logits=logits,
            engine_ms=self.engine_ms + later.engine_ms,
            link_ms=self.link_ms + later.link_ms,
        )

    def each(self) -> "Iterator[Answer]":
        """An answer for each token. The first has the times of all."""
        for i in range(len(self.tokens)):
            yield replace(
                self,
                tokens=self.tokens[i : i + 1],
                confidence=self.confidence[i : i + 1],
                logprobs=self.logprobs[i : i + 1],
                logits=None if self.logits is None else self.logits[i : i + 1],
                engine_ms=0.0 if i else self.engine_ms,
                link_ms=0.0 if i else self.link_ms,
            )


@dataclass(frozen=True)
class Behind:
    """Nothing was consumed: rows before the message's base are missing, or are of another history."""

    cached: int
    marks: tuple[Mark, ...]
