"""What a session needs of the engine: views, each the state that one consumer made of a prefix of a boundary's log."""

from collections.abc import Callable
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from relay.log import Rows
from relay.messages import Logits

T = TypeVar("T")


class SegmentView(Protocol):
    """One segment's KV cache for one session. Positional: running at `past` overwrites what stood from there on."""

    def run(self, rows: Rows | NDArray[np.int64], past: int) -> Rows:
        """Consume rows (q, d_model), or ids (q,) at boundary 0, at positions past..; the outputs, (q, d_model)."""
        ...


class ExitView(Protocol):
    """One exit's branch cache for one session, positional in the same way."""

    @property
    def has_cache(self) -> bool:
        """Whether the exit must have read every row before the wanted ones (it has a branch with attention)."""
        ...

    def run(self, rows: Rows, past: int, wanted: int) -> Logits:
        """Consume rows (q, d_model) at positions past..; the logits of the last `wanted` of them, (wanted, vocab)."""
        ...


class Engine(Protocol):
    """Opens views and runs their forwards, one at a time."""

    @property
    def segments(self) -> tuple[int, ...]:
        """Consecutive segments that it serves; the exits of these too."""
        ...

    @property
    def d_model(self) -> int: ...

    def open_segment(self, index: int) -> SegmentView:
        """A fresh view of segment `index`."""
        ...

    def open_exit(self, index: int) -> ExitView:
        """A fresh view of exit `index`."""
        ...

    async def run(self, forward: Callable[[], T], *, short: bool) -> T:
        """Call `forward` and wait for it: away from the event loop, unless it is short and nothing else is at work."""
        ...
