import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from family.files import write_atomic
from family.strict import FieldError, dumps, to_json
from tests.training.sweeps import BUDGET, FACTS, SMALL, WIDE, design
from training.flops import parameters, training_flops
from training.sweep.design import Design, Grid, RateRule, Recipe, Size, load_design
from training.sweep.errors import SweepError
from training.sweep.plan import Plan, exit_layers, load_plan, make_plan, save_plan

FULL = Grid((2 * BUDGET, 4 * BUDGET), (SMALL, WIDE), (1, 2, 3), ("even", "early", "late"), seeds=(0, 1))


def full_plan() -> Plan:
    return make_plan(design(FULL, recipe=Recipe(16, 1, "float32")), FACTS)


@pytest.mark.parametrize(
    ("granularity", "placement", "layers"),
    [
        (1, "even", (8,)),
        (2, "even", (4, 8)),
        (2, "early", (2, 8)),
        (2, "late", (6, 8)),
        (4, "even", (2, 4, 6, 8)),
        (4, "early", (1, 2, 3, 8)),
        (4, "late", (5, 6, 7, 8)),
        (8, "even", (1, 2, 3, 4, 5, 6, 7, 8)),
    ],
)
def test_exits_are_placed_evenly_early_or_late(granularity: int, placement: str, layers: tuple[int, ...]) -> None:
    assert exit_layers(8, granularity, placement) == layers


def test_exits_that_would_coincide_move_on() -> None:
    assert exit_layers(6, 4, "early") == (1, 2, 3, 6)
    with pytest.raises(FieldError, match=r"6 exits \(late\) do not fit 6 layers"):
        exit_layers(6, 6, "late")


def test_every_family_has_a_dense_partner_of_its_trunk_budget_seed_and_rate() -> None:
    plan = full_plan()
    dense = {(r.budget_flops, r.size, r.seed, r.lr) for r in plan.runs if r.granularity == 1}
    families = [r for r in plan.runs if r.granularity > 1]
    assert {(r.budget_flops, r.size, r.seed, r.lr) for r in families} == dense
    assert len(dense) == 2 * 2 * 2 and len(families) == 2 * 2 * 2 * 2 * 3


def test_d_spends_the_budget_to_within_a_step() -> None:
    plan = full_plan()
    for run in plan.runs:
        step = plan.design.recipe.step_tokens * training_flops(plan.shape(run), 16).total
        assert run.tokens % plan.design.recipe.step_tokens == 0
        assert 0 <= run.budget_flops - plan.flops(run) < step


def test_the_cheapest_budget_comes_first_and_a_part_of_it_is_a_mixture() -> None:
    runs = full_plan().runs
    assert [r.budget_flops for r in runs] == sorted(r.budget_flops for r in runs)
    some = runs[:14]
    assert {r.granularity for r in some} == {1, 2, 3} and {r.size for r in some} == {SMALL, WIDE}


def test_depth_partners_are_dense_models_of_each_early_exits_depth_on_as_many_tokens() -> None:
    grid = Grid((BUDGET,), (SMALL,), (3,), depth_partners=True)
    runs = make_plan(design(grid), FACTS).runs
    family = next(r for r in runs if r.granularity == 3)
    partners = [r for r in runs if r.depth_of == family.id]
    assert sorted(r.size.n_layers for r in partners) == [2, 4]
    assert {r.tokens for r in partners} == {family.tokens} and {r.granularity for r in partners} == {1}
    block = make_plan(design(replace(grid, branch="block")), FACTS).runs
    assert sorted(r.size.n_layers for r in block if r.depth_of) == [3, 5]


def test_a_run_keeps_its_id_when_the_design_grows_and_loses_it_when_its_result_would_change() -> None:
    ids = {r.id for r in make_plan(design(), FACTS).runs}
    grown = design(Grid((BUDGET, 2 * BUDGET), (SMALL,), (1, 2, 3)), name="other")
    assert ids < {r.id for r in make_plan(grown, FACTS).runs}
    for changed in (
        design(recipe=Recipe(16, 1, "float32")),
        design(rate=RateRule(25_000, 4e-3, -0.3)),
        design(Grid((BUDGET,), (SMALL,), (1, 2), seeds=(1,))),
    ):
        assert not ids & {r.id for r in make_plan(changed, FACTS).runs}
    assert not ids & {r.id for r in make_plan(design(), replace(FACTS, train_sha256=("3" * 64,))).runs}


def test_a_run_that_stands_in_two_grids_is_done_once() -> None:
    twice = design(Grid((BUDGET,), (SMALL,), (1, 2)), Grid((BUDGET,), (SMALL,), (2,), ("even", "late")))
    assert len(make_plan(twice, FACTS).runs) == 3


def test_the_learning_rate_follows_the_rule_by_the_trunks_parameters() -> None:
    plan = make_plan(design(Grid((BUDGET,), (SMALL,), (2,), rate_factors=(0.5, 1.0))), FACTS)
    dense = next(r for r in plan.runs if r.granularity == 1)
    n = parameters(plan.shape(dense)).total
    expected = 5e-3 * (n / 25_000) ** -0.3
    assert sorted({r.lr for r in plan.runs}) == pytest.approx([expected / 2, expected], rel=1e-3)


@pytest.mark.parametrize(
    ("grid", "facts", "problem"),
    [
        (Grid((BUDGET / 10,), (SMALL,), (1,)), FACTS, "9 steps, expected at least 50; raise its budget"),
        (Grid((BUDGET,), (SMALL,), (1,)), replace(FACTS, unique_tokens=500), "epochs of the 500 unique ones, expected"),
        (Grid((BUDGET,), (Size(16, 3, 1),), (1,)), FACTS, "the head is 29% of its "),
        (Grid((BUDGET,), (SMALL,), (7,)), FACTS, "7 exits (even) do not fit 6 layers"),
        (Grid((BUDGET,), (SMALL,), (2,), branch="lowrank", rank=17), FACTS, "exits[0].rank: expected 1..16"),
    ],
)
def test_what_should_not_be_run_is_refused_by_name(grid: Grid, facts: Any, problem: str) -> None:
    with pytest.raises(SweepError) as caught:
        make_plan(design(grid), facts)
    assert problem in str(caught.value)


def test_held_out_text_that_fills_no_window_is_refused_by_name() -> None:
    short = replace(FACTS, held_out=(replace(FACTS.held_out[0], tokens=15),))
    with pytest.raises(SweepError, match=r"held\.txt: 15 tokens to measure on, fewer than one window of 16; raise"):
        make_plan(design(), short)


def test_a_plan_file_is_read_as_it_was_written_and_refused_when_edited(tmp_path: Path) -> None:
    plan = full_plan()
    save_plan(plan, tmp_path)
    assert load_plan(tmp_path) == plan
    data = json.loads((tmp_path / "plan.json").read_text())
    data["runs"][0]["lr"] *= 2
    write_atomic(tmp_path / "plan.json", json.dumps(data))
    with pytest.raises(SweepError, match=r"plan\.json: not what its design gives; write it again with: sweep-family"):
        load_plan(tmp_path)
    with pytest.raises(SweepError, match="no such file; write it with: sweep-family plan"):
        load_plan(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("path", "value", "problem"),
    [
        ("schema_version", 9, "schema_version: this release reads version 1, the file is of 9"),
        ("colour", "red", "colour: unknown field"),
        ("grids", [], "grids: expected at least one"),
        ("grids.0.budgets", [1e9, -1], "budgets: expected positive numbers"),
        ("grids.0.placements", ["middle"], "placements: expected one of ('even', 'early', 'late'), got 'middle'"),
        ("grids.0.sizes.0.n_heads", 3, "d_model: expected a multiple of twice n_heads = 3, got 16"),
        ("grids.0.seeds", [0, -1], "seeds: expected numbers from 0 on"),
        ("grids.0.branch", "bonsai", "branch: expected one of"),
        ("grids.0.granularities", ["two"], "grids[0].granularities[0]: expected an integer"),
        ("texts.vocab_size", 100, "texts.vocab_size: expected 257..65536, got 100"),
        ("recipe.precision", "float8", "recipe.precision: expected one of"),
        ("recipe.window", 1, "recipe.window, recipe.batch: expected positive"),
        ("rate.rate", 0, "rate.parameters, rate.rate: expected positive"),
    ],
)
def test_a_malformed_design_names_the_field(tmp_path: Path, path: str, value: object, problem: str) -> None:
    data: Any = to_json(design())
    *parents, last = path.split(".")
    target = data
    for key in parents:
        target = target[int(key) if key.isdecimal() else key]
    target[last] = value
    (tmp_path / "design.json").write_text(json.dumps(data))
    with pytest.raises(SweepError) as caught:
        load_design(tmp_path)
    assert problem in str(caught.value) and "design.json" in str(caught.value)


def test_a_design_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    written: Design = design(FULL)
    (tmp_path / "design.json").write_text(dumps(written))
    assert load_design(tmp_path) == written
    with pytest.raises(SweepError, match="no such file; a sweep begins with one"):
        load_design(tmp_path / "nowhere")
