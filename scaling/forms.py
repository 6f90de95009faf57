"""The forms of the law: each is a log-sum-exp of terms that are linear in the parameters.

log L̂_i = log Σ_k exp(X_ki · θ). That is the log-domain form of arXiv 2512.23407, section 3.2, eqs. 6 to 8 (Hoffmann et
al., arXiv 2203.15556, section D.3): a factor G^gamma on the loss adds gamma log G to every term, one on the reducible
part to the last two. So one solver, one gradient, one Hessian and one bootstrap serve all forms.

The first K parameters are the terms' intercepts: e = log E, a = log A, b = log B. The others are exponents.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from scaling.errors import ScalingError
from scaling.runs import FloatArray, Runs

SCALES = ("e", "a", "b")
"""Intercepts of the three terms: the irreducible loss, that of N and that of D."""
Slopes: TypeAlias = Mapping[str, tuple[FloatArray | None, ...]]
"""What `Form.slopes` gives."""


@dataclass(frozen=True)
class Form:
    """One form of the law."""

    name: str
    formula: str
    """For a reader."""
    exponents: tuple[str, ...]
    """Names of the parameters after the intercepts."""
    needs: tuple[str, ...]
    """Optional fields of `Runs` without which it cannot be fitted."""
    slopes: Callable[[Runs], Slopes]
    """By exponent, what multiplies it in each of the K terms, (n,); None where it does not occur."""
    scales: tuple[str, ...] = SCALES
    """Intercepts of its terms. Those of `FORMS` have all three; one without a term of D is good to fit and predict
    by, and has no frontier."""

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of θ: the intercepts and the exponents."""
        return self.scales + self.exponents

    @property
    def decays(self) -> tuple[int, int]:
        """Where in θ the exponents of N and of D stand: alpha and beta, or alpha twice where there is only one."""
        alpha = self.parameters.index("alpha")
        return alpha, self.parameters.index("beta") if "beta" in self.parameters else alpha

    @property
    def natural_names(self) -> tuple[str, ...]:
        """Names of `natural(θ)`: E, A, B and the exponents."""
        return (*(name.upper() for name in self.scales), *self.exponents)

    def natural(self, theta: FloatArray) -> FloatArray:
        """θ (..., p) with E, A, B in place of their logarithms."""
        terms = len(self.scales)
        return np.concatenate([np.exp(theta[..., :terms]), theta[..., terms:]], axis=-1)

    def design(self, runs: Runs) -> FloatArray:
        """X of shape (K, n, p). Raises `ScalingError` if the runs lack a field that the form needs."""
        for name in self.needs:
            if getattr(runs, name) is None:
                raise ScalingError(f"the form {self.name} needs {name}, which these runs do not have")
        terms = len(self.scales)
        x = np.zeros((terms, len(runs), len(self.parameters)))
        x[range(terms), :, range(terms)] = 1.0
        slopes = self.slopes(runs)
        for column, name in enumerate(self.exponents, terms):
            for term, slope in enumerate(slopes[name]):
                if slope is not None:
                    x[term, :, column] = slope
        return x


def _dense(n: FloatArray, runs: Runs) -> Slopes:
    return {"alpha": (None, -np.log(n), None), "beta": (None, None, -np.log(runs.d))}


def _own(runs: Runs) -> FloatArray:
    """N_g of every row."""
    assert runs.n_exit is not None
    return runs.n_exit


def _m2(runs: Runs) -> Slopes:
    assert runs.exit_weight is not None
    share = -np.log(runs.g * runs.exit_weight)
    return {**_dense(_own(runs), runs), "eta": (None, share, share)}


def _m3(runs: Runs) -> Slopes:
    assert runs.exit_layer is not None and runs.n_layers is not None
    return {**_dense(runs.n, runs), "delta": (None, -np.log(runs.exit_layer / runs.n_layers), None)}


DENSE = Form("dense", "E + A N^-alpha + B D^-beta", ("alpha", "beta"), (), lambda runs: _dense(runs.n, runs))
TIED = Form(
    "tied",
    "E + A N^-alpha + B D^-alpha",
    ("alpha",),
    (),
    lambda runs: {"alpha": (None, -np.log(runs.n), -np.log(runs.d))},
)
"""E + (a M^eta + b M^-eta) C^-eta with M = D/N and eta = alpha/2 (Gadre et al., arXiv 2403.08540, eq. 4)."""
FULL = Form(
    "full",
    "(E + A N^-alpha + B D^-beta) G^gamma",
    ("alpha", "beta", "gamma"),
    (),
    lambda runs: {**_dense(runs.n, runs), "gamma": (np.log(runs.g),) * 3},
)
REDUCIBLE = Form(
    "reducible",
    "E + (A N^-alpha + B D^-beta) G^gamma",
    ("alpha", "beta", "gamma"),
    (),
    lambda runs: {**_dense(runs.n, runs), "gamma": (None, np.log(runs.g), np.log(runs.g))},
)
M0 = Form("M0", "E + A N_g^-alpha + B D^-beta", ("alpha", "beta"), ("n_exit",), lambda runs: _dense(_own(runs), runs))
M1 = Form(
    "M1",
    "E + (A N_g^-alpha + B D^-beta) G^gamma",
    ("alpha", "beta", "gamma"),
    ("n_exit",),
    lambda runs: {**_dense(_own(runs), runs), "gamma": (None, np.log(runs.g), np.log(runs.g))},
)
M2 = Form("M2", "E + (A N_g^-alpha + B D^-beta) (G w_g)^-eta", ("alpha", "beta", "eta"), ("n_exit", "exit_weight"), _m2)
M3 = Form(
    "M3", "E + A N^-alpha (l_g/L)^-delta + B D^-beta", ("alpha", "beta", "delta"), ("exit_layer", "n_layers"), _m3
)

FORMS: Mapping[str, Form] = {form.name: form for form in (DENSE, TIED, FULL, REDUCIBLE, M0, M1, M2, M3)}
"""Every form by name: of a run's loss (the mean over exits), and `M0` to `M3` of one exit's loss."""
