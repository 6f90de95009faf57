"""One forward of many sessions gives each what it would have had alone, to the bit."""

import random
from pathlib import Path

import numpy as np
import pytest

from family.manifest import Manifest, load_manifest
from relay.batch import MOST_ROWS
from relay.engine.graph import OrtGraph, OrtView
from relay.errors import BusyError
from relay.views import Forward

SLOTS = 12


@pytest.fixture(scope="module", params=["tiny_bundle", "tiny_bundle_int8", "tiny_bundle_int4"])
def bundle(request: pytest.FixtureRequest) -> tuple[Path, Manifest]:
    folder: Path = request.getfixturevalue(request.param)
    return folder, load_manifest(folder)


@pytest.fixture(params=["segment-1", "segment-2", "exit-1", "exit-3"])
def graph(request: pytest.FixtureRequest, bundle: tuple[Path, Manifest]) -> OrtGraph:
    folder, manifest = bundle
    kind, index = request.param.split("-")
    return OrtGraph(folder, manifest.graph(kind, int(index)), manifest.spec, threads=2, slots=SLOTS)


@pytest.fixture
def segment(tiny_bundle: Path) -> OrtGraph:
    manifest = load_manifest(tiny_bundle)
    return OrtGraph(tiny_bundle, manifest.graph("segment", 1), manifest.spec, threads=2, slots=SLOTS)


def inputs(graph: OrtGraph, count: int, seed: int) -> np.ndarray:
    """What a graph reads: ids, or rows."""
    rng = np.random.default_rng(seed)
    if graph._input == "input_ids":
        return rng.integers(0, 512, count)
    return rng.standard_normal((count, 64), dtype=np.float32)


def test_companions_lengths_and_going_back_change_no_bit(graph: OrtGraph) -> None:
    draw = random.Random(7)
    length, sessions = 90, 7
    texts = [inputs(graph, length, seed) for seed in range(sessions)]
    alone = [OrtView(graph).run(text, 0, length if graph.is_exit else 0) for text in texts]
    views, at = [OrtView(graph) for _ in texts], [0] * sessions
    while min(at) < length:
        batch, members = [], draw.sample(range(sessions), draw.randint(1, sessions))
        for i in members:
            at[i] = draw.randint(0, at[i]) if draw.random() < 0.1 else min(at[i], length - 1)
            count = min(draw.choice([1, 1, 1, 2, 5, 40]), length - at[i])
            batch.append(Forward(views[i], texts[i][at[i] : at[i] + count], at[i], count if graph.is_exit else 0))
        for i, forward, made in zip(members, batch, graph.run(batch), strict=True):
            at[i] += len(forward.rows)
            assert np.array_equal(made, alone[i][forward.past : at[i]])


def test_the_last_positions_of_the_context_are_read_beside_long_runs(segment: OrtGraph) -> None:
    """A long run pads the others far beyond their end."""
    full, long, context = OrtView(segment), OrtView(segment), 256
    text = inputs(segment, context, 1)
    alone = OrtView(segment).run(text, 0)
    full.run(text[:-1], 0)
    batch = [Forward(full, text[-1:], context - 1), Forward(long, text[:200], 0)]
    last, first = segment.run(batch)
    assert np.array_equal(last, alone[-1:]) and np.array_equal(first, alone[:200])


def test_sessions_far_apart_in_the_pool_share_a_forward(segment: OrtGraph) -> None:
    views = [OrtView(segment) for _ in range(SLOTS - 1)]
    between = views[5].run(np.arange(30), 0)
    batch = [Forward(views[i], np.arange(n), 0) for i, n in ((10, 3), (2, 70), (7, 1))]
    for forward, made in zip(batch, segment.run(batch), strict=True):
        assert np.array_equal(made, OrtView(segment).run(forward.rows, 0))
    assert np.array_equal(views[5].run(np.arange(29, 30), 29), between[-1:]), "who took no part kept what it had"


def test_slots_are_free_again_once_their_views_are_gone(segment: OrtGraph) -> None:
    views = [OrtView(segment) for _ in range(SLOTS)]
    with pytest.raises(BusyError, match="try again later"):
        OrtView(segment)
    expected = views[0].run(np.arange(9), 0)
    del views[3:5], views[0]
    again = OrtView(segment)
    assert again.slot == 0
    assert np.array_equal(again.run(np.arange(9), 0), expected)


def test_the_parts_of_a_forward_are_the_whole(segment: OrtGraph) -> None:
    whole = Forward(OrtView(segment), np.arange(50), 7, wanted=20)
    parts = [whole.part(a, b) for a, b in ((0, 10), (10, 35), (35, 36), (36, 50))]
    assert np.array_equal(np.concatenate([p.rows for p in parts]), whole.rows)
    assert [(p.past, p.wanted) for p in parts] == [(7, 0), (17, 5), (42, 1), (43, 14)]
    assert MOST_ROWS >= 512, "what a peer may send in a message is read in few forwards"
