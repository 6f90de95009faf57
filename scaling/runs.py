"""Finished runs as arrays: what a law is fitted to."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from hashlib import sha256
from typing import Any, Literal, cast, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scaling.errors import ScalingError
from scaling.findings import Finding, listed, note

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
Index = IntArray | NDArray[np.bool_]
Params = Literal["total", "non-embedding"]
Compute = Literal["given", "6ND"]
PARAMS: tuple[Params, ...] = get_args(Params)
COMPUTE: tuple[Compute, ...] = get_args(Compute)
FLOPS_PER_PARAMETER = 6
"""Of training, per token: C = 6·N·D (Kaplan et al., arXiv 2001.08361, section 2.1)."""


@dataclass(frozen=True)
class Conventions:
    """What the numbers of a set of runs mean; two sets with other conventions are not one.

    Raises:
        ScalingError: there is no such convention.
    """

    params: Params = "total"
    """Whether N counts embedding and head."""
    compute: Compute = "6ND"
    """Whether C is the runs' own or 6·N·D."""
    heads: bool = False
    """Whether C counts the heads that are not in N: those of early exits, and with N non-embedding the last one too."""

    def __post_init__(self) -> None:
        if self.params not in PARAMS or self.compute not in COMPUTE:
            raise ScalingError(f"params is one of {listed(PARAMS)}, compute one of {listed(COMPUTE)}")


@dataclass(frozen=True)
class Source:
    """Where runs came from."""

    file: str
    """Its name, without the folder."""
    sha256: str
    """Of the file."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """By role, the column; empty for a sweep's rows."""
    where: Mapping[str, str] = field(default_factory=dict)
    """By column, the value that was asked for."""
    left_out: tuple[str, ...] = ()
    """Observations that the file has and that were left out by `Runs.without`, by name: `line 7`."""


@dataclass(frozen=True, eq=False)
class Runs:
    """n observations: one for each run, or, with the optional fields, one for each pair of a run and an exit.

    All arrays have shape (n,), float64 but `cluster` and `label`.
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
    label: NDArray[np.str_] | None = None
    """What to call an observation in messages: `line 7`."""
    conventions: Conventions = Conventions()
    source: Source | None = None
    findings: tuple[Finding, ...] = ()
    """What was noticed on the way here; the law that is fitted to the runs has them too."""

    def __len__(self) -> int:
        return len(self.loss)

    def take(self, index: Index) -> "Runs":
        """Some of the observations, by number or mask."""
        return replace(self, **cast(Any, {name: array[index] for name, array in self._arrays().items()}))

    def names(self, index: Index) -> list[str]:
        """What to call these observations."""
        if self.label is None:
            return [f"run {i}" for i in np.arange(len(self))[index]]
        return [str(label) for label in self.label[index]]

    def without(self, index: Index) -> "Runs":
        """All observations but these, in their order. The source, if there is one, says which are missing."""
        kept = np.ones(len(self), bool)
        kept[index] = False
        source = self.source and replace(self.source, left_out=(*self.source.left_out, *self.names(index)))
        return replace(self.take(kept), source=source)

    def without_highest(self, count: int) -> "Runs":
        """All observations but the `count` of the highest loss, in their order."""
        if not count:
            return self
        highest = np.sort(np.argsort(self.loss, kind="stable")[-count:])
        text = f"left out as asked, the {count} highest losses: {listed(self.names(highest))}"
        return replace(self.without(highest), findings=(*self.findings, note("dropped", text)))

    @property
    def sha256(self) -> str:
        """Hash of the numbers, not of what they are called: the same runs have the same one, whatever file had them."""
        digest = sha256()
        for name, array in self._arrays().items():
            if name != "label":
                kind = "<i8" if name == "cluster" else "<f8"
                digest.update(f"{name}:{len(array)}:".encode() + array.astype(kind).tobytes())
        return digest.hexdigest()

    def _arrays(self) -> dict[str, NDArray[Any]]:
        values = ((f.name, getattr(self, f.name)) for f in fields(self))
        return {name: value for name, value in values if isinstance(value, np.ndarray)}


def aligned(*values: ArrayLike) -> list[FloatArray]:
    """Whatever NumPy takes for arrays as arrays of one shape, at least one-dimensional; each may be written to.

    Raises:
        ScalingError: they are no numbers, or have several lengths.
    """
    try:
        arrays = np.broadcast_arrays(*(np.atleast_1d(np.asarray(array, float)) for array in values))
    except (TypeError, ValueError) as error:
        raise ScalingError(f"expected numbers, in arrays of one length: {error}") from None
    return [array.copy() for array in arrays]


def make_runs(
    n: ArrayLike,
    d: ArrayLike,
    loss: ArrayLike,
    g: ArrayLike = 1.0,
    c: ArrayLike | None = None,
    conventions: Conventions | None = None,
) -> Runs:
    """`Runs` of one observation per run.

    Args:
        n: N, whatever NumPy takes for an array, or one number for all runs; so are the others.
        d: D, tokens.
        loss: nats per token, the mean over exits.
        g: G.
        c: C, FLOPs; 6·N·D where it is not given.
        conventions: what N and C are.

    Raises:
        ScalingError: something is no number, or the arrays have several lengths or more than one dimension.
    """
    known = conventions or Conventions(compute="6ND" if c is None else "given")
    n, d, loss, g, own = aligned(n, d, loss, g, 0.0 if c is None else c)
    if n.ndim > 1:
        raise ScalingError(f"expected arrays of one dimension, one number for each run, got the shape {n.shape}")
    if c is None:
        with np.errstate(over="ignore"):  # what is not finite is refused by name when it is fitted
            own = FLOPS_PER_PARAMETER * n * d
    return Runs(n, d, g, own, loss, np.arange(len(n)), conventions=known)
