"""Finished runs as arrays: what a law is fitted to."""

from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
Index = IntArray | NDArray[np.bool_]


@dataclass(frozen=True)
class Conventions:
    """What the numbers of a set of runs mean; two sets with other conventions are not one."""

    params: Literal["total", "non-embedding"] = "total"
    """Whether N counts embedding and head."""
    compute: Literal["given", "6ND"] = "6ND"
    """Whether C is the runs' own or 6·N·D."""
    heads: bool = False
    """Whether C counts the FLOPs of every exit's head."""


@dataclass(frozen=True, eq=False)
class Runs:
    """n observations: one for each run, or, with the optional fields, one for each pair of a run and an exit.

    All arrays have shape (n,), float64 but `cluster`.
    """

    n: FloatArray
    """N, parameters of the run's whole model."""
    d: FloatArray
    """D, tokens it was trained on."""
    g: FloatArray
    """G, its exits."""
    c: FloatArray
    """C, FLOPs of its training."""
    loss: FloatArray
    """Nats per token: the mean over exits, or this exit's."""
    cluster: IntArray
    """Which observations are one run: the bootstrap draws runs."""
    exit_layer: FloatArray | None = None
    """l_g, the layer after which this exit reads."""
    n_layers: FloatArray | None = None
    """L of the run's trunk."""
    exit_weight: FloatArray | None = None
    """w_g, this exit's weight in the family loss; they sum to 1."""
    n_exit: FloatArray | None = None
    """N_g, parameters of this exit's own sub-model."""

    def __len__(self) -> int:
        return len(self.loss)

    def take(self, index: Index) -> "Runs":
        """Some of the observations, by number or mask."""
        arrays = ((f.name, getattr(self, f.name)) for f in fields(self))
        taken: dict[str, Any] = {name: None if array is None else array[index] for name, array in arrays}
        return Runs(**taken)
