"""Why a text ends. Stop strings: where it ends before one, and what of it may be shown meanwhile. Pure."""

from collections.abc import Sequence
from typing import Literal, TypeAlias

Limit: TypeAlias = Literal["length", "context"]
"""`max_tokens`, or a full context."""
Reason: TypeAlias = Literal["stop"] | Limit
"""A stop id or a stop string, or the limit."""


class StopStrings:
    """Watches a text as it comes. What may be the beginning of a stop string is held back until it is known."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.found: str | None = None
        """The stop string that ended the text."""

    def feed(self, text: str, *, last: bool) -> str:
        """What of the text so far may be shown now, after `text` came; with the last piece, all up to a stop string."""
        held = self._held + text
        found = [(at, stop) for stop in self._stops if (at := held.find(stop)) >= 0]
        if found:
            at, self.found = min(found, key=lambda hit: hit[0])
            self._held = ""
            return held[:at]
        keep = 0 if last else max((_overlap(held, stop) for stop in self._stops), default=0)
        self._held = held[len(held) - keep :]
        return held[: len(held) - keep]


def _overlap(text: str, stop: str) -> int:
    """Characters at the end of `text` with which `stop` begins."""
    most = min(len(text), len(stop) - 1)
    return next((n for n in range(most, 0, -1) if stop.startswith(text[-n:])), 0)
