"""Machines as they were measured: the seam's costs from a `family.profile.Profile`.

A forward's time is taken as

    f(rows) + sessions · a(rows of a sequence, context) + u(rows of a sequence) · (sessions - 1) + h(wanted),

a what attention takes for the positions before the rows, h for logits, u for each sequence after the first. All are
straight between what was measured, and go on beyond as they ended. What a text took through nodes beyond its forwards
is what the node itself costs.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from statistics import mean

import numpy as np

from family.errors import ProfileError
from family.profile import BundleProfile, ForwardTime, GraphProfile, Profile, TextTime
from scaling.plan.cost import Machine, NodeCost, Number, remembered


@dataclass(frozen=True)
class Curve:
    """Straight between points, and beyond the last as from the one before it. x rises."""

    x: tuple[float, ...]
    y: tuple[float, ...]

    def __call__(self, at: Number) -> Number:
        if isinstance(at, np.ndarray):
            i = np.clip(np.searchsorted(self.x, at, side="right") - 1, 0, len(self.slopes) - 1)
            found: Number = np.asarray(self.y)[i] + (at - np.asarray(self.x)[i]) * np.asarray(self.slopes)[i]
            return found
        piece = bisect_right(self.x, at, 1, len(self.x) - 1) - 1 if len(self.x) > 1 else 0
        return self.y[piece] + (at - self.x[piece]) * self.slopes[piece]

    @cached_property
    def slopes(self) -> tuple[float, ...]:
        """Of each piece; 0 of a single point."""
        pairs = zip(pairwise(self.x), pairwise(self.y), strict=True)
        return tuple((d - c) / (b - a) for (a, b), (c, d) in pairs) or (0.0,)


def curve(points: Iterable[tuple[float, float]]) -> Curve:
    """Through the points, the mean where several have the same x."""
    by_x: dict[float, list[float]] = {}
    for x, y in points:
        by_x.setdefault(x, []).append(y)
    xs = sorted(by_x)
    return Curve(tuple(xs), tuple(mean(by_x[x]) for x in xs))


DISTURBED = 0.8
"""A text's step takes at least this share of its forwards' time, unless something else ran while they were measured."""


@dataclass(frozen=True)
class MeasuredGraph:
    """A graph's cost, from its forwards. All of it in seconds."""

    rows_s: Curve
    """f: one sequence, no context, no logits."""
    near_s: Curve
    """a's slope up to `near` positions, by the rows of a sequence."""
    far_s: Curve
    """a's slope beyond."""
    session_s: Curve
    """u."""
    wanted_s: Curve
    """h: from (0, 0) on."""
    near: float

    def seconds(self, rows: Number, context: Number, wanted: Number = 0, sessions: Number = 1) -> Number:
        """As `GraphCost`."""
        each = rows / sessions
        attention = sessions * self.attention(each, context)
        return self.rows_s(rows) + attention + self.session_s(each) * (sessions - 1) + self.wanted_s(wanted)

    def attention(self, rows: Number, context: Number) -> Number:
        """a: one sequence's."""
        near = np.minimum(context, self.near) if isinstance(context, np.ndarray) else float(min(context, self.near))
        return self.near_s(rows) * near + self.far_s(rows) * (context - near)


def measured_graph(profile: GraphProfile) -> MeasuredGraph:
    """The cost that fits a graph's measured forwards."""
    found = profile.forwards
    alone = [f for f in found if f.sessions == 1]
    least = min(f.wanted for f in alone if f.context == 0 and f.rows == 1)
    plain = [f for f in alone if f.wanted == least]
    contexts = sorted({f.context for f in plain if f.rows == 1})
    near, far = contexts[1] if len(contexts) > 1 else 0, contexts[-1]
    times = {(f.rows, f.context): f.ms / 1e3 for f in plain}
    near_s = curve(_slopes(times, lambda context: context <= near))
    far_s = curve(_slopes(times, lambda context: context >= near)) if far > near else near_s
    half = MeasuredGraph(Curve((0.0,), (0.0,)), near_s, far_s, Curve((0.0,), (0.0,)), _wanted(alone, least), near)

    def rest(f: ForwardTime) -> float:
        return f.ms / 1e3 - float(half.seconds(f.rows, f.context, f.wanted, f.sessions))

    rows_s = curve((f.rows, rest(f)) for f in plain)
    session_s = curve(
        (f.rows / f.sessions, (rest(f) - float(rows_s(f.rows))) / (f.sessions - 1)) for f in found if f.sessions > 1
    )
    return replace(half, rows_s=rows_s, session_s=session_s)


def _slopes(times: Mapping[tuple[int, int], float], within: Callable[[int], bool]) -> list[tuple[float, float]]:
    """By rows, seconds for each position of context between the least and the largest measured; never below 0."""
    slopes = []
    for rows in sorted({rows for rows, _ in times}):
        same = sorted((context, s) for (r, context), s in times.items() if r == rows and within(context))
        if len(same) > 1:
            (low, fast), (high, slow) = same[0], same[-1]
            slopes.append((float(rows), max(0.0, (slow - fast) / (high - low))))
    return slopes or [(1.0, 0.0)]


def _wanted(alone: Sequence[ForwardTime], least: int) -> Curve:
    """What logits take, where the same rows were timed with fewer of them."""
    if least == 0:
        return Curve((0.0,), (0.0,))
    base = {(f.rows, f.context): f.ms / 1e3 for f in alone if f.wanted == least}
    none = [base[f.rows, f.context] - f.ms / 1e3 for f in alone if f.wanted == 0 and (f.rows, f.context) in base]
    first = max(0.0, mean(none)) if none else 0.0
    more = [
        (f.wanted, first + f.ms / 1e3 - base[f.rows, f.context])
        for f in alone
        if f.wanted > least and (f.rows, f.context) in base
    ]
    return curve([(0, 0.0), (least, first), *more])


def machine(profile: Profile, precision: str) -> Machine:
    """A profile's machine at one of its precisions.

    Raises:
        ProfileError: it has no such bundle, or its times contradict each other.
    """
    bundle = profile.bundle(precision)
    costs = {(g.kind, g.index): measured_graph(g) for g in bundle.graphs}
    spec = bundle.spec
    kv = {}
    for segment in spec.segments:
        position = 2 * 4 * spec.kv_heads * spec.head_dim
        kv[f"segment-{segment.index}"] = float(position * segment.n_layers)
        kv[f"exit-{segment.index}"] = float(position * (spec.exit(segment.index).branch != "norm"))
    other, segments = _node_memory(bundle)
    made = Machine(
        segments={i: cost for (kind, i), cost in costs.items() if kind == "segment"},
        exits={i: cost for (kind, i), cost in costs.items() if kind == "exit"},
        weight_bytes={f"segment-{g}": size for g, size in segments.items()},
        kv_bytes_per_position=kv,
        memory_bytes=float(profile.machine.memory_bytes),
        forward_bytes={f"segment-{m.segment}": float(m.largest_forward_bytes) for m in bundle.memory},
        other_bytes=other,
        node=_node_cost(bundle, costs),
        most_positions=max(f.context + f.rows / f.sessions for g in bundle.graphs for f in g.forwards),
        most_sessions=max(f.sessions for g in bundle.graphs for f in g.forwards),
    )
    return remembered(made)


def _node_memory(bundle: BundleProfile) -> tuple[float, dict[int, float]]:
    """A node's memory without segments, and that of each segment with its exit, as fits the nodes that were started."""
    columns = [s.index for s in bundle.spec.segments]
    design = np.array([[1.0, *(float(g in node.segments) for g in columns)] for node in bundle.nodes])
    sizes = np.array([node.bytes for node in bundle.nodes], float)
    other, *each = np.linalg.lstsq(design, sizes, rcond=None)[0]
    return float(other), {g: float(size) for g, size in zip(columns, each, strict=True)}


def _node_cost(bundle: BundleProfile, costs: Mapping[tuple[str, int], MeasuredGraph]) -> NodeCost:
    """What texts took beyond their forwards."""

    def text(exit_: int, which: Callable[[Iterable[TextTime]], TextTime]) -> tuple[float, float, int]:
        """Of the exit's texts with exact rows: the first token's rest, a further one's, and the prompt's length."""
        found = which(t for t in bundle.texts if t.exit == exit_ and t.codec == "f32" and t.sessions == 1)
        graphs = [costs["segment", g] for g in range(1, exit_ + 1)]
        rows, last = found.prompt_tokens, costs["exit", exit_]
        prefill = sum(float(g.seconds(rows, 0)) for g in graphs) + float(last.seconds(rows, 0, 1))
        context = rows + found.tokens / 2
        step = sum(float(g.seconds(1, context)) for g in graphs) + float(last.seconds(1, context, 1))
        if which is short and found.tpot_ms / 1e3 < DISTURBED * step:
            raise ProfileError(
                f"a text took {found.tpot_ms:.1f} ms a token, and {step * 1e3:.1f} ms are the forwards in it alone: "
                "something else ran while this was measured; run relay-node profile again on a quiet machine"
            )
        return found.ttft_ms / 1e3 - prefill, found.tpot_ms / 1e3 - step, rows

    def short(texts: Iterable[TextTime]) -> TextTime:
        return min(texts, key=lambda t: t.prompt_tokens)

    def long(texts: Iterable[TextTime]) -> TextTime:
        return max(texts, key=lambda t: t.prompt_tokens)

    depth = bundle.spec.granularity
    first, step_s, _ = text(1, short)
    token_s = max(0.0, step_s)
    job_s = _job_s(bundle, costs, token_s)
    if depth == 1:
        return NodeCost(max(0.0, first), token_s, job_s)
    _, deep_s, _ = text(depth, short)
    shallow_first, _, _ = text(1, long)
    deep_first, _, rows = text(depth, long)
    message_s = max(0.0, deep_s - token_s)
    return NodeCost(
        request_s=max(0.0, first),
        token_s=token_s,
        job_s=job_s,
        message_s=message_s,
        row_s=max(0.0, deep_first - shallow_first - message_s) / rows,
    )


def _job_s(bundle: BundleProfile, costs: Mapping[tuple[str, int], MeasuredGraph], token_s: float) -> float:
    """What texts at the same time took beyond the forwards that they share, for each but one."""
    found = [t for t in bundle.texts if t.sessions > 1]
    if not found:
        return 0.0
    text, segment, exit_ = found[0], costs["segment", 1], costs["exit", 1]
    many, context = text.sessions, text.prompt_tokens + text.tokens / 2
    shared = float(segment.seconds(many, context, 0, many)) + float(exit_.seconds(many, context, many, many))
    return max(0.0, text.tpot_ms / 1e3 - shared - token_s) / (many - 1)
