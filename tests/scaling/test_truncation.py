"""The paper's gamma taken apart: truncation and interference."""

import numpy as np
import pytest

from scaling.errors import ScalingError
from scaling.forms import DENSE, FULL, M0, M1
from scaling.frontier import surface
from scaling.truncation import own_sizes, partners, preset_factors, run_factors
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
    np.testing.assert_allclose(found.ratio, 1.0)


def test_rows_without_exits_are_refused() -> None:
    rows = exit_rows(M0, [])
    with pytest.raises(ScalingError, match="no family"):
        run_factors(rows.take(rows.g == 1), THETA)
    assert surface(DENSE, THETA).e.shape == (1, 1)
