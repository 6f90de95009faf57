"""Findings: what is noteworthy about runs or a fit, in words, carried by the result. Errors are `ScalingError`s."""

from collections.abc import Sequence
from dataclasses import dataclass

MOST_NAMED = 8
"""Of the rows that a finding is about."""


@dataclass(frozen=True)
class Finding:
    """One thing that a reader of the law should know."""

    code: str
    """What kind, for programs: `duplicates`, `narrow-n`, ..."""
    warning: bool
    """Whether the law may be wrong because of it; else it only says what was done."""
    text: str
    """What was found and what to do about it."""

    def __str__(self) -> str:
        return f"{'warning' if self.warning else 'note'}: {self.text}"


def warning(code: str, text: str) -> Finding:
    """A finding because of which the law may be wrong."""
    return Finding(code, True, text)


def note(code: str, text: str) -> Finding:
    """A finding that says what was done."""
    return Finding(code, False, text)


def counted(count: int, what: str, many: str = "") -> str:
    """`1 loss`, `5 losses`."""
    return f"{count} {what if count == 1 else many or what + 's'}"


def listed(names: Sequence[object], most: int = MOST_NAMED) -> str:
    """`a, b, c and 12 more`."""
    shown = ", ".join(str(name) for name in names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")
