"""The report of a plan: one HTML file with everything in it, no script, no network."""

from collections.abc import Iterator, Sequence
from html import escape

from scaling.plan.document import PlanDocument
from scaling.plan.explain import explanation_lines
from scaling.plan.money import PER_HOUR
from scaling.plan.svg import pareto, placement, timeline
from scaling.plan.table import PLAN_HEAD, TIER_HEAD, draws_lines, numeric, plan_row, tier_row, way_row
from scaling.plan.words import aim

STYLE = """
:root {
  color-scheme: light dark;
  --paper: #fff; --ink: #1d2329; --quiet: #5d6771; --line: #d8dce1; --soft: #f4f5f6; --mark: #fff3cd; --way: #8a94a0;
  --tier0: #0072b2; --tier1: #e69f00; --tier2: #009e73; --tier3: #d55e00; --tier4: #cc79a7; --tier5: #56b4e9;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #14181d; --ink: #e4e8ec; --quiet: #9aa5b0; --line: #343b43; --soft: #1d2329; --mark: #46390f;
    --tier0: #4aa3e0; --tier5: #f0e442;
  }
}
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 64rem;
  margin: 2em auto; padding: 0 1em }
h1 { font-size: 1.5em } h2 { font-size: 1.15em; margin-top: 2em } h3 { font-size: 1em; font-weight: 600 }
table { border-collapse: collapse; font-size: 13px; display: block; overflow-x: auto }
td, th { padding: 3px 9px; border-bottom: 1px solid var(--line); text-align: left; white-space: nowrap }
.number { text-align: right; font-variant-numeric: tabular-nums }
td.wide { white-space: normal; min-width: 18em }
pre { background: var(--soft); padding: 1em; overflow-x: auto; font-size: 13px }
figure { margin: 1em 0; overflow-x: auto }
svg { min-width: 40rem; display: block }
svg text { font-family: system-ui, sans-serif }
.mark { background: var(--mark); padding: .4em .8em; margin: .3em 0 }
"""


def report(document: PlanDocument) -> str:
    """The whole page."""
    best = document.best
    title = f"{document.fleet}: a plan"
    parts = [
        f"<h1>{escape(title)}</h1>",
        f"<p>{aim(document.objective, 'quality').capitalize()} of {document.candidates:,} placements that keep the "
        "goals. "
        f"Train <b>N = {best.parameters:.3g}</b> parameters (width {best.d_model}, {best.n_layers} layers) on "
        f"<b>D = {best.tokens:.3g}</b> tokens in {best.training_flops:.3g} FLOPs, with exits after layers "
        f"<b>{', '.join(map(str, best.exit_layers))}</b>: G = {best.granularity}. A million tokens take "
        f"{best.cost_per_million:.3g} USD and {best.kwh_per_million:.3g} kWh.</p>",
        *(f'<div class="mark">outside: {escape(text)}</div>' for text in best.outside),
        "<h2>Where the layers stand</h2>",
        figure(placement(document), "the layers of each tier, and the exits"),
        *html_table([TIER_HEAD, *map(tier_row, best.tiers)]),
        "<p>Losses have 90% intervals of the law's bootstrap; times are at the goals' percentile at the "
        "peak, in the tables below means; load, memory and rows that come in are one machine's at the peak.</p>",
        "<h2>What no plan beats in cost, latency, quality and energy at once</h2>",
        figure(pareto(document), "cost and loss of plans"),
        "<p>Marks are as large as the time per token is long. Dotted: what nothing beats in cost and loss alone.</p>",
        *_timelines(document),
        "<h2>Other plans, in order</h2>",
        *html_table([PLAN_HEAD, *(plan_row(i, plan) for i, plan in enumerate((best, *document.others), 1))]),
    ]
    if document.beside:
        head = ("", "loss", "TPOT ms", PER_HOUR, "W", "what it is")
        parts += ["<h2>Beside it</h2>", *html_table([head, *map(way_row, document.beside)])]
    parts += ["<h2>How sure the choice is</h2>", f"<pre>{escape(chr(10).join(draws_lines(document)))}</pre>"]
    if document.explanation:
        parts += ["<h2>Why</h2>", f"<pre>{escape(chr(10).join(explanation_lines(document.explanation)))}</pre>"]
    parts += ["<h2>The law</h2>", *_law(document)]
    return page(title, parts)


def page(title: str, parts: Sequence[str]) -> str:
    """One HTML file around a body's parts."""
    body = "\n".join(parts)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style></head>\n'
        f"<body>\n{body}\n</body></html>\n"
    )


def figure(drawing: str, what: str) -> str:
    """A drawing of something, for those who do not see it too; it may be moved sideways where the page is narrow."""
    return f'<figure role="img" aria-label="{escape(what)}" tabindex="0">{drawing}</figure>'


def _timelines(document: PlanDocument) -> Iterator[str]:
    yield "<h2>What the time is spent on</h2>"
    for i, tier in enumerate(document.best.tiers):
        if tier.decides:
            yield f"<h3>{escape(tier.tier)} decides ({tier.decides:.0%} of the requests)</h3>"
            yield figure(timeline(document.best, i), f"what a text takes on each tier and link up to {tier.tier}")


def _law(document: PlanDocument) -> Iterator[str]:
    law = document.law
    ranges = ", ".join(f"{name.upper()} {low:.3g} to {high:.3g}" for name, (low, high) in law.ranges.items())
    yield f"<p>{escape(law.name)}: L = {escape(law.formula)}, fitted to {escape(ranges)}.</p>"
    yield from (f'<div class="mark">{escape(str(finding))}</div>' for finding in document.findings)


def html_table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Rows of cells, the first of them the head."""
    numbers = numeric(rows)
    yield "<table>"
    for k, row in enumerate(rows):
        kind = "th" if k == 0 else "td"
        names = (
            " class=number" if number else " class=wide" if len(cell) > 40 else ""
            for cell, number in zip(row, numbers, strict=True)
        )
        cells = (f"<{kind}{name}>{escape(cell)}</{kind}>" for cell, name in zip(row, names, strict=True))
        yield f"<tr>{''.join(cells)}</tr>"
    yield "</table>"
