from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scaling.plan.fronts import best_rows
from scaling.plan.placement import Expected, Placements, place, place_all
from scaling.plan.sums import Limits, Stage

MOST_LAYERS = 9


Tiers = list[list[Stage]]


def stages_of(rng: np.random.Generator, count: int, n_layers: int, options: int = 1) -> Tiers:
    """Tiers whose times and costs rise with their layers, with machines in whole numbers, some holding too little."""

    def rising(scale: float) -> np.ndarray:
        return scale * rng.integers(1, 6, n_layers).cumsum().astype(float)

    def stage(share: float) -> Stage:
        return Stage(
            share=share,
            asked=share > 0,
            ttft=rising(0.1),
            tpot=rising(0.01),
            ttft_var=rising(1e-4),
            tpot_var=rising(1e-6),
            length=rising(0.02),
            slowest=rising(0.05),
            watched=rng.integers(0, 9, n_layers).astype(float),
            own_ttft=0.05 * rng.random(),
            own_tpot=0.01 * rng.random(),
            cost=np.ceil(rising(rng.choice([0.0, 0.3, 1.0]))),
            power=rising(1.0),
            possible=np.arange(1, n_layers + 1) <= rng.integers(1, n_layers + 2),
        )

    shares = [float(rng.choice([0.0, 0.25, 0.5, 1.0])) for _ in range(count)]
    return [[stage(share) for _ in range(options)] for share in shares]


def depth_losses(placements: Placements, exponent: float) -> np.ndarray:
    """Losses of exits that a law of their depth gives."""
    return 2 + (placements.layers / MOST_LAYERS) ** -exponent


def questions(placements: Placements, stages: Tiers, exponent: float) -> dict[str, np.ndarray]:
    """What may be asked to be least."""
    shares = np.array([options[0].share for options in stages])
    quality = depth_losses(placements, exponent) @ shares
    return {
        "cost": placements.cost,
        "power": placements.power,
        "latency": placements.latency,
        "quality": quality,
        "a mix": placements.cost + 10 * quality + placements.power / 3 + placements.latency,
    }


@settings(max_examples=300, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(1, 4),
    options=st.integers(1, 2),
    n_layers=st.integers(4, MOST_LAYERS),
    tight=st.floats(0.2, 3.0),
    exponent=st.floats(0.05, 2.0),
)
def test_the_program_finds_the_best_of_all_placements_for_every_question(
    seed: int, count: int, options: int, n_layers: int, tight: float, exponent: float
) -> None:
    rng = np.random.default_rng(seed)
    stages = stages_of(rng, count, n_layers, options)
    limits = Limits(
        ttft=2.5 * tight,
        tpot=0.25 * tight,
        cost=float(rng.choice([np.inf, 12.0])),
        normal=1.645,
        parts=int(rng.integers(1, 4)),
        prompt_cv=float(rng.choice([0.0, 1.0])),
    )
    found, every = place(stages, n_layers, limits), place_all(stages, n_layers, limits)
    assert (len(found) == 0) == (len(every) == 0)
    if not len(every):
        return
    asked = [options[0].asked for options in stages]
    for ceiling in (np.inf, 2 + 2.0**exponent, 2 + 1.3**exponent):  # a loss that every asked exit has to keep
        kept, all_kept = ((depth_losses(p, exponent)[:, asked] <= ceiling + 1e-12).all(axis=1) for p in (found, every))
        assert kept.any() == all_kept.any()
        for name, score in questions(found, stages, exponent).items():
            best = questions(every, stages, exponent)[name]
            if all_kept.any():
                assert score[kept].min() == pytest.approx(best[all_kept].min(), rel=1e-12), name


def fleets(seed: int, count: int, tight: float) -> tuple[Tiers, Limits]:
    """Tiers, and limits some of which bind."""
    rng = np.random.default_rng(seed)
    stages = stages_of(rng, count, MOST_LAYERS, 2)

    def one_of(value: float) -> float:
        return value * tight if rng.random() < 0.5 else np.inf

    limits = Limits(one_of(2.5), one_of(0.25), one_of(12.0), 1.645, int(rng.integers(1, 4)), 1.0)
    return stages, limits


def expected(stages: Tiers, exponents: list[float], ceiling: float) -> tuple[Expected, np.ndarray, np.ndarray]:
    """What draws of a law expect, their losses by layer, and the ceilings of the tiers that are asked."""
    drawn = np.array([2 + (np.arange(1, MOST_LAYERS + 1) / MOST_LAYERS) ** -exponent for exponent in exponents])
    most = np.where([tier[0].asked for tier in stages], ceiling, np.inf)
    need = np.array([[1 + int((losses > limit).sum()) for limit in most] for losses in drawn])
    return Expected(drawn, need.min(axis=0), need.max(axis=0)), drawn, most


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(2, 4),
    tight=st.floats(0.3, 3.0),
    exponents=st.lists(st.floats(0.05, 2.0), min_size=1, max_size=3),
    ceiling=st.floats(3.0, 6.0),
)
def test_where_there_are_too_many_each_objective_has_its_best_in_every_draw(
    seed: int, count: int, tight: float, exponents: list[float], ceiling: float
) -> None:
    stages, limits = fleets(seed, count, tight)
    every = place_all(stages, MOST_LAYERS, limits)
    told, drawn, ceilings = expected(stages, exponents, ceiling)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("scaling.plan.placement.MOST_LABELS", 1)
        found = place(stages, MOST_LAYERS, limits, told)
    for losses, exponent in zip(drawn, exponents, strict=True):
        kept, all_kept = ((losses[p.layers - 1] <= ceilings).all(axis=1) for p in (found, every))
        assert kept.any() == all_kept.any()
        if all_kept.any():
            best = questions(every, stages, exponent)
            for name, score in questions(found, stages, exponent).items():
                if name != "a mix":
                    assert score[kept].min() == pytest.approx(best[name][all_kept].min(), rel=1e-12), name


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(1, 4),
    tight=st.floats(0.3, 3.0),
    exponent=st.floats(0.05, 2.0),
    ceiling=st.floats(3.0, 6.0),
)
def test_what_alone_is_asked_for_is_found(seed: int, count: int, tight: float, exponent: float, ceiling: float) -> None:
    stages, limits = fleets(seed, count, tight)
    told, (losses,), ceilings = expected(stages, [exponent], ceiling)
    every = place_all(stages, MOST_LAYERS, limits)
    every = every.take((losses[every.layers - 1] <= ceilings).all(axis=1))
    asked = np.array([tier[0].share > 0 for tier in stages])

    def watched(p: Placements) -> np.ndarray:
        spans = np.diff(p.layers, axis=1, prepend=0)
        values = [[[*(stage.watched if stage.watched is not None else ())] for stage in tier] for tier in stages]
        rows = zip(p.options, spans, strict=True)
        return np.array([sum(values[i][o][k - 1] for i, (o, k) in enumerate(zip(*row, strict=True))) for row in rows])

    measures = {
        "cost": lambda p: p.cost,
        "energy": lambda p: p.power,
        "latency": lambda p: p.latency,
        "quality": lambda p: losses[p.layers - 1] @ np.array([tier[0].share for tier in stages]),
        "ttft": lambda p: p.ttft[:, asked].max(axis=1, initial=0.0),
        "tpot": lambda p: p.tpot[:, asked].max(axis=1, initial=0.0),
        "watched": watched,
    }
    for name, measure in measures.items():
        found = place(stages, MOST_LAYERS, limits, told, name)
        assert len(found) > 0 or not len(every), name
        if len(every):
            assert measure(found).min() == pytest.approx(measure(every).min(), rel=1e-12), name


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(2, 4))
def test_what_is_found_is_a_placement_and_adds_up(seed: int, count: int) -> None:
    tiers = stages_of(np.random.default_rng(seed), count, MOST_LAYERS, 2)
    found = place(tiers, MOST_LAYERS, Limits())
    spans = np.diff(found.layers, axis=1, prepend=0)
    assert (spans >= 1).all() and (found.layers[:, -1] == MOST_LAYERS).all()
    for i in range(len(found)):
        at = spans[i] - 1
        stages = [options[number] for options, number in zip(tiers, found.options[i], strict=True)]
        assert all(stage.possible[k] for stage, k in zip(stages, at, strict=True))
        assert found.cost[i] == pytest.approx(sum(stage.cost[k] for stage, k in zip(stages, at, strict=True)))
        latency = 0.0
        for g, stage in enumerate(stages):
            below = sum(stages[s].tpot[at[s]] for s in range(g + 1))
            assert found.tpot[i, g] == pytest.approx(below + stage.own_tpot)
            latency += stage.share * found.tpot[i, g]
        assert found.latency[i] == pytest.approx(latency)


def test_a_class_that_nobody_asks_has_no_goal() -> None:
    rng = np.random.default_rng(0)
    (one,), (other,) = stages_of(rng, 2, 4)
    everywhere = np.ones(4, bool)
    last = replace(other, share=1.0, possible=everywhere)
    slow = replace(one, share=0.0, own_tpot=1e9, possible=everywhere)
    assert len(place([[slow], [last]], 4, Limits(tpot=100.0)))
    assert not len(place([[replace(slow, share=0.5, asked=True)], [last]], 4, Limits(tpot=100.0)))


def test_of_rows_only_those_that_no_other_beats_or_equals_are_left() -> None:
    rows = np.array([[1.0, 5.0], [2.0, 2.0], [2.0, 2.0], [3.0, 3.0], [5.0, 1.0], [1.0, 6.0]])
    assert best_rows(rows).tolist() == [0, 1, 4]


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), block=st.integers(1, 64))
def test_rows_are_compared_in_parts_as_in_one(seed: int, block: int) -> None:
    rows = np.random.default_rng(seed).integers(0, 4, (40, 3)).astype(float)
    plain = [
        i
        for i, row in enumerate(rows)
        if not any(
            ((other <= row).all() and (other != row).any()) or ((other == row).all() and j < i)
            for j, other in enumerate(rows)
        )
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("scaling.plan.fronts.BLOCK", block)
        patch.setattr("scaling.plan.fronts.FEW", 1 + block // 4)
        assert best_rows(rows).tolist() == plain
