"""SVG drawings as text: shapes, axes, points in a plane, and what happens when."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

COLOURS = ("#2a9d8f", "#e9a03b", "#d1495b", "#5b6bb5", "#7a8b3c", "#8d5a97")
"""By tier, in the order of the plan's."""
WAY = "#9aa4b1"
"""Of a link."""
GREY, LIGHT = "#888", "#ddd"
WIDTH = 860.0


@dataclass(frozen=True)
class Point:
    """Of a plane."""

    x: float
    y: float
    size: float
    """Its area, over that of the largest."""
    group: int
    """Of one colour."""
    title: str
    chosen: bool = False


@dataclass(frozen=True)
class Bar:
    """Something that takes time."""

    row: int
    begin_s: float
    end_s: float
    colour: str
    title: str


def scatter(points: Sequence[Point], x_title: str, y_title: str, groups: Sequence[tuple[int, str]]) -> str:
    """Amounts against values; x may range over several powers of ten. The chosen ones are filled."""
    left, top, width, height = 70.0, 20.0, WIDTH - 100, 320.0
    x, ticks_x = wide_axis([point.x for point in points], left, left + width)
    y, ticks_y = axis([point.y for point in points], top + height, top)
    parts = [line(left, top + height, left + width, top + height, GREY), line(left, top, left, top + height, GREY)]
    for value in ticks_x:
        parts += [line(x(value), top, x(value), top + height, LIGHT)]
        parts.append(text(x(value), top + height + 16, f"{value:.4g}", GREY, "middle"))
    for value in ticks_y:
        parts += [line(left, y(value), left + width, y(value), LIGHT)]
        parts.append(text(left - 6, y(value) + 4, f"{value:.4g}", GREY, "end"))
    for point in points:
        radius, opacity = 3 + 8 * math.sqrt(point.size), 0.9 if point.chosen else 0.25
        parts.append(circle(x(point.x), y(point.y), radius, COLOURS[point.group], point.title, opacity))
    parts.append(text(left + width, top + height + 34, x_title, GREY, "end"))
    parts.append(text(left, top - 6, y_title, GREY))
    for k, (group, name) in enumerate(groups):
        parts.append(text(left + 10 + 110 * k, top + height + 34, f"● {name}", COLOURS[group]))
    return svg(top + height + 44, parts)


def bars(rows: Sequence[str], columns: Sequence[tuple[str, Sequence[Bar]]]) -> str:
    """On each row, when something is done; side by side for several things of which each has its own scale."""
    left, gap, height = 120.0, 40.0, 22.0
    width = (WIDTH - left - 20 - gap * (len(columns) - 1)) / len(columns)
    parts = [text(6, 36 + height * k, name, GREY) for k, name in enumerate(rows)]
    for k, (head, found) in enumerate(columns):
        start, total = left + k * (width + gap), max(bar.end_s for bar in found) or 1e-9
        parts.append(text(start, 14, head, "#444"))
        for bar in found:
            x, wide = start + bar.begin_s / total * width, max((bar.end_s - bar.begin_s) / total * width, 1.0)
            title = f"{bar.title}: {(bar.end_s - bar.begin_s) * 1e3:,.2f} ms"
            parts.append(rect(x, 22 + height * bar.row, wide, height - 5, bar.colour, title))
    return svg(30 + height * len(rows), parts)


def axis(values: Sequence[float], low_at: float, high_at: float) -> tuple[Callable[[float], float], list[float]]:
    """A linear scale with some room, and its ticks."""
    low, high = min(values), max(values)
    room = (high - low) * 0.08 or abs(high) * 0.1 or 1.0
    low, high = low - room, high + room
    unit = 10 ** math.floor(math.log10((high - low) / 4))
    step = next(unit * m for m in (1, 2, 5, 10) if (high - low) / (unit * m) <= 6)
    ticks = [k * step for k in range(math.ceil(low / step), math.floor(high / step) + 1)]

    def scale(value: float) -> float:
        return low_at + (value - low) / (high - low) * (high_at - low_at)

    return scale, ticks


def wide_axis(values: Sequence[float], low_at: float, high_at: float) -> tuple[Callable[[float], float], list[float]]:
    """A scale for amounts over several powers of ten, 0 among them: logarithmic, and straight around 0; with ticks."""
    low, high = min(values), max(values)
    unit = max(min((value for value in values if value > 0), default=1.0), high / 1e6)
    first, last = math.asinh(low / unit) - 0.15, math.asinh(high / unit) + 0.15

    def scale(value: float) -> float:
        return low_at + (math.asinh(value / unit) - first) / (last - first) * (high_at - low_at)

    powers = range(math.floor(math.log10(unit)), math.ceil(math.log10(max(high, unit))) + 1)
    nice = [0.0, *(m * 10.0**k for k in powers for m in (1, 2, 5))]
    ticks: list[float] = []
    for tick in nice:
        inside = low_at <= scale(tick) <= high_at
        if inside and (not ticks or scale(tick) - scale(ticks[-1]) > 50):
            ticks.append(tick)
    return scale, ticks


def svg(height: float, parts: Sequence[str]) -> str:
    """A drawing of `WIDTH` by so much."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH:.0f} {height:.0f}" width="100%" role="img">'
        + "".join(parts)
        + "</svg>"
    )


def rect(x: float, y: float, width: float, height: float, fill: str, title: str, opacity: float = 1.0) -> str:
    """A box with a tooltip."""
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{fill}" opacity="{opacity}">'
        f"<title>{escape(title)}</title></rect>"
    )


def circle(x: float, y: float, radius: float, colour: str, title: str, opacity: float) -> str:
    """A circle with a tooltip."""
    return (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" fill="{colour}" fill-opacity="{opacity}" '
        f'stroke="{colour}">'
        f"<title>{escape(title)}</title></circle>"
    )


def line(x1: float, y1: float, x2: float, y2: float, colour: str, width: float = 1.0) -> str:
    """From one point to another."""
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" stroke-width="{width:.1f}"/>'
    )


def text(x: float, y: float, words: str, colour: str, anchor: str = "start") -> str:
    """One line of words."""
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="{colour}" font-size="12" text-anchor="{anchor}">{escape(words)}</text>'
