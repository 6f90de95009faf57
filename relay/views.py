"""What a session needs of the engine: views, each the state that one consumer made of a prefix of a boundary's log."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from relay.log import Rows

T = TypeVar("T")
Made: TypeAlias = NDArray[np.float32]
"""What a forward makes: rows (q, d_model) of a segment, logits (w, vocab) of an exit."""


class Graph(Protocol):
    """A segment or an exit, for any number of sessions."""

    def run(self, batch: "Sequence[Forward]") -> list[Made]:
        """One forward of several views of this graph, each view once. What each makes does not depend on the others."""
        ...


class View(Protocol):
    """One graph's KV cache for one session. Positional: a forward at `past` overwrites what stood from there on."""

    @property
    def graph(self) -> Graph: ...

    @property
    def has_cache(self) -> bool:
        """Whether it must have read every row before the wanted ones (the graph has attention)."""
        ...


@dataclass(frozen=True, eq=False)
class Forward:
    """Rows that a view is to consume."""

    view: View
    rows: Rows | NDArray[np.int64]
    """Hidden states (q, d_model), or at boundary 0 token ids (q,), of positions past.."""
    past: int
    wanted: int = 0
    """Of an exit: logits of so many of the last rows."""

    def part(self, first: int, stop: int) -> "Forward":
        """The same for rows first..stop - 1. What the parts make, one after the other, is what the whole makes."""
        wanted = max(0, stop - max(first, len(self.rows) - self.wanted))
        return Forward(self.view, self.rows[first:stop], self.past + first, wanted)


Work: TypeAlias = Generator[Forward, Made, T]
"""Work that yields the forward that it needs next, and is sent what that made."""


class Engine(Protocol):
    """Opens views, and does work on them together with that of other sessions."""

    @property
    def segments(self) -> tuple[int, ...]:
        """Consecutive segments that it serves; the exits of these too."""
        ...

    @property
    def d_model(self) -> int: ...

    def open_segment(self, index: int) -> View:
        """A fresh view of segment `index`."""
        ...

    def open_exit(self, index: int) -> View:
        """A fresh view of exit `index`."""
        ...

    async def run(self, work: Work[T], owner: object, *, at_once: bool = True) -> tuple[T, float]:
        """Do an owner's work; the result, and the milliseconds of the forwards and steps that it took.

        `at_once` lets short work hold up the event loop. Cancelled, the work ends with the forward that is under way.
        """
        ...

    def leave(self, owner: object) -> None:
        """An owner's text is over: others need not be held back for its next token."""
        ...
