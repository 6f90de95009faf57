"""`Fence`: which messages of a hop may change a session. Pure.

`seq` counts the messages of a stream; one that was answered before gets the stored reply. `epoch` grows with each new
stream of the hop; a message of an older one is refused with the current value. So a delayed, repeated or hedged message
never changes a view.
"""

import random
from collections import OrderedDict
from dataclasses import dataclass
from typing import Generic, TypeVar

Reply = TypeVar("Reply")

_STORED_REPLIES = 4
"""What is delivered twice comes twice in a row, or nearly; for an older message the sender begins a new stream."""


@dataclass(frozen=True)
class Stale:
    """The message is of an older stream, or was answered so long ago that the reply is gone."""

    current_epoch: int


def next_epoch(current: int) -> int:
    """An epoch above `current`: one more in the upper 32 bits, drawn at random in the lower.

    Two senders that were both refused with the same value (a node that restarted, and its old self that is not quite
    dead) must not take the same one: each would be given replies that were stored for the other.
    """
    return ((current >> 32) + 1) << 32 | random.getrandbits(32)


class Fence(Generic[Reply]):
    """The receiving end of a hop, for one session."""

    def __init__(self) -> None:
        self.epoch = 0
        self._last_seq = 0
        self._replies: OrderedDict[int, Reply] = OrderedDict()

    def check(self, epoch: int, seq: int) -> "Stale | Reply | None":
        """None: consume the message and `store` its reply. Otherwise this is the reply, and nothing is consumed."""
        if epoch < self.epoch:
            return Stale(self.epoch)
        if epoch > self.epoch:
            self.epoch, self._last_seq = epoch, 0
            self._replies.clear()
        if seq > self._last_seq:
            return None
        return self._replies.get(seq) or Stale(self.epoch)

    def store(self, seq: int, reply: Reply) -> None:
        """Keep the reply to message `seq` of the current epoch."""
        self._last_seq = seq
        self._replies[seq] = reply
        while len(self._replies) > _STORED_REPLIES:
            self._replies.popitem(last=False)
