"""The compute-optimal frontier: N*, D*, L* of a budget, what a G costs at equal loss, and what it saves.

At one G every form of a run's loss is L = E + A N^-alpha + B D^-beta (a `Surface`), and so is a form of one exit's loss
where the exit has its place (`Place`), and the mean over a family's exits. With C = 6 N D the best size is
N* = K (C/6)^a, K = (alpha A / beta B)^(1/(alpha+beta)), a = beta/(alpha+beta) (Hoffmann et al., arXiv 2203.15556,
eq. 4), and L* = E + (A K^-alpha + B K^beta) (C/6)^-(alpha beta/(alpha+beta)). With any other cost of a token
(`scaling.costs`: branches and heads, by which G moves N* and D*) the optimum is found by a search in one dimension.

S parameter vectors (a law's θ or its draws) and P points are done at once: results are (S, P).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from scaling.costs import Cost, six_n
from scaling.errors import ScalingError
from scaling.forms import Form
from scaling.runs import FLOPS_PER_PARAMETER, FloatArray, make_runs

REACH = 12.0
"""How far from the optimum of 6ND, in log N, the exact one is looked for: a factor of 160,000."""
GOLDEN = (np.sqrt(5) - 1) / 2
CUTS = 52
"""Of the golden-section search: 2 REACH shrinks to 3e-10, and a minimum is flat to 1e-16 within 1e-8."""


@dataclass(frozen=True, eq=False)
class Surface:
    """L = E + A N^-alpha + B D^-beta at one G, for S parameter vectors; every field (S, 1), or (S, P) by point."""

    e: FloatArray
    """E, nats per token."""
    a: FloatArray
    b: FloatArray
    alpha: FloatArray
    beta: FloatArray

    def loss(self, n: FloatArray | float, d: FloatArray | float) -> FloatArray:
        """Nats per token at N and D, which broadcast against (S, P)."""
        loss: FloatArray = self.e + self.a * n**-self.alpha + self.b * d**-self.beta
        return loss

    def tokens_for(self, loss: FloatArray, n: FloatArray) -> FloatArray:
        """D at which a model of N parameters has a loss; infinite where no D is enough."""
        left = loss - self.e - self.a * n**-self.alpha
        with np.errstate(all="ignore"):
            return np.where(left > 0, (self.b / left) ** (1 / self.beta), np.inf)


class Optimum(NamedTuple):
    """The best that budgets buy, each (S, P). NaN where alpha or beta is not positive: there is no best then."""

    n: FloatArray
    """N*."""
    d: FloatArray
    """D*, tokens."""
    loss: FloatArray
    """L*, nats per token."""


@dataclass(frozen=True)
class Place:
    """Where an exit reads, and how large its own model is, beside its run; numbers, or one for each point (P,)."""

    depth: FloatArray | float = 1.0
    """l_g/L."""
    size: FloatArray | float = 1.0
    """N_g/N, as the law counts N."""
    weight: float | None = None
    """w_g in the family loss; without it 1/G."""


LAST = Place()
"""The last exit, which has the whole trunk."""


def surface(form: Form, theta: FloatArray, g: float = 1.0, place: Place | None = None) -> Surface:
    """The surface of a form at G, for θ (S, p).

    Args:
        form: of a run's loss, or with `place` of one exit's.
        theta: parameters.
        g: exits of the family.
        place: that of the exit; its size and depth hold at every N.

    Raises:
        ScalingError: the form is of one exit's loss, and nothing says of which.
    """
    if form.needs and place is None:
        raise ScalingError(
            f"the form {form.name} is of one exit's loss, so its frontier is that of one exit, or of the mean over "
            "several: say where in the trunk they are"
        )
    at = place or LAST
    depth, size = np.broadcast_arrays(np.atleast_1d(np.asarray(at.depth, float)), np.asarray(at.size, float))
    one = np.ones(len(depth))
    weight = one / g if at.weight is None else one * at.weight
    origin = replace(
        make_runs(one, one, one, g), exit_layer=depth, n_layers=one, n_exit=np.array(size), exit_weight=weight
    )
    e, a, b = (np.exp(theta @ term.T) for term in form.design(origin))
    alpha, beta = (theta[:, [column]] for column in form.decays)
    return Surface(e, a, b, alpha, beta)


def family_surface(form: Form, theta: FloatArray, exits: Sequence[Place]) -> Surface:
    """The surface of the mean over a family's exits, whose number is G; that of a run's loss where the form is of it.

    All exits share alpha and beta, so the mean has the form of one.
    """
    g = len(exits)
    if not form.needs:
        return surface(form, theta, g)
    each = [surface(form, theta, g, place) for place in exits]
    e, a, b = (np.mean([getattr(one, name) for one in each], axis=0) for name in ("e", "a", "b"))
    return Surface(e, a, b, each[0].alpha, each[0].beta)


def optimum(at: Surface, c: FloatArray | float, cost: Cost | None = None) -> Optimum:
    """N*, D* and L* of budgets C (P,) in FLOPs.

    Args:
        at: the surface of the family's G.
        c: budgets.
        cost: FLOPs per token by N; without it 6N, in closed form.
    """
    c = np.atleast_1d(np.asarray(c, float))
    n = _closed_size(at, c)
    if cost is None:
        d = c / FLOPS_PER_PARAMETER / n
        return Optimum(n, d, at.loss(n, d))
    n = np.exp(_lowest(lambda x: at.loss(np.exp(x), c / cost(np.exp(x))), np.log(n) - REACH, np.log(n) + REACH))
    d = c / cost(n)
    return Optimum(n, d, at.loss(n, d))


def compute_for(at: Surface, loss: FloatArray | float, cost: Cost | None = None) -> FloatArray:
    """C (S, P), the least compute that reaches losses (P,) or (S, P): the frontier read the other way round.

    Infinite where a loss is not above E; NaN where there is no best size.
    """
    with np.errstate(all="ignore"):
        reducible = np.where(loss > at.e, loss - at.e, np.nan)
        k, power = _scale(at), at.alpha * at.beta / (at.alpha + at.beta)
        closed = FLOPS_PER_PARAMETER * ((at.a * k**-at.alpha + at.b * k**at.beta) / reducible) ** (1 / power)
        if cost is not None:
            smallest = np.log(at.a / reducible) / at.alpha  # below it no D is enough
            largest = np.log(_closed_size(at, closed)) + REACH
            x = _lowest(lambda x: cost(np.exp(x)) * at.tokens_for(np.asarray(loss), np.exp(x)), smallest, largest)
            closed = cost(np.exp(x)) * at.tokens_for(np.asarray(loss), np.exp(x))
    return np.where(loss <= at.e, np.inf, closed)


def equal_loss_multiplier(
    dense: Surface, family: Surface, c: FloatArray | float, costs: tuple[Cost, Cost] | None = None
) -> FloatArray:
    """How many times the compute a family needs for the loss that a dense model has at C, both at their best (S, P).

    Args:
        dense: surface at G = 1.
        family: surface at the family's G, whose loss is the mean over its exits.
        c: budgets of the dense model (P,), FLOPs.
        costs: of a token of the dense model and of the family; without them 6N for both.
    """
    one, other = costs or (None, None)
    c = np.atleast_1d(np.asarray(c, float))
    return compute_for(family, optimum(dense, c, one).loss, other) / c


def leverage(
    dense: Surface, family: Surface, c: FloatArray | float, g: float, costs: tuple[Cost, Cost] | None = None
) -> FloatArray:
    """What G dense models as good as the family cost, over the family's C: each at its best for the loss (S, P).

    The saving of one run for many models, in the terms of Tian et al.'s efficiency leverage (arXiv 2507.17702). All G
    models have the family's mean loss; `separate_leverage` keeps the exits' sizes instead.
    """
    one, other = costs or (None, None)
    c = np.atleast_1d(np.asarray(c, float))
    return g * compute_for(dense, optimum(family, c, other).loss, one) / c


def separate_leverage(
    dense: Surface,
    loss: FloatArray,
    sizes: FloatArray,
    d: FloatArray | float,
    n: FloatArray | float,
    costs: tuple[Cost, Cost] = (six_n, six_n),
) -> FloatArray:
    """What dense models of the exits' sizes cost, over the family's C, for the same mean loss (S, P).

    All of them are trained on one number of tokens D', which is what makes their mean loss equal the family's.

    Args:
        dense: surface at G = 1.
        loss: the family's mean loss (S, P).
        sizes: N_g of the exits (G,), or (S, P, G).
        d: tokens that the family saw, which broadcasts against (S, P).
        n: N of the family, likewise.
        costs: of a token of a dense model and of the family.
    """
    floor = dense.e + (dense.a[..., None] * sizes ** -dense.alpha[..., None]).mean(axis=-1)
    with np.errstate(all="ignore"):
        tokens = np.where(loss > floor, (dense.b / (loss - floor)) ** (1 / dense.beta), np.inf)
    ratio: FloatArray = costs[0](sizes).sum(axis=-1) * tokens / (costs[1](np.asarray(n)) * np.asarray(d))
    return ratio


def _scale(at: Surface) -> FloatArray:
    """K of N* = K (C/6)^a; NaN where there is no optimum."""
    with np.errstate(all="ignore"):
        k = (at.alpha * at.a / (at.beta * at.b)) ** (1 / (at.alpha + at.beta))
    return np.where((at.alpha > 0) & (at.beta > 0), k, np.nan)


def _closed_size(at: Surface, c: FloatArray) -> FloatArray:
    size: FloatArray = _scale(at) * (c / FLOPS_PER_PARAMETER) ** (at.beta / (at.alpha + at.beta))
    return size


def _lowest(function: Callable[[FloatArray], FloatArray], low: FloatArray, high: FloatArray) -> FloatArray:
    """Where a function with one minimum between `low` and `high` has it, for each element: golden-section search."""
    for _ in range(CUTS):
        left, right = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
        in_left = function(left) < function(right)
        low, high = np.where(in_left, low, left), np.where(in_left, right, high)
    return (low + high) / 2
