"""What several pictures share: colours that keep their order in grey print, ticks, words."""

from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import to_hex
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from scaling.law import FittedLaw
from scaling.runs import Conventions

BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#888888"
"""Okabe and Ito's blue and orange (jfly.uni-koeln.de/color), which colour-blind people can tell apart."""
LIGHTEST = 0.82
"""Of the scale of `shades`: still legible on white."""
MARKERS = "os^Dv<>ph"
FRONTS: tuple[tuple[float, ...], ...] = ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 6, 8))
"""Ticks of a logarithmic axis between powers of ten, by how short it is."""
FEWEST_TICKS = 3
MOST_TICKS = 5
TOKENS = "training tokens D"
LOSS = "loss (nats per token)"
MEAN_LOSS = "mean loss over exits (nats per token)"
LAST_LOSS = "loss of the last exit (nats per token)"
EXIT_LOSS = "loss of the exit (nats per token)"


def size_label(conventions: Conventions) -> str:
    """The label of an axis of N."""
    return f"model size N (parameters{'' if conventions.params == 'total' else ', without embeddings'})"


def granularity_label(law: FittedLaw, g: float) -> str:
    """Of which G and exit a surface is."""
    if not law.form.needs:
        return f"G = {g:g}"
    return f"G = {g:g}, last exit" if "gamma" in law.form.parameters else "last exit, any G"


def shades(count: int) -> list[str]:
    """Colours of an ordered series, from dark to light: of viridis, whose lightness rises evenly."""
    return [to_hex(colormaps["viridis"](at)) for at in np.linspace(0, LIGHTEST, max(count, 2))[:count]]


def marker_of(index: int) -> str:
    """The marker of the index-th series; after the last, the first again."""
    return MARKERS[index % len(MARKERS)]


def handle(label: str, **style: Any) -> Line2D:
    """An entry of a legend."""
    return Line2D([], [], label=label, **style)


def number_label(value: float) -> str:
    """`3·10²⁰`, to two digits, in matplotlib's notation."""
    front, power = f"{value:.1e}".split("e")
    return _number(float(front), int(power))


def compute_label(c: float) -> str:
    """A budget: `3·10²⁰ FLOPs`."""
    return f"{number_label(c)} FLOPs"


def percent_axis(axis: Any) -> None:
    """Ticks in percent for numbers that are fractions."""
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}%"))


def log_axis(axis: Any) -> None:
    """Ticks of a logarithmic axis, at powers of ten or, where these are few, between them too."""
    axis.set_major_locator(LogLocator(subs=_fronts(*axis.get_view_interval())))
    axis.set_major_formatter(FuncFormatter(lambda value, _: number_label(value)))
    axis.set_minor_formatter(NullFormatter())


def powers_axis(axis: Any, low: float, high: float) -> None:
    """Ticks for an axis of logarithms to base 10, from log10(low) to log10(high), as `log_axis` has them."""
    ticks = _ticks(_fronts(low, high), low, high)
    ticks = ticks[:: -(-len(ticks) // MOST_TICKS)]
    axis.set_ticks(np.log10(ticks), labels=[number_label(tick) for tick in ticks])


def _fronts(low: float, high: float) -> tuple[float, ...]:
    """The fewest of `FRONTS` that make `FEWEST_TICKS` ticks."""
    return next((fronts for fronts in FRONTS if len(_ticks(fronts, low, high)) >= FEWEST_TICKS), FRONTS[-1])


def _ticks(fronts: tuple[float, ...], low: float, high: float) -> list[float]:
    powers = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    every = (front * 10.0**power for power in powers for front in fronts)
    return [tick for tick in every if low * (1 - 1e-9) <= tick <= high * (1 + 1e-9)]


def _number(front: float, power: int) -> str:
    return f"$10^{{{power}}}$" if abs(front - 1) < 0.05 else f"${front:.2g}\\cdot 10^{{{power}}}$"
