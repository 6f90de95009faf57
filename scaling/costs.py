"""What a token of training costs as a function of N: 6N, or exactly, with every branch and head of a family."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from scaling.errors import ScalingError
from scaling.runs import FLOPS_PER_PARAMETER, FloatArray, Params

if TYPE_CHECKING:
    from training.flops import FamilyShape

Cost = Callable[[FloatArray], FloatArray]
"""FLOPs per token of a model of N parameters, at one G; element by element."""


def six_n(n: FloatArray) -> FloatArray:
    """6·N: no heads but those in N, no attention scores."""
    return FLOPS_PER_PARAMETER * n


def through(n: FloatArray, flops_per_token: FloatArray) -> Cost:
    """The cost that is known at some sizes, straight between them in log-log, and straight on beyond the ends.

    Raises:
        ScalingError: fewer than two sizes, or two of the same N.
    """
    order = np.argsort(n)
    x, y = np.log(np.asarray(n, float)[order]), np.log(np.asarray(flops_per_token, float)[order])
    if len(x) < 2 or not (np.diff(x) > 0).all():
        raise ScalingError("a cost needs at least two sizes, each with another N")
    slopes = np.diff(y) / np.diff(x)

    def cost(n: FloatArray) -> FloatArray:
        at = np.log(n)
        piece = np.clip(np.searchsorted(x, at) - 1, 0, len(slopes) - 1)
        flops: FloatArray = np.exp(y[piece] + slopes[piece] * (at - x[piece]))
        return flops

    return cost


def cost_of(shapes: Sequence["FamilyShape"], window: int, params: Params = "total") -> Cost:
    """The exact cost of families of one G (`training.flops`), from a ladder of sizes.

    Args:
        shapes: the ladder; any two sizes or more.
        window: tokens of a training window.
        params: which N the law counts.
    """
    from training.flops import parameters, training_flops

    counted = [parameters(shape) for shape in shapes]
    n = [found.total if params == "total" else found.non_embedding for found in counted]
    flops = [training_flops(shape, window).total for shape in shapes]
    return through(np.array(n, float), np.array(flops))
