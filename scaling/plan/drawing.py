"""SVG drawings as text: shapes, axes, points in a plane, and what happens when.

Colours are the page's variables (`scaling.plan.report.STYLE`), for light and dark. Tiers have those of Okabe and Ito
(https://jfly.uni-koeln.de/color/), which colour-blind readers tell apart, as a tint that words can stand on; groups of
points also differ in shape.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

COLOURS = tuple(f"var(--tier{i})" for i in range(6))
"""By tier, in the order of the plan's."""
WAY = "var(--way)"
"""Of a link."""
INK, GREY, LIGHT = "var(--ink)", "var(--quiet)", "var(--line)"
WIDTH = 860.0
LETTER = 6.6
"""About how wide a letter is."""
_SIDES = ((24, 0.0), (4, 0.25), (3, 0.0), (4, 0.0), (5, 0.0), (6, 0.0))
"""Of each group's mark, and by how much of a side it is turned: a circle, a square, a triangle and so on."""


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


def scatter(
    points: Sequence[Point],
    x_title: str,
    y_title: str,
    groups: Sequence[tuple[int, str]],
    sizes: Sequence[tuple[float, str]],
) -> str:
    """Amounts against values, less of both being better, and the line of what nothing beats in both.

    x may range over several powers of ten. The chosen ones are filled; `sizes` are examples for the legend.
    """
    left, top, width, height = 70.0, 24.0, WIDTH - 100, 340.0
    bottom = top + height
    x, ticks_x = wide_axis([point.x for point in points], left, left + width)
    y, ticks_y = axis([point.y for point in points], bottom, top)
    parts = [line(left, bottom, left + width, bottom, GREY), line(left, top, left, bottom, GREY)]
    for value in ticks_x:
        parts += [line(x(value), top, x(value), bottom, LIGHT)]
        parts.append(text(x(value), bottom + 16, f"{value:.4g}", GREY, "middle"))
    for value in ticks_y:
        parts += [line(left, y(value), left + width, y(value), LIGHT)]
        parts.append(text(left - 6, y(value) + 4, f"{value:.4g}", GREY, "end"))
    parts.append(_front([(x(point.x), y(point.y)) for point in points], left + width))
    for point in sorted(points, key=lambda point: (point.chosen, -point.size)):
        parts.append(mark(x(point.x), y(point.y), point.size, point.group, point.title, point.chosen))
    for point in points:
        if point.chosen:
            parts.append(text(x(point.x), y(point.y) - _radius(point.size) - 5, "the plan", INK, "middle", halo=True))
    parts.append(text(left + width, bottom + 36, x_title, GREY, "end"))
    parts.append(text(left, top - 8, y_title, GREY))
    at = left + 8
    legend = [(0.3, group, name) for group, name in groups] + [(size, -1, name) for size, name in sizes]
    for size, group, name in legend:
        parts += [mark(at, bottom + 32, size, group, name), text(at + 14, bottom + 36, name, INK)]
        at += 34 + LETTER * len(name)
    return svg(bottom + 48, parts)


def _front(points: Sequence[tuple[float, float]], end: float) -> str:
    """Steps over the points (on paper, where y grows downwards) that no other is left of and below."""
    path, lowest = "", -math.inf
    for x, y in sorted(points, key=lambda point: (point[0], -point[1])):
        if y > lowest:
            path += f"H{x:.1f}V{y:.1f}" if path else f"M{x:.1f},{y:.1f}"
            lowest = y
    return f'<path d="{path}H{end:.1f}" fill="none" stroke="{GREY}" stroke-dasharray="2 3"/>'


def bars(rows: Sequence[str], columns: Sequence[tuple[str, Sequence[Bar]]]) -> str:
    """On each row, when something is done; side by side for several things of which each has its own scale."""
    left, gap, height = 12 + LETTER * max(18, *map(len, rows)), 40.0, 24.0
    width = (WIDTH - left - 20 - gap * (len(columns) - 1)) / len(columns)
    parts = [text(6, 38 + height * k, name, INK) for k, name in enumerate(rows)]
    for k, (head, found) in enumerate(columns):
        start, total = left + k * (width + gap), max(bar.end_s for bar in found) or 1e-9
        parts.append(text(start, 14, head, INK))
        for bar in found:
            x, wide = start + bar.begin_s / total * width, max((bar.end_s - bar.begin_s) / total * width, 1.0)
            took = milliseconds(bar.end_s - bar.begin_s)
            parts.append(rect(x, 22 + height * bar.row, wide, height - 4, bar.colour, f"{bar.title}: {took}"))
            if wide > LETTER * len(took) + 8:
                parts.append(text(x + 5, 37 + height * bar.row, took, INK))
    return svg(30 + height * len(rows), parts)


def milliseconds(seconds: float) -> str:
    """Three digits, or all before the point."""
    ms = seconds * 1e3
    return f"{ms:,.0f} ms" if ms >= 100 else f"{ms:.3g} ms"


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
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH:.0f} {height:.0f}" width="100%">'
        + "".join(parts)
        + "</svg>"
    )


def rect(x: float, y: float, width: float, height: float, colour: str, title: str) -> str:
    """A box with a tooltip."""
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{colour}" fill-opacity="0.35" '
        f'stroke="{colour}"><title>{escape(title)}</title></rect>'
    )


def mark(x: float, y: float, size: float, group: int, title: str, filled: bool = False) -> str:
    """A point of a group with a tooltip; group -1 is none. Its area is as `size`, at most 1."""
    sides, turned = _SIDES[max(group, 0)]
    radius = _radius(size) * math.sqrt(math.tau / (sides * math.sin(math.tau / sides)))
    turns = [math.tau * ((k + turned * 2) / sides - 0.25) for k in range(sides)]
    corners = " ".join(f"{x + radius * math.cos(turn):.1f},{y + radius * math.sin(turn):.1f}" for turn in turns)
    colour = COLOURS[group] if group >= 0 else GREY
    return (
        f'<polygon points="{corners}" fill="{colour}" fill-opacity="{1.0 if filled else 0.25 if group >= 0 else 0}" '
        f'stroke="{INK if filled else colour}"><title>{escape(title)}</title></polygon>'
    )


def _radius(size: float) -> float:
    """Of a circle of that area; a point that takes nothing is still seen."""
    return 3 + 7 * math.sqrt(size)


def line(x1: float, y1: float, x2: float, y2: float, colour: str, width: float = 1.0) -> str:
    """From one point to another."""
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" stroke-width="{width:.1f}"/>'
    )


def text(x: float, y: float, words: str, colour: str, anchor: str = "start", halo: bool = False) -> str:
    """One line of words; with a halo of paper where lines may pass below it."""
    around = ' paint-order="stroke" stroke="var(--paper)" stroke-width="3"' if halo else ""
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f'<text {place} fill="{colour}" font-size="12"{around}>{escape(words)}</text>'
