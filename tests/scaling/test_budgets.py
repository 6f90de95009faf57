"""What a law says of budgets: the frontier, what exits cost, what they save, and why it may be wrong."""

from dataclasses import replace

import numpy as np
import pytest

from scaling.budgetreport import budgets_table
from scaling.budgets import EXACT, SIX_ND, Figure, read_budgets
from scaling.errors import ScalingError
from scaling.forms import DENSE, M1, M3, REDUCIBLE, Form
from scaling.frontier import equal_loss_multiplier, leverage, optimum, surface
from scaling.law import FittedLaw
from scaling.runs import Conventions, FloatArray
from scaling.trunks import PAPER, even_depths, read_trunks
from tests.scaling.runs import TRUTH
from tests.scaling.test_intervals import law_at

BUDGETS = (1e20, 1e21)
FAMILIES = [even_depths(g) for g in (1, 2, 4)]
NON_EMBEDDING = Conventions("non-embedding", "given", True)


def law(form: Form | None = None, theta: FloatArray = TRUTH, conventions: Conventions | None = None) -> FittedLaw:
    draws = theta + 0.002 * np.random.default_rng(0).standard_normal((200, len(theta)))
    made = law_at(theta, draws)
    return replace(made, form=form or made.form, conventions=conventions or made.conventions)


def value(figure: Figure | None) -> float:
    assert figure is not None and figure.value is not None
    assert figure.low is not None and figure.high is not None and figure.low < figure.value < figure.high
    return figure.value


def test_the_frontier_and_the_price_of_g_are_those_of_the_law() -> None:
    found = read_budgets(law(), BUDGETS, FAMILIES)
    assert list(found.readings) == [SIX_ND]
    readings = found.readings[SIX_ND]
    assert [(r.flops, r.granularity) for r in readings] == [(c, g) for c in BUDGETS for g in (1, 2, 4)]
    theta, c = TRUTH[None], np.array(BUDGETS)
    dense, four = surface(law().form, theta), surface(law().form, theta, 4)
    best = optimum(four, c)
    for i, reading in enumerate(reading for reading in readings if reading.granularity == 4):
        assert value(reading.n) == pytest.approx(best.n[0, i]) and value(reading.d) == pytest.approx(best.d[0, i])
        assert value(reading.loss) == pytest.approx(best.loss[0, i])
        assert value(reading.mean) == pytest.approx(equal_loss_multiplier(dense, four, c)[0, i])
        assert value(reading.leverage) == pytest.approx(leverage(dense, four, c, 4)[0, i])
        assert reading.last is None and reading.separate is None  # a mean's law; N has the embedding


def test_a_dense_model_has_no_price() -> None:
    one = read_budgets(law(), BUDGETS, FAMILIES).readings[SIX_ND][0]
    assert (one.mean, one.last, one.leverage, one.separate) == (None,) * 4


def test_a_law_per_exit_tells_the_last_exit_from_the_mean() -> None:
    found = read_budgets(law(M1, conventions=NON_EMBEDDING), BUDGETS, FAMILIES)
    two, four = found.readings[SIX_ND][1:3]
    assert 1 < value(two.last) < value(four.last) < value(four.mean) and value(two.last) < value(two.mean)
    assert found.exits[2].depths == (0.25, 0.5, 0.75, 1) and found.exits[2].sizes == ((0.25, 0.5, 0.75, 1),) * 2


def test_trunks_add_the_exact_frontier_with_heads_and_the_exits_sizes() -> None:
    found = read_budgets(law(M1), BUDGETS, FAMILIES, read_trunks(PAPER))
    assert list(found.readings) == [SIX_ND, EXACT]
    for plain, exact in zip(found.readings[SIX_ND], found.readings[EXACT], strict=True):
        if plain.granularity > 1:
            assert value(exact.mean) > value(plain.mean) and value(exact.last) > value(plain.last)
            assert value(exact.leverage) < value(plain.leverage) and value(exact.separate) < value(plain.separate)
    assert value(found.readings[EXACT][2].d) < value(found.readings[EXACT][0].d)  # heads cost tokens
    sizes = found.exits[2].sizes
    assert sizes is not None and all(size > depth for size, depth in zip(sizes[0][:3], (0.25, 0.5, 0.75), strict=True))


def test_a_depth_alone_is_enough_for_the_law_that_knows_depths() -> None:
    found = read_budgets(law(M3), BUDGETS, [(1.0,), (0.3, 1.0)])
    reading = found.readings[SIX_ND][1]
    assert value(reading.mean) > 1 and reading.last is not None and reading.last.value == pytest.approx(1)
    assert reading.separate is None and found.exits[1].sizes is None


def test_sizes_that_nobody_knows_are_asked_for() -> None:
    with pytest.raises(ScalingError, match=r"needs the sizes of the exits.* \(--trunks\), or fit with --params"):
        read_budgets(law(M1), BUDGETS, FAMILIES)


def test_a_law_without_g_is_asked_for_dense_models_only() -> None:
    dense = law(DENSE, TRUTH[:5])
    assert len(read_budgets(dense, BUDGETS).readings[SIX_ND]) == 2
    with pytest.raises(ScalingError, match="of the form dense says nothing of G"):
        read_budgets(dense, BUDGETS, FAMILIES)


def test_a_budget_far_beyond_the_runs_and_a_loss_out_of_reach_are_warned_of() -> None:
    codes = {finding.code for finding in read_budgets(law(), (1e30,), FAMILIES).findings}
    assert codes == {"extrapolated", "out-of-reach"}
    found = read_budgets(law(), (1e30,), FAMILIES).readings[SIX_ND][2].mean
    assert found is not None and found.value is None
    assert not read_budgets(law(), (1e20,), FAMILIES).findings
    assert not {"out-of-reach"} & {f.code for f in read_budgets(law(REDUCIBLE), (1e30,), FAMILIES).findings}


@pytest.mark.parametrize("c", [0.0, -1e20, np.nan, np.inf])
def test_a_budget_that_is_none_is_refused(c: float) -> None:
    with pytest.raises(ScalingError, match="budgets are positive numbers of FLOPs"):
        read_budgets(law(), (1e20, c))


def test_a_size_beyond_the_trunks_is_warned_of() -> None:
    found = read_budgets(law(), (1e17,), FAMILIES, read_trunks(PAPER))
    assert [finding.code for finding in found.findings] == ["beyond-trunks"]


def test_a_law_without_a_best_size_says_so() -> None:
    rising = TRUTH.copy()
    rising[3] = -0.1
    found = read_budgets(law(theta=rising), BUDGETS, FAMILIES)
    assert found.readings[SIX_ND][0].n is None and [f.code for f in found.findings] == ["no-optimum"]
    assert "-" in budgets_table(found)
