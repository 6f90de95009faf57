import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scaling.plan.placement import Expected, Limits, Placements, Stage, best_rows, place, place_all

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
            slowest=rising(0.05),
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


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(2, 4),
    exponent=st.floats(0.05, 2.0),
    ceiling=st.floats(3.0, 6.0),
)
def test_where_there_are_too_many_the_best_by_the_law_is_still_found(
    seed: int, count: int, exponent: float, ceiling: float
) -> None:
    rng = np.random.default_rng(seed)
    stages = stages_of(rng, count, MOST_LAYERS, 2)
    losses = 2 + (np.arange(1, MOST_LAYERS + 1) / MOST_LAYERS) ** -exponent
    ceilings = np.where([tier[0].asked for tier in stages], ceiling, np.inf)
    every = place_all(stages, MOST_LAYERS, Limits())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("scaling.plan.placement.MOST_LABELS", 1)
        found = place(stages, MOST_LAYERS, Limits(), Expected(losses, ceilings))
    kept, all_kept = ((losses[p.layers - 1] <= ceilings).all(axis=1) for p in (found, every))
    assert kept.any() == all_kept.any()
    for name, score in questions(found, stages, exponent).items():
        if all_kept.any():
            best = questions(every, stages, exponent)[name][all_kept].min()
            assert score[kept].min() == pytest.approx(best, rel=1e-12), name


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
    stages = [
        Stage(**{**vars(one), "share": 0.0}),
        Stage(**{**vars(other), "share": 1.0, "possible": np.ones(4, bool)}),
    ]
    slow = Stage(**{**vars(stages[0]), "own_tpot": 1e9, "possible": np.ones(4, bool)})
    assert len(place([[slow], [stages[1]]], 4, Limits(tpot=100.0)))
    asked = Stage(**{**vars(slow), "share": 0.5, "asked": True})
    assert not len(place([[asked], [stages[1]]], 4, Limits(tpot=100.0)))


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
        patch.setattr("scaling.plan.placement.BLOCK", block)
        assert best_rows(rows).tolist() == plain
