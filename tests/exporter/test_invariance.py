"""A row's result is the same to the bit, whatever else was computed with it."""

from itertools import cycle
from pathlib import Path

import numpy as np
import pytest

from exporter.attention import ATTENTION
from family.manifest import Graph
from tests.exporter.helpers import I64, Bundle, chunks, wandering

N = 70
PRECISIONS = ["tiny_bundle", "tiny_bundle_int8", "tiny_bundle_int4"]
HISTORIES = {
    "ones": chunks(cycle([1]), N),
    "twos": chunks(cycle([2]), N),
    "threes": chunks(cycle([3]), N),
    "prefill then decode": chunks([N - 20, *[1] * 20], N),
    "drafts": chunks([5, *[1, 4, 1, 7, 2] * N], N),
    **{f"going back, seed {seed}": wandering(seed, N) for seed in range(4)},
}


def ids(n: int, vocab: int = 512, seed: int = 0) -> I64:
    return np.random.default_rng(seed).integers(0, vocab, n)


@pytest.fixture(scope="module", params=PRECISIONS)
def bundle(request: pytest.FixtureRequest) -> Bundle:
    return Bundle(request.getfixturevalue(request.param), ids(N))


@pytest.fixture(params=["segment-1", "segment-2", "segment-3", "exit-1", "exit-2", "exit-3"])
def graph(request: pytest.FixtureRequest, bundle: Bundle) -> Graph:
    kind, index = request.param.split("-")
    return bundle.manifest.graph(kind, int(index))


@pytest.mark.parametrize("threads", [1, 2])
def test_every_split_gives_the_bits_of_one_shot(bundle: Bundle, graph: Graph, threads: int) -> None:
    expected = bundle.one_shot(graph)
    runner = bundle.runner(graph, threads)  # one set of buffers: every history overwrites the one before
    for name, history in HISTORIES.items():
        assert np.array_equal(bundle.replay(runner, history), expected), name


def test_wanted_rows_are_those_of_all_rows(bundle: Bundle) -> None:
    for g in (1, 2, 3):
        graph = bundle.manifest.graph("exit", g)
        expected = bundle.one_shot(graph)
        for wanted in ([N - 1], [0], [5, 6, 40], [40, 5], list(range(N - 1))):
            found = bundle.runner(graph).run(bundle.given(graph), 0, np.array(wanted))
            assert np.array_equal(found, expected[wanted]), (g, wanted)


def test_an_exit_may_consume_rows_without_giving_logits(bundle: Bundle) -> None:
    graph = bundle.manifest.graph("exit", 1)
    runner, rows = bundle.runner(graph), bundle.given(graph)
    nothing = runner.run(rows[:-1], 0, np.zeros(0, np.int64))
    assert nothing.shape == (0, bundle.manifest.spec.vocab_size)
    assert np.array_equal(runner.run(rows[-1:], N - 1), bundle.one_shot(graph)[-1:])


def test_another_continuation_after_going_back_leaves_no_trace(bundle: Bundle) -> None:
    graph = bundle.manifest.graph("segment", 1)
    other = np.concatenate([bundle.rows[0][:30], ids(N - 30, seed=1)])
    runner = bundle.runner(graph)
    runner.run(other, 0)
    again = runner.run(bundle.rows[0][30:], 30)
    assert np.array_equal(again, bundle.one_shot(graph)[30:])


def test_the_last_position_of_the_context_works(tiny_bundle: Path) -> None:
    context = Bundle(tiny_bundle, ids(1)).manifest.spec.context
    full = Bundle(tiny_bundle, ids(context))
    graph = full.manifest.graph("segment", 1)
    found = full.replay(full.runner(graph), chunks([context - 3, 1, 1, 1], context))
    assert np.array_equal(found, full.one_shot(graph))
    assert np.isfinite(found).all()


def test_every_attention_layer_has_its_own_buffers(bundle: Bundle) -> None:
    import onnx

    for graph in bundle.manifest.graphs:
        nodes = onnx.load(str(bundle.folder / graph.files[0]), load_external_data=False).graph.node
        attention = [node for node in nodes if node.op_type == ATTENTION]
        assert len(attention) == graph.kv_layers
        assert len({node.input[3] for node in attention}) == graph.kv_layers
