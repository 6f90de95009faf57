"""Where the engine does work: forward by forward, whoever asked, whoever still waits and whoever else has some."""

import asyncio
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from family.manifest import load_manifest
from relay import batch
from relay.engine import worker
from relay.engine.engine import BundleEngine
from relay.engine.graph import OrtGraph, OrtView
from relay.errors import BusyError
from relay.views import Forward, Made, Work
from tests.relay.processes import PATIENCE_S, eventually


class Spy(OrtGraph):
    """A graph that tells who shared each forward and where it ran, and holds one that it is told to hold."""

    def __init__(self, bundle: Path) -> None:
        manifest = load_manifest(bundle)
        super().__init__(bundle, manifest.graph("segment", 1), manifest.spec, threads=1, slots=16)
        self.batches: list[list[int]] = []
        """Rows of each view of each forward."""
        self.threads: list[threading.Thread] = []
        self.holds = False
        self.held, self.go_on = threading.Event(), threading.Event()

    def run(self, batch: Sequence[Forward]) -> list[Made]:
        self.threads.append(threading.current_thread())
        self.batches.append([len(forward.rows) for forward in batch])
        if self.holds:
            self.held.set()
            assert self.go_on.wait(PATIENCE_S)
        return super().run(batch)


@pytest.fixture
def engine(tiny_bundle: Path) -> Iterator[BundleEngine]:
    opened = BundleEngine(tiny_bundle, load_manifest(tiny_bundle), (1,), threads=1)
    yield opened
    opened.close()


@pytest.fixture
def spy(tiny_bundle: Path) -> Spy:
    return Spy(tiny_bundle)


def reading(graph: OrtGraph, *counts: int, seed: int = 0) -> Work[Made]:
    """Work of some forwards, one after the other; gives all rows that they made."""
    ids = np.random.default_rng(seed).integers(0, 256, sum(counts))
    view, made = OrtView(graph), list[Made]()
    for count in counts:
        past = sum(len(rows) for rows in made)
        made.append((yield Forward(view, ids[past : past + count], past)))
    return np.concatenate(made)


def alone(graph: OrtGraph, *counts: int, seed: int = 0) -> Made:
    ids = np.random.default_rng(seed).integers(0, 256, sum(counts))
    return OrtView(graph).run(ids, 0)


def test_short_work_is_done_at_once_only_while_nobody_else_has_any(
    engine: BundleEngine, spy: Spy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "RECENT_S", float("inf"))
    monkeypatch.setattr(worker, "AT_ONCE_S", float("inf"))

    async def scenario() -> None:
        here = threading.current_thread()
        await engine.run(reading(spy, 1, 1, 1), "a")
        assert [thread is here for thread in spy.threads] == [True, False, False], "a second round is not short"
        await engine.run(reading(spy, 1), "a")
        assert spy.threads.pop() is here
        await engine.run(reading(spy, 1), "a", at_once=False)
        await engine.run(reading(spy, 100), "a")
        await engine.run(reading(spy, 1), "b")  # "a" may come back at any moment
        engine.leave("a")
        monkeypatch.setattr(worker, "AT_ONCE_S", 0.0)
        await engine.run(reading(spy, 1), "b")  # it would hold up the loop for too long
        assert here not in spy.threads[1:]

    asyncio.run(scenario())


def test_who_waits_for_a_graph_shares_its_next_forward(engine: BundleEngine, spy: Spy) -> None:
    async def scenario() -> None:
        spy.holds = True
        first = asyncio.ensure_future(engine.run(reading(spy, 20, 1), "first"))
        await asyncio.to_thread(spy.held.wait, PATIENCE_S)
        others = [asyncio.ensure_future(engine.run(reading(spy, n, 2, seed=n), n)) for n in (1, 3, 5)]
        await asyncio.sleep(0)
        spy.holds = False
        spy.go_on.set()
        (read, _), *rest = await asyncio.gather(first, *others)
        assert spy.batches == [[20], [1, 1, 3, 5], [2, 2, 2]]
        assert np.array_equal(read, alone(spy, 20, 1))
        for n, (made, _) in zip((1, 3, 5), rest, strict=True):
            assert np.array_equal(made, alone(spy, n, 2, seed=n))

    asyncio.run(scenario())


def test_work_that_is_cancelled_ends_before_the_owners_next_begins(engine: BundleEngine, spy: Spy) -> None:
    order: list[str] = []

    def work(name: str) -> Work[None]:
        order.append(f"{name} begins")
        try:
            yield from reading(spy, 1, 1)
            order.append(f"{name} is done")
        finally:
            order.append(f"{name} ends")

    async def scenario() -> None:
        spy.holds = True
        given_up = asyncio.ensure_future(engine.run(work("first"), "owner", at_once=False))
        await asyncio.to_thread(spy.held.wait, PATIENCE_S)
        given_up.cancel()
        await asyncio.gather(given_up, return_exceptions=True)
        later = asyncio.ensure_future(engine.run(work("second"), "owner"))
        await asyncio.sleep(0)
        spy.holds = False
        spy.go_on.set()
        await later
        assert order == ["first begins", "first ends", "second begins", "second is done", "second ends"]

    asyncio.run(scenario())


def test_a_forward_that_fails_fails_its_own_work_alone(engine: BundleEngine, spy: Spy) -> None:
    def bad() -> Work[None]:
        yield Forward(OrtView(spy), np.array([10**6]), 0)

    async def scenario() -> None:
        spy.holds = True
        first = asyncio.ensure_future(engine.run(reading(spy, 20), "first"))
        await asyncio.to_thread(spy.held.wait, PATIENCE_S)
        good = asyncio.ensure_future(engine.run(reading(spy, 2), "good"))
        broken = asyncio.ensure_future(engine.run(bad(), "bad"))
        await asyncio.sleep(0)
        spy.holds = False
        spy.go_on.set()
        await first
        with pytest.raises(Exception, match="indices"):
            await broken
        made, _ = await good
        assert np.array_equal(made, alone(spy, 2))

    asyncio.run(scenario())


def test_who_still_waits_when_the_engine_is_closed_is_cancelled(tiny_bundle: Path, spy: Spy) -> None:
    engine = BundleEngine(tiny_bundle, load_manifest(tiny_bundle), (1,), threads=1)

    async def scenario() -> None:
        spy.holds = True
        waiting = asyncio.ensure_future(engine.run(reading(spy, 20, 20), "a"))
        await asyncio.to_thread(spy.held.wait, PATIENCE_S)
        closing = asyncio.get_running_loop().run_in_executor(None, engine.close)
        spy.go_on.set()
        await closing
        await eventually(waiting.done)
        assert waiting.cancelled() or not waiting.exception()

    asyncio.run(scenario())


def test_slots_are_free_again_once_their_views_are_gone(spy: Spy) -> None:
    views = [OrtView(spy) for _ in range(16)]
    with pytest.raises(BusyError, match="try again later"):
        OrtView(spy)
    expected = views[0].run(np.arange(9), 0)
    del views[3:5], views[0]
    again = OrtView(spy)
    assert again.slot == 0
    assert np.array_equal(again.run(np.arange(9), 0), expected)


def test_sessions_far_apart_in_the_pool_share_a_forward(spy: Spy) -> None:
    views = [OrtView(spy) for _ in range(12)]
    batch = [Forward(views[i], np.arange(n), 0) for i, n in ((11, 3), (2, 70), (7, 1))]
    for forward, made in zip(batch, spy.run(batch), strict=True):
        assert np.array_equal(made, OrtView(spy).run(forward.rows, 0))
