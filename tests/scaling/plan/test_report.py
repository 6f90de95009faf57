import re
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest

from scaling.plan.document import Chosen, PlanDocument
from scaling.plan.drawing import COLOURS, LETTER, WAY, WIDTH, Point, scatter
from scaling.plan.exitlaw import shipped
from scaling.plan.fleet import Goals
from scaling.plan.planner import plan
from scaling.plan.report import report
from scaling.plan.svg import pareto, placement, timeline
from tests.scaling.plan.fleets import machine, small_fleet


@pytest.fixture(scope="module")
def document() -> PlanDocument:
    """Of a fleet whose device and box hold a part of the layers only."""
    fleet = small_fleet(
        machines=(machine("a", 0.01, 5, 0.0002), machine("b", 0.05, 20, 0.00024), machine("c", 1.0, 200, 8)),
        goals=Goals(ttft_s=1.0, tpot_s=0.1, loss={"a": 4.0, "c": 3.225}),
        objective="energy",
        compute=9e12,
    )
    return plan(replace(fleet, name="a<b"), shipped("sweep-exits"), explained=True).document


def bars(svg: str) -> list[tuple[str, float, float]]:
    """Title, x and width of every bar."""
    names = {"svg": "http://www.w3.org/2000/svg"}
    found = ET.fromstring(svg).findall("svg:rect", names)
    return [
        (rect.findtext("svg:title", "", names), float(rect.attrib["x"]), float(rect.attrib["width"])) for rect in found
    ]


def test_the_page_is_whole_and_needs_nothing_else(document: PlanDocument) -> None:
    page = report(document)
    assert page.startswith("<!doctype html>") and page.rstrip().endswith("</html>")
    assert "<script" not in page and not re.search(r'(src|href)="', page)
    assert "a&lt;b" in page and "a<b" not in page
    for tier in document.best.tiers:
        assert tier.hardware in page
    assert "why this G" in page and "Beside it" in page
    drawings = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(drawings) == 2 + sum(tier.decides > 0 for tier in document.best.tiers)
    for drawing in drawings:
        ET.fromstring(drawing)


def test_layers_are_drawn_as_wide_as_they_are_many(document: PlanDocument) -> None:
    tiers = document.best.tiers
    assert len(tiers) > 1
    strips = [bar for bar in bars(placement(document)) if any(bar[0].startswith(f"{t.tier}: ") for t in tiers)]
    widths = [width for _, _, width in strips]
    counts = [tier.exit_layer - tier.first_layer for tier in tiers]
    assert [width / widths[0] for width in widths] == pytest.approx([n / counts[0] for n in counts], rel=0.01)


def test_every_plan_of_the_pareto_set_is_a_mark_with_its_figures(document: PlanDocument) -> None:
    drawing = pareto(document)
    assert drawing.count(": N ") == len({*document.pareto, document.best})
    assert drawing.count('fill-opacity="1.0"') == drawing.count(">the plan<") == 1
    assert f"loss {document.best.loss:.3f}" in drawing


def test_the_dotted_line_has_what_nothing_beats_in_both() -> None:
    at = [(1.0, 5.0), (2.0, 6.0), (2.0, 4.0), (3.0, 4.5), (4.0, 1.0)]  # the second and the fourth are beaten
    drawing = scatter([Point(x, y, 0.5, 0, f"{x:g}") for x, y in at], "cost", "loss", [(0, "all")], [])
    (path,) = re.findall(r'<path d="(.*?)"', drawing)
    assert path.count("V") == 2


def test_words_and_boxes_stay_within_the_drawing(document: PlanDocument) -> None:
    first, *others = document.best.tiers
    thin = replace(document.best, tiers=(replace(first, exit_layer=1), *others))
    middle = replace(document.best, tiers=(replace(first, tier="a-longer-name", exit_layer=4), *others))
    shown = [placement(replace(document, best=best)) for best in (document.best, thin, middle)]
    for drawing in (*shown, pareto(document), *(timeline(middle, i) for i in range(len(middle.tiers)))):
        for x, anchor, words in re.findall(r'<text x="(.*?)" y=".*?" text-anchor="(.*?)".*?>(.*?)</text>', drawing):
            wide = LETTER * len(words)
            left = float(x) - {"start": 0, "middle": wide / 2, "end": wide}[anchor]
            assert left >= 0 and left + wide <= WIDTH + 10, words


def test_the_page_has_the_colours_of_light_and_dark(document: PlanDocument) -> None:
    page = report(document)
    style = page[: page.index("</style>")]
    assert "prefers-color-scheme: dark" in style
    assert {f"--{name}:" for name in re.findall(r"var\(--(\w+)\)", page)} <= set(re.findall(r"--\w+:", style))


def test_each_tier_keeps_its_colour_in_what_the_draws_choose(document: PlanDocument) -> None:
    tiers = [tier.tier for tier in document.best.tiers]
    other = {f"exit {name}": (Chosen("1 of 8", 1.0),) for name in ("nowhere", *reversed(tiers))}
    drawing = placement(replace(document, chosen=other))
    found = re.findall(r'fill="(var\(--\w+\))"[^>]*><title>exit (\w+) after', drawing)
    assert {name: colour for colour, name in found} == {**dict(zip(tiers, COLOURS, strict=False)), "nowhere": WAY}


def test_a_timeline_ends_when_the_token_is_there(document: PlanDocument) -> None:
    best = document.best
    for i, tier in enumerate(best.tiers):
        drawing = timeline(best, i)
        told = [float(x.replace(",", "")) for x in re.findall(r"token: ([\d.,]+) ms in the mean", drawing)]
        below = best.tiers[: i + 1]
        step = sum(t.times.step_s for t in below) + tier.times.exit_s
        step += sum(t.times.answer_s + t.times.row_up_s for t in below[1:])
        assert told[1] == pytest.approx(step * 1e3, abs=0.06)
