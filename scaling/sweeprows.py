"""The rows of `sweep-family` (`training/sweep/rows.py`), recognised by their fields."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from family.spec import Exit
from family.strict import FieldError, from_json
from scaling.errors import ScalingError
from scaling.findings import Finding, listed, note, warning
from scaling.runs import FLOPS_PER_PARAMETER, Conventions, FloatArray, Runs
from scaling.table import Table
from scaling.truncation import own_sizes

if TYPE_CHECKING:
    from training.flops import FamilyShape

ROW_VERSION = 1
_SIGN = {"schema_version", "plan_sha256", "exit_losses", "exit_layers", "granularity", "flops_per_token"}
"""Fields that no other table has together."""


@dataclass(frozen=True)
class SweepRow:
    """What a law needs of a row; the fields mean what they mean in `training.sweep.rows.Row`."""

    id: str
    flops: float
    parameters: int
    non_embedding: int
    head: int
    vocab_size: int
    tokens: int
    unique_tokens: int
    granularity: int
    exit_layers: tuple[int, ...]
    branch: str
    weights: tuple[float, ...]
    d_model: int
    n_layers: int
    n_heads: int
    window: int
    batch: int
    lr: float
    seed: int
    exit_losses: tuple[float, ...]
    held_out_tokens: int
    bytes_per_token: float
    precision: str
    loss: float | None = None
    rank: int | None = None


def is_sweep(table: Table) -> bool:
    """Whether these are rows of a sweep."""
    return set(table.columns) >= _SIGN


def sweep_runs(table: Table, conventions: Conventions, exits: bool) -> tuple[Runs, tuple[Finding, ...]]:
    """The finished runs of a sweep, one observation each, or with `exits` one for each exit.

    Raises:
        ScalingError: a row is malformed or of another version, or the losses of two rows cannot be compared.
    """
    findings = [warning("torn", f"left out, half a line of a run that was not finished: {table.torn}")] * bool(
        table.torn
    )
    rows: dict[str, tuple[str, SweepRow]] = {}
    failed, repeated = [], []
    for place, row in _parsed(table):
        if row.id in rows:
            repeated.append(place)
        elif row.loss is None:
            failed.append(place)
        else:
            rows[row.id] = (place, row)
    if failed:
        findings.append(warning("failed", f"left out, since they diverged and have no loss: {listed(failed)}"))
    if repeated:
        findings.append(note("repeated", f"left out, since an earlier line has the same run: {listed(repeated)}"))
    if not rows:
        raise ScalingError(f"{table.path}: no run is finished")
    finished = list(rows.values())
    _check_comparable(table, [row for _, row in finished])
    findings += _mixtures([row for _, row in finished])
    return (_exit_runs if exits else _whole_runs)(finished, conventions), tuple(findings)


def sweep_shapes(table: Table) -> tuple[tuple["FamilyShape", ...], int]:
    """The families of a sweep, one for each run with early exits, and the window that they were trained on.

    Raises:
        ScalingError: a row is malformed, there is no family, or the rows differ in the window.
    """
    rows = [row for _, row in _parsed(table)]
    families = [row for row in rows if row.granularity > 1]
    if not families:
        raise ScalingError(f"{table.path}: there is no family (G > 1) among these rows, so no trunk of one")
    if len(windows := {row.window for row in families}) > 1:
        raise ScalingError(f"{table.path}: the families have several windows ({listed(sorted(windows))})")
    return tuple(_shape(row) for row in families), families[0].window


def _parsed(table: Table) -> Iterator[tuple[str, SweepRow]]:
    names = [f.name for f in dataclasses.fields(SweepRow)]
    for place, cells in zip(table.places, table.rows, strict=True):
        try:
            if cells.get("schema_version") != ROW_VERSION:
                raise FieldError("schema_version", f"expected {ROW_VERSION}, got {cells.get('schema_version')}")
            row = from_json(SweepRow, {name: cells[name] for name in names if name in cells})
            lengths = {len(row.exit_layers), len(row.weights), row.granularity}
            if len(lengths) > 1 or (row.loss is not None and len(row.exit_losses) != row.granularity):
                raise FieldError("exit_losses", f"expected {row.granularity}, one for each exit, got {row.exit_losses}")
        except FieldError as error:
            raise ScalingError(f"{table.path}, {place}: {error}; mend that line or delete it") from None
        yield place, row


def _check_comparable(table: Table, rows: Sequence[SweepRow]) -> None:
    """Losses in nats per token of other tokens, or of other text, are no one quantity."""
    for name in ("vocab_size", "bytes_per_token", "held_out_tokens"):
        if len(found := sorted({getattr(row, name) for row in rows})) > 1:
            raise ScalingError(
                f"{table.path}: the rows have {name} {listed(found)}; losses per token can only be compared with one "
                f"tokenizer and one held-out text; choose: --where {name}={found[0]}"
            )


def _mixtures(rows: Sequence[SweepRow]) -> list[Finding]:
    """What differs between rows although the law has no variable for it."""
    findings = []
    for name in ("precision", "window", "batch", "unique_tokens"):
        if len(found := sorted({getattr(row, name) for row in rows})) > 1:
            text = f"the runs differ in {name} ({listed(found)}), which no law knows of; --where {name}=... chooses"
            findings.append(warning("mixed", text))
    kinds = sorted({row.branch for row in rows if row.granularity > 1})
    if len(kinds) > 1:
        findings.append(warning("mixed", f"the families have branches of several kinds ({listed(kinds)})"))
    if tuned := _tuned(rows):
        text = f"{tuned} sizes were run at several learning rates: all these losses are fitted, not only the best"
        findings.append(warning("mixed", text))
    return findings


def _tuned(rows: Sequence[SweepRow]) -> int:
    """How many configurations were run at more than one learning rate."""
    rates: dict[tuple[object, ...], set[float]] = {}
    for row in rows:
        same = (row.d_model, row.exit_layers, row.tokens, row.branch, row.rank, row.seed)
        rates.setdefault(same, set()).add(row.lr)
    return sum(len(found) > 1 for found in rates.values())


def _whole_runs(rows: Sequence[tuple[str, SweepRow]], conventions: Conventions) -> Runs:
    found = [row for _, row in rows]
    return Runs(
        n=_array(_size(row, conventions) for row in found),
        d=_array(row.tokens for row in found),
        g=_array(row.granularity for row in found),
        c=_array(_flops(row, conventions) for row in found),
        loss=_array(sum(row.exit_losses) / row.granularity for row in found),
        cluster=np.arange(len(rows)),
        label=np.array([place for place, _ in rows]),
        conventions=conventions,
    )


def _exit_runs(rows: Sequence[tuple[str, SweepRow]], conventions: Conventions) -> Runs:
    """An observation for each exit; those of a run are one cluster."""
    whole = _whole_runs(rows, conventions)
    counts = [row.granularity for _, row in rows]
    spread = whole.take(np.repeat(np.arange(len(rows)), counts))
    found = [row for _, row in rows]
    return dataclasses.replace(
        spread,
        loss=_array(loss for row in found for loss in row.exit_losses),
        exit_layer=_array(layer for row in found for layer in row.exit_layers),
        n_layers=_array(row.n_layers for row in found for _ in row.exit_layers),
        exit_weight=_array(weight for row in found for weight in row.weights),
        n_exit=_array(size for row in found for size in _exit_sizes(row, conventions)),
        label=np.array([f"{place}, exit {g}" for place, row in rows for g in range(1, row.granularity + 1)]),
    )


def _size(row: SweepRow, conventions: Conventions) -> int:
    """N."""
    return row.parameters if conventions.params == "total" else row.non_embedding


def _flops(row: SweepRow, conventions: Conventions) -> float:
    """C. The row's own has every head, each of which multiplies all but the last row of a window.

    Where the heads that are not in N are not to count, they are taken off; in 6·N·D they are added where they are.
    """
    foreign = row.granularity - (conventions.params == "total")
    heads = FLOPS_PER_PARAMETER * foreign * row.head * row.tokens
    if conventions.compute == "given":
        return row.flops - (0 if conventions.heads else heads * (row.window - 1) / row.window)
    return FLOPS_PER_PARAMETER * _size(row, conventions) * row.tokens + (heads if conventions.heads else 0)


def _exit_sizes(row: SweepRow, conventions: Conventions) -> FloatArray:
    """N_g of every exit."""
    return own_sizes(_shape(row), conventions.params)


def _shape(row: SweepRow) -> "FamilyShape":
    from training.flops import parameters
    from training.presets import small_shape

    early = tuple(Exit(layer, row.branch, row.rank) for layer in row.exit_layers[:-1])
    shape = small_shape(row.d_model, row.n_layers, row.n_heads, row.vocab_size, (*early, Exit(row.n_layers, "norm")))
    assert parameters(shape).total == row.parameters, "training.presets.small_shape is what sweeps are made of"
    return shape


def _array(values: Iterable[float]) -> FloatArray:
    return np.array(list(values), dtype=np.float64)
