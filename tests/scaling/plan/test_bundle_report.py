import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from html import escape
from pathlib import Path

import pytest

from family.manifest import load_manifest
from scaling.plan.asked import ask
from scaling.plan.bundledocument import BundleChoice, BundleDocument
from scaling.plan.bundleplan import plan_bundle
from scaling.plan.bundlereport import bundle_report, pareto, placement, timeline
from scaling.plan.bundlescore import ranked
from scaling.plan.fleet import Fleet
from scaling.plan.fleetfile import read_fleet
from tests.scaling.plan.test_bundle_plan import FLEET

NAMES = {"svg": "http://www.w3.org/2000/svg"}


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    (tmp_path / "fleet.yaml").write_text(FLEET, encoding="utf-8")
    return replace(read_fleet(tmp_path / "fleet.yaml"), name="a<b")


@pytest.fixture
def document(fleet: Fleet, tiny_bundle: Path) -> BundleDocument:
    """What is planned, with a deployment over three tiers in the best one's place."""
    order = ranked(ask(fleet, tiny_bundle, None))
    best = next(one for one in order if len(one.nodes) == 3 and one.send == "rows")
    return replace(plan_bundle(fleet, [tiny_bundle]), best=best)


def boxes(drawing: str) -> list[tuple[str, float, float]]:
    """Title, x and width of each."""
    found = ET.fromstring(drawing).findall("svg:rect", NAMES)
    return [(r.findtext("svg:title", "", NAMES), float(r.attrib["x"]), float(r.attrib["width"])) for r in found]


def test_the_page_is_whole_and_needs_nothing_else(document: BundleDocument) -> None:
    page = bundle_report(document)
    assert page.startswith("<!doctype html>") and page.rstrip().endswith("</html>")
    assert "<script" not in page and not re.search(r'(src|href)="', page)
    assert "a&lt;b" in page and "a<b" not in page
    drawings = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(drawings) == 3
    for drawing in drawings:
        ET.fromstring(drawing)
    assert all(escape(str(finding)) in page for finding in document.findings)


def test_segments_are_drawn_as_wide_as_their_layers_are_many(document: BundleDocument, tiny_bundle: Path) -> None:
    found = boxes(placement(document))
    layers = [segment.n_layers for segment in load_manifest(tiny_bundle).spec.segments]
    assert [title.split(":")[0] for title, _, _ in found] == [n.tier for n in document.best.nodes for _ in n.segments]
    widths = [width + 1 for _, _, width in found]
    assert [w / widths[0] for w in widths] == pytest.approx([n / layers[0] for n in layers], rel=0.01)


def test_every_deployment_of_the_front_is_a_mark(document: BundleDocument) -> None:
    assert document.best not in document.pareto
    drawing = pareto(document)
    assert drawing.count(" s a text, ") == len(document.pareto) + 1
    assert pareto(replace(document, best=document.pareto[0])).count(" s a text, ") == len(document.pareto)
    assert drawing.count('fill-opacity="1.0"') == 1 and f"{document.best.text_s:.3g} s a text" in drawing


def fixed(fleet: Fleet, bundle: Path) -> list[BundleChoice]:
    """Of fixed exits nothing is done at the same time."""
    found = [one for one in ranked(ask(fleet, bundle, None)) if re.fullmatch(r"FixedExit\(\d\)", one.policy)]
    return [one for one in found if one.send == "rows"]


def test_a_text_is_on_its_legs_all_of_the_time(fleet: Fleet, tiny_bundle: Path) -> None:
    """All of it where it never waits for others."""
    found = fixed(replace(fleet, traffic=replace(fleet.traffic, requests_per_second=1e-6)), tiny_bundle)
    assert {len(one.nodes) for one in found} == {1, 2, 3} and any(not one.legs[0].tier for one in found)
    for one in found:
        first = sum(leg.first_s + leg.first_back_s for leg in one.legs)
        assert first == pytest.approx(one.ttft_mean_s, rel=1e-3), one
        assert sum(leg.token_s + leg.token_back_s for leg in one.legs) == pytest.approx(one.tpot_mean_s, rel=1e-3), one
        ends = [(x + width) for _, x, width in boxes(timeline(one))]
        assert max(ends) <= 841


def test_a_slower_link_is_a_longer_way_and_no_more_work(fleet: Fleet, tiny_bundle: Path) -> None:
    far = replace(fleet, links=(replace(fleet.links[0], rtt_s=0.5, up_bps=1e6), *fleet.links[1:]))

    def legs(fleet: Fleet) -> dict[str, float]:
        pair = next(o for o in fixed(fleet, tiny_bundle) if [n.tier for n in o.nodes] == ["device", "edge"])
        return {leg.where: leg.token_s + leg.token_back_s for leg in pair.legs}

    near_s, far_s = legs(fleet), legs(far)
    assert far_s["link to edge"] > near_s["link to edge"] + 0.49
    assert far_s["device"] > 0 and far_s["edge"] > 0
