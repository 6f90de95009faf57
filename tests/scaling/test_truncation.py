"""The paper's gamma taken apart: truncation and interference."""

from dataclasses import replace

import numpy as np
import pytest

from scaling.errors import ScalingError
from scaling.forms import DENSE, FULL, M0, M1
from scaling.frontier import surface
from scaling.runs import Runs
from scaling.truncation import own_sizes, partner_factors, partners, preset_factors, run_factors
from tests.scaling.test_exits import SCALES, exit_rows
from tests.scaling.test_frontier import BUDGETS, PAPER
from training.flops import parameters
from training.presets import PRESETS

THETA = np.array([SCALES])


def test_factors_multiply_to_the_whole_of_the_papers_law() -> None:
    shape = PRESETS["family-3b"]
    found = preset_factors(surface(FULL, PAPER), surface(FULL, PAPER, 3), shape, BUDGETS, "total")
    np.testing.assert_allclose(found.whole, 3**0.041)
    np.testing.assert_allclose(found.gamma, 0.041)


def test_most_of_the_papers_gamma_is_truncation_where_n_counts_the_embedding_and_all_where_it_does_not() -> None:
    for size, g in (("2b", 2), ("3b", 3), ("4b", 4)):
        dense, family = surface(FULL, PAPER), surface(FULL, PAPER, g)
        total, without = (
            preset_factors(dense, family, PRESETS[f"family-{size}"], BUDGETS, params).truncation_gamma / 0.041
            for params in ("total", "non-embedding")
        )
        assert (total > 0.65).all() and (total < 0.95).all()
        assert (without > 1.3).all()


def test_the_last_exits_own_size_is_the_trunks() -> None:
    shape = PRESETS["family-4b"]
    counted = parameters(shape)
    assert own_sizes(shape)[-1] == counted.embedding + counted.trunk
    assert (np.diff(own_sizes(shape, "non-embedding")) > 0).all()


def test_exits_as_good_as_dense_models_of_their_size_show_no_interference() -> None:
    found = run_factors(exit_rows(M0, [], noise=0.0), THETA)
    np.testing.assert_allclose(found.interference, 1.0)
    assert (found.truncation > 1).all() and set(found.g) == {2.0, 4.0}


def test_interference_is_what_is_worse_than_the_exits_sizes_explain() -> None:
    found = run_factors(exit_rows(M1, [0.1], noise=0.0), THETA)
    assert (found.interference > 1.01).all() and (found.last > 1.01).all()


def test_an_exit_is_compared_with_the_dense_model_of_its_size_and_tokens() -> None:
    rows = exit_rows(M0, [], noise=0.0)
    found = partners(rows)
    assert len(found.row) == 2 * 12  # the last exits of G = 2 and 4, whose size is that of the dense run
    assert (rows.g[found.dense] == 1).all()
    assert rows.n_exit is not None and (rows.n_exit[found.dense] == rows.n_exit[found.row]).all()
    np.testing.assert_allclose(found.ratio, 1.0)


def with_partners(rows: Runs, families: list[int]) -> Runs:
    """Rows with a dense run beside every exit of some families, as good as the dense law says."""
    chosen = np.flatnonzero(np.isin(rows.cluster, families))
    assert rows.n_exit is not None
    own, ones = rows.n_exit[chosen], np.ones(len(chosen))
    dense = replace(
        rows.take(chosen), n=own, g=ones, exit_layer=ones, n_layers=ones, exit_weight=ones,
        cluster=1000 + np.arange(len(chosen)), loss=surface(DENSE, THETA).loss(own, rows.d[chosen])[0],
    )  # fmt: skip
    names = ("n", "d", "g", "c", "loss", "cluster", "exit_layer", "n_layers", "exit_weight", "n_exit")
    return Runs(**{name: np.concatenate([getattr(rows, name), getattr(dense, name)]) for name in names})


def test_partners_tell_interference_without_a_law_of_early_exits() -> None:
    rows = exit_rows(M1, [0.1], noise=0.0)
    clusters, found = partner_factors(with_partners(rows, [2, 5]), THETA)  # of G = 4, some of whose exits G = 2 has
    assert clusters.tolist() == [1, 2, 4, 5] and found.g.tolist() == [2, 4, 2, 4]
    of_all = run_factors(rows, THETA)
    same = [list(np.unique(rows.cluster[rows.g > 1])).index(cluster) for cluster in clusters]
    for name in ("truncation", "interference", "last", "whole"):
        np.testing.assert_allclose(getattr(found, name), getattr(of_all, name)[:, same])


def test_the_last_exits_partner_is_moved_to_the_familys_tokens() -> None:
    rows = exit_rows(M0, [], noise=0.0)
    fewer = replace(rows, d=np.where(rows.g > 1, 0.8 * rows.d, rows.d))  # heads cost tokens
    fewer = replace(fewer, loss=surface(DENSE, THETA).loss(fewer.n_exit, fewer.d)[0])  # type: ignore[arg-type]
    _, found = partner_factors(with_partners(fewer, [2]), THETA)
    np.testing.assert_allclose([found.interference, found.last], 1.0)


def test_families_without_partners_are_refused() -> None:
    with pytest.raises(ScalingError, match="a dense partner for each of its early exits"):
        partner_factors(exit_rows(M0, []), THETA)


def test_rows_without_exits_are_refused() -> None:
    rows = exit_rows(M0, [])
    with pytest.raises(ScalingError, match="no family"):
        run_factors(rows.take(rows.g == 1), THETA)
    assert surface(DENSE, THETA).e.shape == (1, 1)
