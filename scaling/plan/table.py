"""A plan for people: the ranked table, and the table of known machines."""

from collections.abc import Iterator, Sequence

from scaling.plan.beside import Beside
from scaling.plan.bundledocument import BundleChoice, BundleDocument, NodePlan
from scaling.plan.document import PlanDocument
from scaling.plan.explain import explanation_lines
from scaling.plan.hardware import GIGA, PRECISIONS, TERA, rows
from scaling.plan.money import PER_HOUR
from scaling.plan.plan import Figure, Plan, TierPlan
from scaling.plan.words import aim, plain, share, small, span

SHOWN = 4
"""Choices of the law's draws in a line."""


def plan_table(document: PlanDocument) -> str:
    """The best plan by tier, then the others in order."""
    best = document.best
    exits = f"exit{'s' * (best.granularity > 1)} after layer{'s' * (best.granularity > 1)} "
    exits += ", ".join(map(str, best.exit_layers))
    best_of = aim(document.objective, "quality")
    lines = [
        f"{document.fleet}: {best_of} of {document.candidates:,} placements that keep the goals",
        f"law {document.law.name}: {document.law.formula}",
        "",
        f"train N = {best.parameters:.3g} parameters (width {best.d_model}, {best.n_layers} layers)",
        f"on D = {best.tokens:.3g} tokens in {best.training_flops:.3g} FLOPs, with {exits}",
        "",
        *aligned([TIER_HEAD, *map(tier_row, best.tiers)]),
        "TTFT and TPOT: of what the tier decides, at the goals' percentile at the peak; below, TPOT is a mean of all",
        "load, GB and Mbit/s of rows that come in: of one machine at the peak",
        f"a million tokens: {best.cost_per_million:.3g} USD and {best.kwh_per_million:.3g} kWh",
        "",
        *aligned([PLAN_HEAD, *(plan_row(i, plan) for i, plan in enumerate((best, *document.others), 1))]),
        "",
        *_beside(document.beside),
        *draws_lines(document),
        *(["", *explanation_lines(document.explanation), ""] if document.explanation else ()),
        *(f"outside: {text}" for text in best.outside),
        *map(str, document.findings),
    ]
    return "\n".join(lines) + "\n"


TIER_HEAD = (
    "tier", "layers", "decides", "loss (90%)", "TTFT ms", "TPOT ms", "machines", "load", "GB", "of GB", "Mbit/s",
    PER_HOUR, "W",
)  # fmt: skip
PLAN_HEAD = ("", "tiers", "exits", "N", "D", "loss", "TPOT ms", PER_HOUR, "W")


def tier_row(tier: TierPlan) -> tuple[str, ...]:
    """Cells under `TIER_HEAD`."""
    return (
        tier.tier,
        span(tier.first_layer, tier.exit_layer - 1),
        f"{tier.decides:.0%}",
        figure(tier.loss),
        f"{tier.ttft_s * 1e3:,.0f}",
        f"{tier.tpot_s * 1e3:.1f}",
        f"{tier.machines:,}",
        f"{tier.load:.1%}",
        f"{tier.memory_gb:.3g}",
        f"{tier.room_gb:.3g}",
        small(tier.rows_mbps),
        small(tier.cost_per_hour, 2),
        small(tier.power_w),
    )


def plan_row(i: int, plan: Plan) -> tuple[str, ...]:
    """Cells under `PLAN_HEAD`; i is its rank."""
    return (
        str(i),
        "+".join(tier.tier for tier in plan.tiers),
        ",".join(map(str, plan.exit_layers)),
        f"{plan.parameters:.3g}",
        f"{plan.tokens:.3g}",
        f"{plan.loss:.3f}",
        f"{plan.tpot_s * 1e3:.1f}",
        small(plan.cost_per_hour, 2),
        small(plan.power_w),
    )


def _beside(ways: Sequence[Beside]) -> Iterator[str]:
    if not ways:
        return
    head = ("beside it", "loss", "TPOT ms", PER_HOUR, "W", "")
    yield from aligned([head, *map(way_row, ways)])
    yield ""


def way_row(way: Beside) -> tuple[str, ...]:
    """Name, loss, TPOT, cost, power, what it is."""
    values = (way.loss, way.tpot_s and way.tpot_s * 1e3, way.cost_per_hour, way.power_w)
    cells = ("-" if value is None else small(value, places) for value, places in zip(values, _PLACES, strict=True))
    return way.name, *cells, way.what + (f"; fails {', '.join(way.fails)}" if way.fails else "")


_PLACES = (3, 1, 2, 0)
"""Decimals."""


def bundle_table(document: BundleDocument) -> str:
    """The best way to run a bundle by tier, and the others in order."""
    best = document.best
    best_of = aim(document.objective, "latency")
    lines = [
        f"{document.fleet}: {document.bundle}, {best_of} of {document.candidates:,} deployments",
        "",
        *aligned([NODE_HEAD, *map(node_row, best.nodes)]),
        "",
        *aligned([CHOICE_HEAD, *(choice_row(i, choice) for i, choice in enumerate((best, *document.others), 1))]),
        f"TTFT and TPOT are within these for {document.percentile:g} of 100 texts and tokens at the traffic's peak",
        "",
        *([*explanation_lines(document.explanation), ""] if document.explanation else ()),
        *(f"outside: {text}" for text in outside(document)),
        *map(str, document.findings),
    ]
    return "\n".join(lines).rstrip() + "\n"


NODE_HEAD = ("tier", "segments", "precision", "machines", "load", "sessions", "GB", "of GB", "ms per text", "known by")
CHOICE_HEAD = (
    "", "places", "machines", "weights", "policy", "send", "codec", "TTFT ms", "TPOT ms", "agrees", "kB up", PER_HOUR,
    "W", "but",
)  # fmt: skip


def node_row(node: NodePlan) -> tuple[str, ...]:
    """Cells under `NODE_HEAD`."""
    machines = "-" if node.machines is None else f"{node.machines:,}"
    segments = span(node.segments[0], node.segments[-1])
    sizes = (f"{node.load:.1%}", f"{node.sessions:.3g}", f"{node.memory_gb:.3g}", f"{node.room_gb:.3g}")
    return node.tier, segments, node.precision, machines, *sizes, f"{node.busy_s_per_text * 1e3:,.0f}", node.basis


def choice_row(i: int, choice: BundleChoice) -> tuple[str, ...]:
    """Cells under `CHOICE_HEAD`; i is its rank. The last says which goals it fails, and that it was not measured."""
    places = places_of(choice)
    machines = "+".join("-" if node.machines is None else f"{node.machines:,}" for node in choice.nodes)
    weights = "+".join(dict.fromkeys(node.precision for node in choice.nodes))
    agrees = "-" if choice.agreement is None else f"{choice.agreement:.1%}"
    times = (f"{choice.ttft_s * 1e3:,.0f}", f"{choice.tpot_s * 1e3:.1f}")
    but = [f"fails {', '.join(choice.misses)}"] if choice.misses else []
    but += ["outside of what was measured"] if choice.outside else []
    return (
        str(i), places, machines, weights, choice.policy, choice.send, choice.codec, *times, agrees,
        f"{choice.bytes_up_text / 1e3:,.1f}", small(choice.cost_per_hour, 2), small(choice.power_w), "; ".join(but),
    )  # fmt: skip


def places_of(choice: BundleChoice) -> str:
    """`device 1-2+cloud 3`."""
    return "+".join(f"{node.tier} {span(node.segments[0], node.segments[-1])}" for node in choice.nodes)


def outside(document: BundleDocument) -> list[str]:
    """What lies beyond what was measured, of all deployments that are shown."""
    return list(dict.fromkeys(text for choice in (document.best, *document.others) for text in choice.outside))


def draws_lines(document: PlanDocument) -> Iterator[str]:
    """What the law's draws choose, a line for each thing."""
    if document.chosen:
        yield f"what {document.draws} draws of the law choose:"
    for what, shares in document.chosen.items():
        rest = f" and {len(shares) - SHOWN} more" if len(shares) > SHOWN else ""
        yield f"  {what}: " + ", ".join(f"{one.what} ({share(one.share)})" for one in shares[:SHOWN]) + rest


def figure(value: Figure) -> str:
    """`2.344 (2.338 to 2.350)`."""
    return f"{value.value:.3f} ({value.low:.3f} to {value.high:.3f})"


def hardware_table() -> str:
    """The machines that are known by name."""
    head = ("name", "kind", *(f"{name}, T/s" for name in PRECISIONS), "GB/s", "GB", "W", "basis")
    lines = []
    for row in rows():
        speeds = (plain(float(f"{row.flops[name] / TERA:.3g}")) if name in row.flops else "-" for name in PRECISIONS)
        sizes = (f"{row.bandwidth_bytes / GIGA:.4g}", f"{row.memory_bytes / GIGA:.3g}", f"{row.busy_w:,.4g}")
        lines.append((row.name, row.kind, *speeds, *sizes, row.basis))
    return "\n".join(aligned([head, *lines])) + "\n"


def numeric(table: Sequence[Sequence[str]]) -> list[bool]:
    """Which columns of a table are numbers: all cells but the first begin with a digit."""
    columns = zip(*table, strict=True)
    return [all(cell[:1].isdigit() and " " not in cell for cell in column[1:] if cell != "-") for column in columns]


def aligned(table: Sequence[Sequence[str]]) -> Iterator[str]:
    """Lines of a table, columns of numbers set to the right."""
    columns = list(zip(*table, strict=True))
    widths, right = [max(map(len, column)) for column in columns], numeric(table)
    for row in table:
        cells = (
            cell.rjust(width) if is_right else cell.ljust(width)
            for cell, width, is_right in zip(row, widths, right, strict=True)
        )
        yield "  ".join(cells).rstrip()
