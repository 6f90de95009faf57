"""Bit for bit: whatever way rows came, the logits are those of the same graphs in one process in one shot."""

import asyncio
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from family.manifest import load_manifest
from relay import hop
from relay.engine.engine import BundleEngine
from relay.engine.graph import OrtGraph
from relay.errors import UnreachableError
from relay.messages import Answer, Logits, Question
from relay.policy import Rule
from relay.sampling import F32, Sampling, sample
from relay.views import Forward, Made
from tests.relay.fakes import limits
from tests.relay.world import RULES, SAMPLINGS, SEGMENTS, World, ask, decided, shared_base

Engines = dict[int, BundleEngine]


def open_engines(bundle: Path, threads: int) -> Engines:
    manifest = load_manifest(bundle)
    return {index: BundleEngine(bundle, manifest, (index,), threads) for index in range(1, SEGMENTS + 1)}


@pytest.fixture(scope="module", params=["f32", "int4"])
def engines(request: pytest.FixtureRequest, tiny_bundle: Path, tiny_bundle_int4: Path) -> Iterator[Engines]:
    opened = open_engines(tiny_bundle if request.param == "f32" else tiny_bundle_int4, threads=1)
    yield opened
    for engine in opened.values():
        engine.close()


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hop, "RECONNECT_DELAYS_S", (0.0,) * 6)


def one_shot(engines: Engines, ids: list[int], exit_: int, want: int) -> Logits:
    """The logits of the last `want` positions, every graph run once over the whole sequence."""
    rows = engines[1].open_segment(1).run(np.array(ids), 0)
    for index in range(2, exit_ + 1):
        rows = engines[index].open_segment(index).run(rows, 0)
    return engines[exit_].open_exit(exit_).run(rows, 0, want)


Step = tuple[int, int, int, int, Sampling, Rule | None]


async def run_history(world: World, engines: Engines, steps: list[Step], vocab_size: int) -> None:
    """Each step: take ids back, add some and drafts after them, ask an exit about these; compare every logit."""
    ids: list[int] = []

    def logits_at(prefix: list[int], exit_: int) -> F32:
        return one_shot(engines, prefix, exit_, 1)[0]

    for exit_, fresh, back, n_drafts, sampling, rule in steps:
        del ids[max(0, len(ids) - back) :]
        ids += [world.random.randrange(vocab_size) for _ in range(fresh or not ids)]
        sent = list(ids)
        for _ in range(n_drafts):
            right = sample(logits_at(sent, exit_), sampling, len(sent))
            sent.append(right if world.random.random() < 0.7 else world.random.randrange(vocab_size))
        want = n_drafts + 1
        question = Question(
            exit_, want, drafts=tuple(sent[len(ids) :]), sampling=sampling, rule=rule, logprobs=2, logits=True
        )
        try:
            answer = await ask(world, sent, shared_base(world, sent, want), question)
        except UnreachableError:
            continue
        assert isinstance(answer, Answer) and answer.logits is not None
        assert (answer.exit, list(answer.tokens)) == decided(logits_at, ids, question)
        expected = one_shot(engines, sent, answer.exit, want)[: len(answer.tokens)]
        assert np.array_equal(answer.logits, expected)
        assert len(answer.logprobs) == len(answer.tokens)
        ids = sent[: len(sent) - want + len(answer.tokens)]
    await asyncio.gather(*world.arrivals)


steps = st.lists(
    st.tuples(
        st.integers(1, SEGMENTS),
        st.integers(0, 9),
        st.integers(0, 12),
        st.integers(0, 3),
        st.sampled_from(SAMPLINGS),
        st.sampled_from(RULES),
    ),
    min_size=1,
    max_size=10,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=steps, seed=st.integers(0, 2**32), fault_rate=st.sampled_from([0.0, 0.15, 0.4]))
def test_logits_do_not_depend_on_the_way_rows_came(
    engines: Engines, steps: list[Step], seed: int, fault_rate: float
) -> None:
    world = World(engines, seed, fault_rate)
    asyncio.run(run_history(world, engines, steps, vocab_size=256))


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    histories=st.lists(steps, min_size=2, max_size=4),
    seed=st.integers(0, 2**32),
    fault_rate=st.sampled_from([0.0, 0.15]),
    cut=st.sampled_from([(16, 8, 512), (2, 1, 5)]),
)
def test_logits_do_not_depend_on_companions(
    engines: Engines, histories: list[list[Step]], seed: int, fault_rate: float, cut: tuple[int, int, int]
) -> None:
    with limits(*cut):
        asyncio.run(run_together(engines, histories, seed, fault_rate, vocab_size=256))


async def run_together(
    engines: Engines, histories: list[list[Step]], seed: int, fault_rate: float, vocab_size: int
) -> None:
    worlds = [World(engines, seed + i, fault_rate, rows_per_message=16) for i in range(len(histories))]
    runs = (run_history(w, engines, steps, vocab_size) for w, steps in zip(worlds, histories, strict=True))
    await asyncio.gather(*runs)


def drawn_steps(draw: random.Random, count: int) -> list[Step]:
    return [
        (
            draw.randint(1, 3),
            draw.choice([1, 1, 1, 2, 7, 40]),
            draw.choice([0, 0, 3, 9]),
            draw.choice([0, 0, 2]),
            draw.choice(SAMPLINGS),
            draw.choice(RULES),
        )
        for _ in range(count)
    ]


def test_the_real_family_at_four_bits_is_literal(smollm_int4: Path) -> None:
    engines = open_engines(smollm_int4, threads=2)
    world = World(engines, seed=4, fault_rate=0.1, rows_per_message=16)
    asyncio.run(run_history(world, engines, drawn_steps(random.Random(11), 40), vocab_size=49152))
    for engine in engines.values():
        engine.close()


@pytest.mark.parametrize("precision", ["int4", "int8"])
def test_the_real_family_is_literal_in_company(precision: str, request: pytest.FixtureRequest) -> None:
    engines = open_engines(request.getfixturevalue(f"smollm_{precision}"), threads=2)
    shared: list[int] = []
    run = OrtGraph.run

    def counted(graph: OrtGraph, batch: Sequence[Forward]) -> list[Made]:
        shared.append(len(batch))
        return run(graph, batch)

    draw = random.Random(12)
    with patch.object(OrtGraph, "run", counted):
        asyncio.run(run_together(engines, [drawn_steps(draw, 12) for _ in range(4)], 5, 0.1, vocab_size=49152))
    assert max(shared) > 1
    for engine in engines.values():
        engine.close()
