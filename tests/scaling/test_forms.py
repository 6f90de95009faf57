"""Each form gives the loss that its formula says."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from scaling.errors import ScalingError
from scaling.forms import DENSE, FORMS, FULL, M0, M1, M2, M3, REDUCIBLE, TIED, Form
from scaling.runs import FloatArray, Runs, make_runs
from scaling.solve import solve

E, A, B, ALPHA, BETA, LAST = 1.7, 400.0, 2000.0, 0.34, 0.36, 0.05


def exit_rows() -> Runs:
    runs = make_runs(np.array([1e8, 1e8, 3e9]), np.array([1e10, 1e10, 2e11]), np.ones(3), np.array([2.0, 2.0, 4.0]))
    return replace(
        runs,
        exit_layer=np.array([4.0, 12.0, 10.0]),
        n_layers=np.array([12.0, 12.0, 40.0]),
        exit_weight=np.array([0.3, 0.7, 0.25]),
        n_exit=np.array([5e7, 1e8, 1e9]),
    )


def dense(size: FloatArray, runs: Runs) -> FloatArray:
    return A * size**-ALPHA + B * runs.d**-BETA


@pytest.mark.parametrize(
    ("form", "loss"),
    [
        (DENSE, lambda r: E + dense(r.n, r)),
        (FULL, lambda r: (E + dense(r.n, r)) * r.g**LAST),
        (REDUCIBLE, lambda r: E + dense(r.n, r) * r.g**LAST),
        (M0, lambda r: E + dense(r.n_exit, r)),
        (M1, lambda r: E + dense(r.n_exit, r) * r.g**LAST),
        (M2, lambda r: E + dense(r.n_exit, r) * (r.g * r.exit_weight) ** -LAST),
        (M3, lambda r: E + A * r.n**-ALPHA * (r.exit_layer / r.n_layers) ** -LAST + B * r.d**-BETA),
    ],
    ids=lambda value: value.name if isinstance(value, Form) else "",
)
def test_a_form_is_its_formula(form: Form, loss: Callable[[Runs], FloatArray]) -> None:
    runs = exit_rows()
    theta = np.array([np.log(E), np.log(A), np.log(B), ALPHA, BETA, LAST])[: len(form.parameters)]
    np.testing.assert_allclose(np.exp(form.design(runs) @ theta).sum(axis=0), loss(runs), rtol=1e-12)
    assert FORMS[form.name] is form
    np.testing.assert_allclose(form.natural(theta)[:5], [E, A, B, ALPHA, BETA])


def test_tied_exponents_are_gadres_law() -> None:
    runs = exit_rows()
    eta, c, m = ALPHA / 2, runs.c, runs.d / runs.n
    theta = np.array([np.log(E), np.log(A), np.log(B), ALPHA])
    wanted = E + (A * 6**eta * m**eta + B * 6**eta * m**-eta) * c**-eta
    np.testing.assert_allclose(np.exp(TIED.design(runs) @ theta).sum(axis=0), wanted, rtol=1e-12)
    assert FORMS["tied"] is TIED and TIED.decays == (3, 3) and DENSE.decays == (3, 4)


def test_a_form_may_lack_a_term() -> None:
    power = Form("power", "E + A C^-alpha", ("alpha",), (), lambda r: {"alpha": (None, -np.log(r.c))}, ("e", "a"))
    runs = make_runs(np.geomspace(1e7, 1e9, 9), np.geomspace(1e9, 1e11, 9), np.ones(9))
    truth = np.array([np.log(E), np.log(A), 0.15])
    solution = solve(power, replace(runs, loss=E + A * runs.c**-0.15))
    np.testing.assert_allclose(solution.theta, truth, rtol=1e-9)
    assert solution.certificate.certified and power.natural_names == ("E", "A", "alpha")


def test_a_form_of_exits_refuses_rows_of_runs() -> None:
    with pytest.raises(ScalingError, match="the form M2 needs n_exit"):
        M2.design(make_runs(np.array([1e8]), np.array([1e9]), np.array([3.0])))
