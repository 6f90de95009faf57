"""SVG drawings of a plan: where the layers stand, the Pareto plot, what a text's time is spent on. Text only."""

from collections.abc import Iterator, Sequence

from scaling.plan.document import PlanDocument
from scaling.plan.drawing import (
    COLOURS,
    GREY,
    INK,
    LETTER,
    LIGHT,
    WAY,
    WIDTH,
    Bar,
    Point,
    bars,
    line,
    milliseconds,
    rect,
    scatter,
    svg,
    text,
)
from scaling.plan.money import PER_HOUR
from scaling.plan.plan import Plan, TierPlan
from scaling.plan.words import share, small


def placement(document: PlanDocument) -> str:
    """The trunk's layers by tier, the exits with their losses, and how often the law's draws choose each depth."""
    best, left, top = document.best, 10.0, 70.0
    cell = (WIDTH - 2 * left) / best.n_layers
    parts = [_histogram(document, left, top - 22, cell * best.n_layers)]
    lines, labels = [], []
    for i, tier in enumerate(best.tiers):
        layers = tier.exit_layer - tier.first_layer
        x, width = left + tier.first_layer * cell, layers * cell
        parts.append(rect(x, top, width, 46, COLOURS[i], f"{tier.tier}: {tier.hardware}, {tier.precision}"))
        parts += [line(x + k * cell, top, x + k * cell, top + 46, LIGHT) for k in range(1, layers)]
        name = f"{tier.tier}, {layers} layer{'s' * (layers > 1)}"
        if LETTER * len(name) + 10 < width:
            labels.append(text(x + 5, top + 28, name, INK))
        end, drop = x + width, top + 64 + 20 * i
        lines.append(line(end - 1, top + 46, end - 1, drop, COLOURS[i], 2))
        label = f"{tier.tier}: exit {i + 1} after layer {tier.exit_layer}, "
        label += f"loss {tier.loss.value:.3f}, decides {tier.decides:.0%}"
        right = end < WIDTH / 2
        labels.append(text(end + (4 if right else -6), drop, label, INK, "start" if right else "end", halo=True))
    return svg(top + 64 + 20 * len(best.tiers), [*parts, *lines, *labels])


def _histogram(document: PlanDocument, left: float, base: float, width: float) -> str:
    """Bars at the relative depths that draws choose, as high as they are frequent; grey where the plan has none."""
    found = []
    colours = dict(zip((f"exit {tier.tier}" for tier in document.best.tiers), COLOURS, strict=False))
    for what, one in ((w, one) for w, shares in document.chosen.items() for one in shares if w.startswith("exit ")):
        layer, _, depth = one.what.partition(" of ")
        x, height = left + int(layer) / int(depth) * width, 34 * one.share
        title = f"{what} after layer {one.what}: {share(one.share)} of the draws"
        found.append(rect(x - 3, base - height, 5, height, colours.get(what, WAY), title))
    caption = text(left, 12, "how often the law's draws choose each depth", GREY)
    return caption + "".join(found) + line(left, base, left + width, base, LIGHT)


def pareto(document: PlanDocument) -> str:
    """Cost against loss, marks as large as the time per token is long; the best plan is filled."""
    plans = [*(plan for plan in document.pareto if plan != document.best), document.best]
    slowest, fastest = max(plan.tpot_s for plan in plans) or 1.0, min(plan.tpot_s for plan in plans)
    points = []
    for plan in plans:
        exits = ", ".join(map(str, plan.exit_layers))
        title = f"{_names(plan)}: N {plan.parameters:.3g}, exits {exits}, loss {plan.loss:.3f}, "
        spent = f"{small(plan.cost_per_hour, 2)} {PER_HOUR}", f"{plan.tpot_s * 1e3:.1f} ms per token"
        title += f"{', '.join(spent)}, {small(plan.power_w)} W"
        size, group = plan.tpot_s / slowest, len(plan.tiers) - 1
        points.append(Point(plan.cost_per_hour, plan.loss, size, group, title, plan is document.best))
    groups = [(g, f"G = {g + 1}") for g in sorted({point.group for point in points})]
    sizes = [(s / slowest, f"{milliseconds(s)} per token") for s in (fastest, slowest)]
    return scatter(points, PER_HOUR, "loss, nats per token (mean over requests)", groups, sizes)


def timeline(best: Plan, i: int) -> str:
    """The first token and one further token of what tier i decides: on each tier and link, when."""
    columns = []
    for words, steps in (("first token", _first), ("a further token", _step)):
        found = [
            Bar(row, begin, end, WAY if row % 2 else COLOURS[row // 2], name)
            for row, begin, end, name in steps(best.tiers[: i + 1])
        ]
        columns.append((f"{words}: {max(bar.end_s for bar in found) * 1e3:,.1f} ms in the mean", found))
    return bars([*_names_of_rows(best, i)], columns)


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


def _names(plan: Plan) -> str:
    return "+".join(tier.tier for tier in plan.tiers)
