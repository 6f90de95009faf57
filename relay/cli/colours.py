"""What may go to a terminal: colours where they are wanted, and no control characters from elsewhere."""

import os
import unicodedata
from typing import TextIO

_COLOURS = (36, 33, 35, 32, 34, 31)  # cyan, yellow, magenta, green, blue, red
_FAINT = 2


def wants_colour(stream: TextIO) -> bool:
    """Whether to colour what goes to `stream`: on a terminal that is not `dumb`.

    A variable that is set and not empty overrules that: NO_COLOR (no-color.org), then FORCE_COLOR (force-color.org).
    """
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def shown(text: str, stream: TextIO) -> str:
    """A text from elsewhere, as `stream` may have it: on a terminal, without the characters that command it."""
    if not stream.isatty():
        return text
    return "".join(c for c in text if c in "\n\t" or unicodedata.category(c) != "Cc")


class Palette:
    """One colour per name, in the order in which names first appear."""

    def __init__(self, enabled: bool) -> None:
        self.enabled = enabled
        self._names: list[str] = []

    def paint(self, name: str, text: str) -> str:
        """`text` in the colour of `name`."""
        if name not in self._names:
            self._names.append(name)
        return self._styled(_COLOURS[self._names.index(name) % len(_COLOURS)], text)

    def faint(self, text: str) -> str:
        """`text` as a remark beside what matters."""
        return self._styled(_FAINT, text)

    def _styled(self, style: int, text: str) -> str:
        return f"\x1b[{style}m{text}\x1b[0m" if self.enabled and text else text
