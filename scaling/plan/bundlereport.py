"""The report of a bundle's plan: the page of `scaling.plan.report`, with what a deployment has in place of a law's."""

from collections.abc import Iterator, Sequence
from html import escape

from scaling.plan.bundledocument import BundleChoice, BundleDocument, Leg
from scaling.plan.drawing import (
    COLOURS,
    GREY,
    INK,
    LETTER,
    WAY,
    WIDTH,
    Bar,
    Point,
    bars,
    line,
    rect,
    scatter,
    svg,
    text,
)
from scaling.plan.explain import explanation_lines
from scaling.plan.money import PER_HOUR
from scaling.plan.report import figure, html_table, page
from scaling.plan.table import CHOICE_HEAD, NODE_HEAD, choice_row, node_row, outside, places_of
from scaling.plan.words import aim, small, span

LANE = 52.0


def bundle_report(document: BundleDocument) -> str:
    """The whole page."""
    best = document.best
    title = f"{document.fleet}: {document.bundle}"
    agrees = "nobody measured how far they are" if best.agreement is None else f"{best.agreement:.1%} of them are"
    parts = [
        f"<h1>{escape(title)}</h1>",
        f"<p>{aim(document.objective, 'latency').capitalize()} of all {document.candidates:,} deployments: "
        f"<b>{escape(best.policy)}</b> on <b>{escape(places_of(best))}</b>, sends {escape(best.send)} as "
        f"{escape(best.codec)}. At the traffic's peak the first token comes after {best.ttft_mean_s * 1e3:,.0f} ms in "
        f"the mean, {document.percentile:g} of 100 within {best.ttft_s * 1e3:,.0f} ms; each further one after "
        f"{best.tpot_mean_s * 1e3:.1f} ms and within {best.tpot_s * 1e3:.1f} ms; {agrees} the last exit's. It costs "
        f"{small(best.cost_per_hour, 2)} USD an hour and takes {small(best.power_w)} W.</p>",
        *(f'<div class="mark">outside: {escape(told)}</div>' for told in outside(document)),
        *(f'<div class="mark">{escape(str(finding))}</div>' for finding in document.findings),
        "<h2>Where the segments run</h2>",
        figure(placement(document), "the segments of each tier, and the exits"),
        *html_table([NODE_HEAD, *map(node_row, best.nodes)]),
        "<p>Machines, sessions and memory are at the traffic's peak.</p>",
        "<h2>What no deployment beats in cost, time, agreement and power at once</h2>",
        figure(pareto(document), "cost and time of deployments"),
        "<p>Marks are as large as many tokens are another than the last exit's. Dotted: what nothing beats in cost and "
        "time alone.</p>",
        "<h2>What the time is spent on</h2>",
        figure(timeline(best), "what a text takes on each tier and link"),
        "<p>Means of a text that has its machines to itself. What is done at the same time stands one after the other "
        "here.</p>",
        "<h2>Other deployments, in order</h2>",
        *html_table([CHOICE_HEAD, *(choice_row(i, one) for i, one in enumerate((best, *document.others), 1))]),
    ]
    if document.explanation:
        parts += ["<h2>Why</h2>", f"<pre>{escape(chr(10).join(explanation_lines(document.explanation)))}</pre>"]
    return page(title, parts)


def placement(document: BundleDocument) -> str:
    """A lane for each tier with the layers of its segments, and the exits at their ends."""
    layers, left = document.exit_layers, 10.0
    cell = (WIDTH - 2 * left) / layers[-1]
    ends = (0, *layers)
    bottom = 8 + LANE * len(document.best.nodes)
    parts = [line(left + layer * cell - 1, 4, left + layer * cell - 1, bottom, GREY) for layer in layers]
    for k, node in enumerate(document.best.nodes):
        top = 8 + LANE * k
        for g in node.segments:
            x, width = left + ends[g - 1] * cell, (layers[g - 1] - ends[g - 1]) * cell
            title = f"{node.tier}: segment {g}, layers {ends[g - 1]} to {layers[g - 1] - 1}, {node.precision}"
            parts.append(rect(x, top, width - 1, LANE - 18, COLOURS[k], title))
        several = "s" * (len(node.segments) > 1)
        words = f"{node.tier}, segment{several} {span(node.segments[0], node.segments[-1])}"
        start, end = left + ends[node.segments[0] - 1] * cell, left + layers[node.segments[-1] - 1] * cell
        inside = LETTER * len(words) + 10 < WIDTH - start
        parts.append(text(start + 5 if inside else end - 5, top + 21, words, INK, "start" if inside else "end"))
    for g, layer in enumerate(layers, 1):
        x = left + layer * cell
        row = bottom + 12 + 14 * ((len(layers) - g) % 2)
        parts.append(text(x, row, f"exit {g}, layer {layer}", GREY, "end" if x > 100 else "start"))
    return svg(bottom + 34, parts)


def pareto(document: BundleDocument) -> str:
    """Cost against a text's time, marks as large as many tokens differ; the best deployment is filled."""
    best = document.best
    found = [*(one for one in document.pareto if one != best), best]
    most = max(1 - (one.agreement or 0.0) for one in found) or 1.0
    points = []
    for one in found:
        agrees = "-" if one.agreement is None else f"{one.agreement:.1%}"
        title = (
            f"{places_of(one)}: {one.policy}, {one.send} as {one.codec}, {one.text_s:.3g} s a text, agrees {agrees}, "
        )
        title += f"{small(one.cost_per_hour, 2)} {PER_HOUR}, {small(one.power_w)} W"
        size = (1 - (one.agreement or 0.0)) / most
        points.append(Point(one.cost_per_hour, one.text_s, size, len(one.nodes) - 1, title, one == best))
    groups = [(n, f"{n + 1} tier{'s' if n else ''}") for n in sorted({point.group for point in points})]
    unknown = any(one.agreement is None for one in found)
    sizes = [(0.0, "all tokens the last exit's"), (1.0, "not measured" if unknown else f"{most:.1%} differ")]
    return scatter(points, PER_HOUR, "seconds of a whole text", groups, sizes)


def timeline(best: BundleChoice) -> str:
    """The first token and a further one: on each tier and link, when."""
    first = [*_bars(best.legs, [(leg.first_s, leg.first_back_s) for leg in best.legs])]
    step = [*_bars(best.legs, [(leg.token_s, leg.token_back_s) for leg in best.legs])]
    first_s = sum(leg.first_s + leg.first_back_s for leg in best.legs)
    token_s = sum(leg.token_s + leg.token_back_s for leg in best.legs)
    heads = f"first token: {first_s * 1e3:,.1f} ms", f"a further token: {token_s * 1e3:,.1f} ms in the mean"
    return bars([leg.where for leg in best.legs], list(zip(heads, (first, step), strict=True)))


def _bars(legs: Sequence[Leg], ways: Sequence[tuple[float, float]]) -> Iterator[Bar]:
    """Up one after the other, then back over the links."""
    now, tiers = 0.0, [leg.where for leg in legs if leg.tier]
    for row, (leg, (there, _)) in enumerate(zip(legs, ways, strict=True)):
        colour = COLOURS[tiers.index(leg.where)] if leg.tier else WAY
        yield Bar(row, now, now + there, colour, "its work" if leg.tier else "the way up")
        now += there
    for row, (leg, (_, back)) in reversed([*enumerate(zip(legs, ways, strict=True))]):
        if not leg.tier:
            yield Bar(row, now, now + back, WAY, "the way back")
            now += back
