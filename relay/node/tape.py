"""`Tape`: the log of token ids at the entry node, the decided ones and the drafts after them."""

from collections.abc import Sequence

import numpy as np

from relay import chain
from relay.log import History
from relay.messages import Advance, Question
from relay.names import Codec


class Tape:
    """The ids of one text with their chain values, and how many of them the entry node's session has consumed."""

    def __init__(self, history: History, ids: Sequence[int], codec: Codec = Codec.F32) -> None:
        """A prompt; `history` is the session's, and what it shares with the prompt is not consumed again."""
        self._codec = codec
        self.ids = list(ids)
        """The final ones, then drafts."""
        self.decided = len(self.ids)
        """How many are final."""
        self.confidence: list[float] = []
        """Behind each draft."""
        self._history = history
        self._values = chain.extend(history.value(-1), self.ids, codec)
        self.cached = min(history.shared(self._values), len(self.ids) - 1)
        """Ids of the prompt that are not consumed again."""
        self._consumed = self.cached

    @property
    def drafts(self) -> list[int]:
        """Ids that are not final."""
        return self.ids[self.decided :]

    def message(self, question: Question, end: int | None = None) -> Advance:
        """What the session lacks of the first `end` ids (of all, if it is not given), with a question."""
        end = len(self.ids) if end is None else end
        base = min(self._consumed, len(self._history), end)
        self._consumed = end
        anchor = self._values[base - 1] if base else self._history.value(-1)
        values, ids = tuple(self._values[base:end]), np.array(self.ids[base:end], np.int64)
        return Advance(base, anchor, values, ids, question, self._codec)

    def draft(self, token: int, confidence: float) -> None:
        """Add a draft."""
        self._append(token)
        self.confidence.append(confidence)

    def decide(self, token: int) -> None:
        """Make `token` the next final id. Drafts stay only if it is the first of them."""
        if self.drafts[:1] == [token]:
            del self.confidence[0]
        else:
            self.drop()
            self._append(token)
        self.decided += 1

    def drop(self) -> None:
        """Forget the drafts."""
        del self.ids[self.decided :], self._values[self.decided :], self.confidence[:]
        self._consumed = min(self._consumed, self.decided)

    def _append(self, token: int) -> None:
        self.ids.append(token)
        self._values += chain.extend(self._values[-1], [token], self._codec)
