"""What several pictures share: colours, ticks, words."""

from typing import Any

import numpy as np
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from scaling.runs import Conventions

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's (jfly.uni-koeln.de/color), which colour-blind people can tell apart."""
MARKERS = "os^Dv<>ph"
SHORT = 2.5
"""Decades below which an axis has more ticks than its powers of ten."""
TOKENS = "training tokens D"
MEAN_LOSS = "mean loss over exits (nats per token)"
EXIT_LOSS = "loss of the exit (nats per token)"


def size_label(conventions: Conventions) -> str:
    """The label of an axis of N."""
    return f"model size N (parameters{'' if conventions.params == 'total' else ', without embeddings'})"


def compute_label(c: float) -> str:
    """A budget: `3·10²⁰ FLOPs`, in matplotlib's notation."""
    return f"{_number(*_parts(c))} FLOPs"


def colour_of(index: int) -> str:
    """The colour of the index-th series; after the last, the first again."""
    return COLOURS[index % len(COLOURS)]


def percent_axis(axis: Any) -> None:
    """Ticks in percent for numbers that are fractions."""
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}%"))


def log_axis(axis: Any) -> None:
    """Ticks of a logarithmic axis at 1, 2 and 5 times powers of ten where it is short, else at powers of ten."""
    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if np.log10(high / low) < SHORT else (1,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: _number(*_parts(value))))
    axis.set_minor_formatter(NullFormatter())


def powers_axis(axis: Any, low: float, high: float) -> None:
    """Ticks for an axis of logarithms to base 10, from log10(low) to log10(high): 10^k, or 1, 2, 5 of a short range."""
    powers = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    fronts = (1, 2, 5) if np.log10(high / low) < SHORT else (1,)
    ticks = {np.log10(front) + power: _number(front, power) for power in powers for front in fronts}
    shown = {at: text for at, text in ticks.items() if np.log10(low) - 1e-9 <= at <= np.log10(high) + 1e-9}
    axis.set_ticks(list(shown), labels=list(shown.values()))


def _parts(value: float) -> tuple[float, int]:
    """Front, to two digits, and power of ten."""
    front, power = f"{value:.1e}".split("e")
    return float(front), int(power)


def _number(front: float, power: int) -> str:
    return f"$10^{{{power}}}$" if abs(front - 1) < 0.05 else f"${front:.2g}\\cdot 10^{{{power}}}$"
