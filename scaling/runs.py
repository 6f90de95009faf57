"""Finished runs as arrays: what a law is fitted to."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from hashlib import sha256
from typing import Any, Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray

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
    """What the numbers of a set of runs mean; two sets with other conventions are not one."""

    params: Params = "total"
    """Whether N counts embedding and head."""
    compute: Compute = "6ND"
    """Whether C is the runs' own or 6·N·D."""
    heads: bool = False
    """Whether C counts the heads that are not in N: those of early exits, and with N non-embedding the last one too."""


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


def make_runs(
    n: FloatArray,
    d: FloatArray,
    loss: FloatArray,
    g: FloatArray | float = 1.0,
    c: FloatArray | None = None,
    conventions: Conventions | None = None,
) -> Runs:
    """`Runs` of one observation per run, from whatever NumPy takes for arrays; C is 6·N·D where none is given."""
    n, d, loss = (np.asarray(values, float) for values in (n, d, loss))
    own = np.asarray(FLOPS_PER_PARAMETER * n * d if c is None else c, float)
    known = conventions or Conventions(compute="6ND" if c is None else "given")
    exits = np.broadcast_to(np.asarray(g, float), n.shape).copy()
    return Runs(n, d, exits, own, loss, np.arange(len(n)), conventions=known)
