"""The runs of a law, read again from their file: the same rows in the same way, or an error."""

from pathlib import Path

import numpy as np

from scaling.errors import ScalingError
from scaling.law import FittedLaw
from scaling.read import read_runs
from scaling.runs import Runs
from scaling.sweeprows import is_sweep
from scaling.table import read_table


def runs_of(law: FittedLaw, path: Path) -> Runs:
    """What a law was fitted to.

    Raises:
        ScalingError: the file cannot be read, or does not hold those numbers.
    """
    runs = _read(law, path, exits=bool(law.form.needs))
    if law.data.source:
        runs = runs.without(np.isin(runs.names(np.arange(len(runs))), law.data.source.left_out))
    if runs.sha256 != law.data.sha256:
        raise ScalingError(
            f"{path} holds {len(runs)} losses, and not the {law.data.observations} that the law was fitted to; name "
            f"the file as it was then, or fit the law again with: fit-law {path}"
        )
    return runs


def both_views(law: FittedLaw, path: Path) -> tuple[Runs | None, Runs | None]:
    """The same runs with one row for each run and with one row for each exit; None for what the file does not have.

    Raises:
        ScalingError: as `runs_of`.
    """
    fitted, of_exit = runs_of(law, path), bool(law.form.needs)
    if is_sweep(read_table(path)):
        other = _read(law, path, exits=not of_exit)
        other = other.take(np.isin(other.cluster, fitted.cluster))
        return (other, fitted) if of_exit else (fitted, other)
    if of_exit:
        return None, fitted
    return fitted, fitted if fitted.exit_layer is not None else None


def _read(law: FittedLaw, path: Path, exits: bool) -> Runs:
    source, known = law.data.source, law.conventions
    return read_runs(
        path,
        params=known.params,
        compute=known.compute,
        heads=known.heads,
        columns=source.columns if source else None,
        where=source.where if source else None,
        exits=exits,
    )
