from dataclasses import replace

import numpy as np
import pytest

from scaling.errors import ScalingError
from scaling.forms import FULL
from scaling.plan.exitlaw import SHIPPED, exit_law, shipped, shipped_law


@pytest.mark.parametrize("name", SHIPPED)
def test_a_law_that_comes_along_falls_with_n_d_and_depth_in_every_draw(name: str) -> None:
    law = shipped(name)
    low, high = law.law.data.ranges["n"]
    d = law.law.data.ranges["d"][1]
    depth = np.array([0.25, 0.5, 1.0])
    for theta in (law.theta, law.draws):
        small, large = (law.losses(theta, n, d, 3, depth, depth) for n in (low, high))
        assert (np.diff(small, axis=1) < 0).mean() > 0.99
        assert (large <= small + 1e-9).mean() > 0.99
        assert (law.losses(theta, high, d / 4, 3, depth, depth) > large).mean() > 0.99


def test_a_dense_law_reads_an_exit_as_a_model_of_its_own_size() -> None:
    law = shipped("chinchilla-dense")
    size = np.array([0.3, 1.0])
    found = law.losses(law.theta, 1e9, 2e10, 2, np.array([0.2, 1.0]), size)[0]
    expected = law.law.predict(n=[3e8, 1e9], d=2e10).loss
    assert found == pytest.approx(expected)
    assert any(finding.code == "dense-law" and finding.warning for finding in law.findings)


def test_a_law_of_exits_says_what_it_was_fitted_to_say() -> None:
    law = shipped("sweep-exits")
    found = law.losses(law.theta, 2e5, 2e6, 2, np.array([0.5, 1.0]), np.array([0.6, 1.0]))[0]
    natural = law.law.natural
    expected = [
        natural["E"]
        + natural["A"] * 2e5 ** -natural["alpha"] * x ** -natural["delta"]
        + natural["B"] * 2e6 ** -natural["beta"]
        for x in (0.5, 1.0)
    ]
    assert found == pytest.approx(expected)


def test_a_law_of_the_mean_is_refused() -> None:
    dense = shipped("chinchilla-dense").law
    full = replace(
        dense, form=FULL, theta=np.append(dense.theta, 0.04), draws=np.c_[dense.draws, 0 * dense.draws[:, 0]]
    )
    with pytest.raises(ScalingError, match="says nothing of one exit's loss; fit one of exits"):
        exit_law(full, "full")


@pytest.mark.parametrize(("compute", "name"), [(1e10, 0), (1e13, 0), (1e18, 1), (1e24, 1)])
def test_without_a_law_the_nearest_is_taken(compute: float, name: int) -> None:
    assert shipped_law(compute).name == SHIPPED[name]


def test_what_lies_outside_is_named_with_how_far() -> None:
    law = shipped("sweep-exits")
    n, d, g, c = (law.law.data.ranges[name][1] for name in ("n", "d", "g", "c"))
    assert law.outside(n, d, int(g), c) == ()
    (told,) = law.outside(n * 30, d, int(g), c)
    assert told.startswith("N = ") and "30 times above" in told
    assert len(law.outside(n / 1e6, d * 2, 9, c * 2)) == 4
