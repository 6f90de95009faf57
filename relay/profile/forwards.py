"""Times of single forwards of a bundle's graphs, and the memory that they take: the engine alone, without a node.

Every setting is timed for all graphs in turns, in relay order, so that a graph finds the caches as it would in a chain
on this machine: filled by the others. Keys and values are real, of rows that were read before; memory that was never
written would be read from one page.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray

from family.manifest import load_manifest
from family.profile import ForwardTime, GraphProfile, SegmentMemory
from family.spec import FamilySpec
from relay.batch import MOST_ROWS
from relay.engine.engine import BundleEngine
from relay.engine.selftest import is_chunk_invariant
from relay.node.node import resident_bytes
from relay.views import Forward, View

MOST_SESSIONS = 8
SHORT, LONG = 256, 2048
"""Contexts at which forwards are timed, beside none; less where the family's is shorter. A position costs more where
keys and values no longer fit a cache."""
FEW = (1, 2, 3, 4, 6, 8, 16, 32)
"""Rows of short forwards: a decode step, a verification."""
MANY = (64, 128, 256, MOST_ROWS)
"""Rows of long ones: parts of a prompt."""
TOGETHER = (1, 4)
"""Rows of each of several sessions."""
PASSES = 2
"""Through all settings, one after the other: what a machine does changes from second to second."""
BUDGET_S = 0.05
"""About so long a setting is repeated in a pass, all graphs together."""
MOST = 4
"""Times that it is measured in a pass."""
LONG_S = 0.2
"""What takes longer needs no first time that does not count."""


@dataclass(frozen=True)
class Setting:
    """One kind of forward, as `ForwardTime` has it; `rows` and `wanted` are of each session."""

    rows: int
    context: int
    wanted: int
    sessions: int = 1


def settings(context: int) -> Iterator[Setting]:
    """What is timed, in a family of that context."""
    long = min(LONG, context // 2)
    short = min(SHORT, long // 2)
    for rows in (*FEW, *MANY):
        if rows <= min(MOST_ROWS, long):
            for context in (0, short, long - rows):
                yield Setting(rows, context, 1)
    for rows in FEW[1:]:
        yield Setting(rows, short, rows)
    yield Setting(FEW[-1], short, 0)
    for rows in TOGETHER:
        for sessions in (2, 4, MOST_SESSIONS):
            yield Setting(rows, short, rows, sessions)


class _Timed:
    """One graph with views of as many sessions as are ever timed, and rows for them."""

    def __init__(self, kind: str, index: int, views: Sequence[View], spec: FamilySpec) -> None:
        self.kind, self.index = kind, index
        self._views = views
        rng = np.random.default_rng(index)
        self._rows: NDArray[np.float32] | NDArray[np.int64] = (
            rng.integers(0, spec.vocab_size, MOST_ROWS)
            if (kind, index) == ("segment", 1)
            else rng.standard_normal((MOST_ROWS, spec.d_model), dtype=np.float32)
        )
        self.found: dict[Setting, list[float]] = {}

    def fill(self, session: int, positions: int) -> None:
        """Read so many rows, so that later forwards find a context."""
        for first in range(0, positions, MOST_ROWS):
            self._run([(session, min(MOST_ROWS, positions - first), first, 0)])

    def time(self, setting: Setting) -> float:
        """One forward; in seconds."""
        wanted = setting.wanted if self.kind == "exit" else 0
        started = time.perf_counter()
        self._run([(i, setting.rows, setting.context, wanted) for i in range(setting.sessions)])
        return time.perf_counter() - started

    def _run(self, parts: Sequence[tuple[int, int, int, int]]) -> None:
        batch = [Forward(self._views[i], self._rows[:rows], past, wanted) for i, rows, past, wanted in parts]
        self._views[0].graph.run(batch)

    def profile(self) -> GraphProfile:
        """The medians."""
        times = (
            ForwardTime(
                rows=s.rows * s.sessions,
                context=s.context,
                wanted=s.wanted * s.sessions if self.kind == "exit" else 0,
                sessions=s.sessions,
                ms=round(median(found) * 1e3, 4),
            )
            for s, found in self.found.items()
        )
        return GraphProfile(self.kind, self.index, tuple(dict.fromkeys(times)))


def measure_forwards(bundle: Path, threads: int) -> tuple[tuple[GraphProfile, ...], tuple[SegmentMemory, ...]]:
    """All graphs of a bundle. For a process of its own, whose memory nothing else grows."""
    manifest = load_manifest(bundle)
    spec = manifest.spec
    timed: list[_Timed] = []
    memory: list[SegmentMemory] = []
    for segment in spec.segments:
        engine = BundleEngine(bundle, manifest, (segment.index,), threads, MOST_SESSIONS)
        is_chunk_invariant(engine, spec)
        opened = resident_bytes()
        pair = [
            _Timed(kind, segment.index, [open_(segment.index) for _ in range(MOST_SESSIONS)], spec)
            for kind, open_ in (("segment", engine.open_segment), ("exit", engine.open_exit))
        ]
        for graph in pair:
            graph.fill(0, min(MOST_ROWS, spec.context))
        written = min(MOST_ROWS, spec.context) * _kv_bytes(spec, segment.n_layers, segment.index)
        grown = max(0, resident_bytes() - opened - written)
        memory.append(SegmentMemory(segment.index, grown))
        timed += pair
    _fill(timed, spec.context)
    for _ in range(PASSES):
        for setting in settings(spec.context):
            _time(timed, setting)
    return tuple(graph.profile() for graph in timed), tuple(memory)


def _kv_bytes(spec: FamilySpec, n_layers: int, exit_: int) -> int:
    """Of one position, in a segment of so many layers and in its exit."""
    layers = n_layers + (spec.exit(exit_).branch != "norm")
    return layers * 2 * spec.kv_heads * spec.head_dim * 4


def _fill(timed: Sequence[_Timed], context: int) -> None:
    long = min(LONG, context // 2)
    for graph in timed:
        for session in range(MOST_SESSIONS):
            graph.fill(session, min(SHORT, long // 2) if session else long)


def _time(timed: Sequence[_Timed], setting: Setting) -> None:
    """All graphs in turns, a few times; the first does not count, unless it is long."""
    started = time.perf_counter()
    for number in range(1 + MOST):
        took = [graph.time(setting) for graph in timed]
        spent_s = time.perf_counter() - started
        if number or spent_s > LONG_S:
            for graph, seconds in zip(timed, took, strict=True):
                graph.found.setdefault(setting, []).append(seconds)
        if spent_s > (BUDGET_S if number else LONG_S):
            break
