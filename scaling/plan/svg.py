"""SVG drawings of a plan: where the layers stand, the Pareto plot, what a text's time is spent on. Text only."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from html import escape

from scaling.plan.document import Chosen, PlanDocument
from scaling.plan.plan import Plan, TierPlan

COLOURS = ("#2a9d8f", "#e9a03b", "#d1495b", "#5b6bb5", "#7a8b3c", "#8d5a97")
"""By tier, in the order of the plan's."""
GREY, LIGHT = "#888", "#ddd"
WIDTH = 860.0


def placement(document: PlanDocument) -> str:
    """The trunk's layers by tier, the exits with their losses, and how often the law's draws choose each depth."""
    best, left, top = document.best, 10.0, 70.0
    cell = (WIDTH - 2 * left) / best.n_layers
    parts = [_histogram(document.chosen, left, top - 22, cell * best.n_layers)]
    for i, tier in enumerate(best.tiers):
        x, width = left + tier.first_layer * cell, (tier.exit_layer - tier.first_layer) * cell
        parts.append(_rect(x, top, width, 46, COLOURS[i], f"{tier.tier}: {tier.hardware}, {tier.precision}"))
        parts += [
            _line(x + k * cell, top, x + k * cell, top + 46, "#fff")
            for k in range(1, tier.exit_layer - tier.first_layer)
        ]
        parts.append(_text(x + 5, top + 28, f"{tier.tier} ({tier.exit_layer - tier.first_layer} layers)", "#fff"))
        end = x + width
        drop = top + 62 + 34 * (i % 2)
        parts.append(_line(end - 1, top + 46, end - 1, drop - 8, COLOURS[i], 2))
        label = f"exit {i + 1} after layer {tier.exit_layer}: loss {tier.loss.value:.3f}, decides {tier.decides:.0%}"
        parts.append(_text(end, drop + 4, label, COLOURS[i], "end"))
    return _svg(top + 110, parts)


def _histogram(chosen: Mapping[str, Sequence[Chosen]], left: float, base: float, width: float) -> str:
    """Bars at the relative depths that draws choose, as high as they are frequent."""
    bars = []
    for i, (what, shares) in enumerate((w, s) for w, s in chosen.items() if w.startswith("exit ")):
        for one in shares:
            layer, _, depth = one.what.partition(" of ")
            at = int(layer) / int(depth)
            height = 34 * one.share
            title = f"{what} after layer {one.what}: {one.share:.0%} of the draws"
            bars.append(_rect(left + at * width - 3, base - height, 5, height, COLOURS[i], title, 0.7))
    caption = _text(left, 12, "how often the law's draws choose each depth", GREY)
    return caption + "".join(bars) + _line(left, base, left + width, base, LIGHT)


def pareto(document: PlanDocument) -> str:
    """Cost against loss, circles as large as the time per token is long; the best plan is filled."""
    plans = [*document.pareto, document.best]
    left, top, width, height = 70.0, 20.0, WIDTH - 100, 320.0
    costs, losses = [plan.cost_per_hour for plan in plans], [plan.loss for plan in plans]
    slowest = max(plan.tpot_s for plan in plans) or 1.0
    x, ticks_x = _wide_axis(costs, left, left + width)
    y, ticks_y = _axis(losses, top + height, top)
    parts = [_line(left, top + height, left + width, top + height, GREY), _line(left, top, left, top + height, GREY)]
    for value in ticks_x:
        parts += [_line(x(value), top, x(value), top + height, LIGHT)]
        parts.append(_text(x(value), top + height + 16, f"{value:.4g}", GREY, "middle"))
    for value in ticks_y:
        parts += [_line(left, y(value), left + width, y(value), LIGHT)]
        parts.append(_text(left - 6, y(value) + 4, f"{value:.4g}", GREY, "end"))
    for plan in plans:
        colour = COLOURS[len(plan.tiers) - 1]
        mine = plan is document.best
        exits = ", ".join(map(str, plan.exit_layers))
        title = f"{_names(plan)}: N {plan.parameters:.3g}, exits {exits}, loss {plan.loss:.3f}, "
        title += f"{plan.cost_per_hour:.2f} per hour, {plan.tpot_s * 1e3:.1f} ms per token, {plan.power_w:,.0f} W"
        radius = 3 + 8 * math.sqrt(plan.tpot_s / slowest)
        parts.append(_circle(x(plan.cost_per_hour), y(plan.loss), radius, colour, title, 0.9 if mine else 0.25))
    parts.append(_text(left + width, top + height + 34, "cost per hour", GREY, "end"))
    parts.append(_text(left, top - 6, "loss, nats per token (mean over requests)", GREY))
    for g in sorted({len(plan.tiers) for plan in plans}):
        parts.append(_text(left + 10 + 70 * g, top + height + 34, f"● G = {g}", COLOURS[g - 1]))
    return _svg(top + height + 44, parts)


def timeline(best: Plan, i: int) -> str:
    """The first token and one further token of what tier i decides: on each tier and link, when."""
    rows = [*_names_of_rows(best, i)]
    first, step = [*_first(best.tiers[: i + 1])], [*_step(best.tiers[: i + 1])]
    left, gap, height = 120.0, 40.0, 22.0
    width = (WIDTH - left - gap - 20) / 2
    parts = [_text(6, 36 + height * k, name, GREY) for k, name in enumerate(rows)]
    for start, steps, words in ((left, first, "first token"), (left + width + gap, step, "a further token")):
        total = max(end for _, _, end, _ in steps) or 1e-9
        parts.append(_text(start, 14, f"{words}: {total * 1e3:,.1f} ms in the mean", "#444"))
        for row, begin, end, name in steps:
            x, wide = start + begin / total * width, max((end - begin) / total * width, 1.0)
            colour = COLOURS[row // 2] if row % 2 == 0 else "#9aa4b1"
            parts.append(
                _rect(x, 22 + height * row, wide, height - 5, colour, f"{name}: {(end - begin) * 1e3:,.2f} ms")
            )
    return _svg(30 + height * len(rows), parts)


Step = tuple[int, float, float, str]
"""Row, begin, end, name."""


def _names_of_rows(best: Plan, i: int) -> Iterator[str]:
    for k, tier in enumerate(best.tiers[: i + 1]):
        yield tier.tier
        if k < i:
            yield f"link to {best.tiers[k + 1].tier}"


def _first(tiers: Sequence[TierPlan]) -> Iterator[Step]:
    now = 0.0
    for k, tier in enumerate(tiers):
        times = tier.times
        if k:
            yield 2 * k - 1, now, now + times.answer_s / 2 + times.prompt_up_s, "the prompt's rows, half a round trip"
            now += times.answer_s / 2 + times.prompt_up_s
        else:
            now += times.answer_s / 2
        yield 2 * k, now, now + times.prefill_s, "the prompt through its layers"
        now += times.prefill_s
    yield from _back(tiers, now, tiers[-1].times.exit_first_s)


def _step(tiers: Sequence[TierPlan]) -> Iterator[Step]:
    now = 0.0
    for k, tier in enumerate(tiers):
        times = tier.times
        if k:
            yield 2 * k - 1, now, now + times.answer_s / 2 + times.row_up_s, "a row, half a round trip"
            now += times.answer_s / 2 + times.row_up_s
        yield 2 * k, now, now + times.step_s, "a token through its layers"
        now += times.step_s
    yield from _back(tiers, now, tiers[-1].times.exit_s)


def _back(tiers: Sequence[TierPlan], now: float, exit_s: float) -> Iterator[Step]:
    top = len(tiers) - 1
    yield 2 * top, now, now + exit_s, "its exit"
    now += exit_s
    for k in range(top, 0, -1):
        yield 2 * k - 1, now, now + tiers[k].times.answer_s / 2, "half a round trip"
        now += tiers[k].times.answer_s / 2


def _axis(values: Sequence[float], low_at: float, high_at: float) -> tuple[Callable[[float], float], list[float]]:
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


def _wide_axis(values: Sequence[float], low_at: float, high_at: float) -> tuple[Callable[[float], float], list[float]]:
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


def _names(plan: Plan) -> str:
    return "+".join(tier.tier for tier in plan.tiers)


def _svg(height: float, parts: Sequence[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH:.0f} {height:.0f}" width="100%" role="img">'
        + "".join(parts)
        + "</svg>"
    )


def _rect(x: float, y: float, width: float, height: float, fill: str, title: str, opacity: float = 1.0) -> str:
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{fill}" opacity="{opacity}">'
        f"<title>{escape(title)}</title></rect>"
    )


def _circle(x: float, y: float, radius: float, colour: str, title: str, opacity: float) -> str:
    return (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" fill="{colour}" fill-opacity="{opacity}" '
        f'stroke="{colour}">'
        f"<title>{escape(title)}</title></circle>"
    )


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, width: float = 1.0) -> str:
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" stroke-width="{width:.1f}"/>'
    )


def _text(x: float, y: float, text: str, colour: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="{colour}" font-size="12" text-anchor="{anchor}">{escape(text)}</text>'
