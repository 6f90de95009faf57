"""The frontier: closed form against search, the paper's numbers, and intervals from draws."""

from dataclasses import replace

import numpy as np
import pytest

from scaling.costs import cost_of, six_n, through
from scaling.errors import ScalingError
from scaling.forms import DENSE, FULL, M0, M1, M2, M3, Form
from scaling.frontier import (
    LAST,
    Place,
    compute_for,
    equal_loss_multiplier,
    family_surface,
    leverage,
    optimum,
    separate_leverage,
    surface,
)
from scaling.runs import FloatArray, make_runs
from training.presets import PRESETS, norm_exits

PAPER = np.array([[np.log(1.18), np.log(408.69), np.log(3120.14), 0.3006, 0.3514, 0.041]])
"""θ of the paper's eq. 2."""
BUDGETS = np.array([1e20, 1e21])


def test_the_closed_optimum_is_where_no_other_size_is_better() -> None:
    found = optimum(surface(FULL, PAPER, 3), BUDGETS)
    np.testing.assert_allclose(6 * found.n * found.d, BUDGETS[None])
    for factor in (0.98, 1.02):
        assert (surface(FULL, PAPER, 3).loss(found.n * factor, found.d / factor) > found.loss).all()


def test_n_star_grows_with_the_exponent_of_hoffmann() -> None:
    found = optimum(surface(FULL, PAPER), BUDGETS)
    assert np.log10(found.n[0, 1] / found.n[0, 0]) == pytest.approx(0.3514 / (0.3006 + 0.3514))


def test_the_search_finds_the_closed_form_when_a_token_costs_6n() -> None:
    at = surface(FULL, PAPER, 2)
    exact, closed = optimum(at, BUDGETS, six_n), optimum(at, BUDGETS)
    np.testing.assert_allclose(exact.n, closed.n, rtol=1e-6)
    np.testing.assert_allclose(exact.loss, closed.loss, rtol=1e-14)
    np.testing.assert_allclose(compute_for(at, closed.loss, six_n), BUDGETS[None], rtol=1e-9)


def test_the_compute_for_a_loss_is_the_frontier_read_backwards() -> None:
    at = surface(FULL, PAPER, 4)
    np.testing.assert_allclose(compute_for(at, optimum(at, BUDGETS).loss), BUDGETS[None])
    assert np.isinf(compute_for(at, np.array([[1.0]]))).all()
    assert np.isinf(compute_for(at, np.array([[1.0]]), six_n)).all()


def test_four_exits_cost_about_twice_the_compute_on_the_papers_law() -> None:
    found = equal_loss_multiplier(surface(FULL, PAPER), surface(FULL, PAPER, 4), BUDGETS)[0]
    np.testing.assert_allclose(found, [1.865, 2.117], atol=1e-3)


def test_a_family_of_two_or_three_saves_40_to_90_percent_on_the_papers_law() -> None:
    dense = surface(FULL, PAPER)
    saved = [leverage(dense, surface(FULL, PAPER, g), BUDGETS, g)[0] for g in (2, 3)]
    np.testing.assert_allclose(saved, [[1.479, 1.398], [1.865, 1.709]], atol=1e-3)


def test_separate_models_of_the_exits_sizes_cost_their_sum_where_nothing_interferes() -> None:
    at, sizes, d = surface(DENSE, PAPER[:, :5]), np.array([5e8, 1e9]), np.array([2e10, 4e10])
    loss = np.stack([at.loss(size, d) for size in sizes]).mean(axis=0)
    np.testing.assert_allclose(separate_leverage(at, loss, sizes, d, 1e9), [[1.5, 1.5]])


def test_heads_make_fewer_tokens_and_larger_models_optimal() -> None:
    dense = [PRESETS[f"dense-{size}"] for size in ("1b", "2b", "3b", "4b")]
    families = [replace(s, exits=norm_exits(s.n_layers // 4, s.n_layers // 2, s.n_layers)) for s in dense]
    at = surface(FULL, PAPER, 3)
    one, three = (optimum(at, BUDGETS, cost_of(shapes, 4096)) for shapes in (dense, families))
    assert (three.n > one.n).all() and (three.d < one.d).all() and (three.loss > one.loss).all()
    with_heads = equal_loss_multiplier(
        surface(FULL, PAPER), at, BUDGETS, (cost_of(dense, 4096), cost_of(families, 4096))
    )
    assert (with_heads > equal_loss_multiplier(surface(FULL, PAPER), at, BUDGETS)).all()


def test_a_cost_goes_through_its_points_and_on() -> None:
    cost = through(np.array([1e9, 1e8]), np.array([7e9, 9e8]))
    np.testing.assert_allclose(cost(np.array([1e8, 1e9])), [9e8, 7e9])
    assert np.log(cost(np.array([1e10]))[0] / 7e9) == pytest.approx(np.log(7 / 0.9))
    with pytest.raises(ScalingError, match="two sizes"):
        through(np.array([1e8, 1e8]), np.array([1e9, 2e9]))


def test_there_is_no_optimum_where_loss_rises_with_size() -> None:
    rising = PAPER.copy()
    rising[0, 3] = -0.1
    assert np.isnan(optimum(surface(FULL, rising), BUDGETS).n).all()


EXIT_THETA = {
    M0: PAPER[:, :5],
    M1: PAPER,
    M2: np.column_stack([PAPER[:, :5], [0.1]]),
    M3: np.column_stack([PAPER[:, :5], [0.3]]),
}
"""θ of each law per exit."""
EXITS = [Place(0.25, 0.4), Place(0.5, 0.6), Place(1.0, 1.0)]


def exit_loss(form: Form, place: Place, n: FloatArray, d: FloatArray, g: int) -> FloatArray:
    """What the form itself says of an exit at N and D."""
    one = np.ones(len(n))
    rows = replace(
        make_runs(n, d, one, g),
        exit_layer=8 * place.depth * one,
        n_layers=8 * one,
        n_exit=place.size * n,
        exit_weight=one / g if place.weight is None else place.weight * one,
    )
    loss: FloatArray = np.exp(form.design(rows) @ EXIT_THETA[form][0]).sum(axis=0)
    return loss


@pytest.mark.parametrize("form", EXIT_THETA, ids=lambda form: form.name)
def test_an_exit_in_its_place_has_a_surface_at_every_n_and_so_has_the_mean(form: Form) -> None:
    n, d = np.array([1e8, 1e9, 3e10]), np.array([1e10, 1e11, 1e11])
    theta = EXIT_THETA[form]
    weighted = [replace(place, weight=weight) for place, weight in zip(EXITS, (0.2, 0.3, 0.5), strict=True)]
    losses = [exit_loss(form, place, n, d, 3) for place in weighted]
    for place, loss in zip(weighted, losses, strict=True):
        np.testing.assert_allclose(surface(form, theta, 3, place).loss(n, d)[0], loss)
    np.testing.assert_allclose(family_surface(form, theta, weighted).loss(n, d)[0], np.mean(losses, axis=0))


@pytest.mark.parametrize("form", EXIT_THETA, ids=lambda form: form.name)
def test_the_frontier_of_a_family_is_where_no_other_size_has_a_better_mean(form: Form) -> None:
    found = optimum(family_surface(form, EXIT_THETA[form], EXITS), BUDGETS)
    for factor in (0.98, 1.02):
        n, d = found.n[0] * factor, found.d[0] / factor
        assert (np.mean([exit_loss(form, place, n, d, 3) for place in EXITS], axis=0) > found.loss[0]).all()


def test_a_place_may_differ_from_point_to_point() -> None:
    both = Place(np.array([0.25, 0.5]), np.array([0.4, 0.6]))
    found = optimum(surface(M1, EXIT_THETA[M1], 3, both), BUDGETS)
    for i, place in enumerate(EXITS[:2]):
        alone = optimum(surface(M1, EXIT_THETA[M1], 3, place), BUDGETS[i])
        assert found.n[0, i] == pytest.approx(alone.n[0, 0]) and found.loss[0, i] == pytest.approx(alone.loss[0, 0])


def test_the_last_exit_costs_nothing_but_interference() -> None:
    multiplier = {
        form: equal_loss_multiplier(surface(form, theta, 1, LAST), surface(form, theta, 3, LAST), BUDGETS)
        for form, theta in EXIT_THETA.items()
    }
    for form in (M0, M2, M3):  # equal weights
        np.testing.assert_allclose(multiplier[form], 1.0)
    assert (multiplier[M1] > 1.1).all()


def test_an_exits_law_has_no_frontier_where_nothing_says_of_which_exit() -> None:
    with pytest.raises(ScalingError, match="say where in the trunk they are"):
        surface(M0, PAPER[:, :5])


def test_separate_models_may_cost_what_they_exactly_cost() -> None:
    at, sizes = surface(DENSE, PAPER[:, :5]), np.array([[[5e8, 1e9], [1e9, 2e9]]])
    d, n = np.array([2e10, 4e10]), np.array([1e9, 2e9])
    loss = np.mean([at.loss(sizes[0, :, i], d) for i in range(2)], axis=0)
    twice = separate_leverage(at, loss, sizes, d, n, (lambda n: 12 * n, six_n))
    np.testing.assert_allclose(twice, [[3.0, 3.0]])
