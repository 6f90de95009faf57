"""Runs from files: a table with named columns, or the rows of a sweep, which need no mapping."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from family.files import sha256_file
from scaling.check import check_values
from scaling.columns import find_columns
from scaling.errors import ScalingError
from scaling.findings import Finding, listed, note, warning
from scaling.runs import (
    FLOPS_PER_PARAMETER,
    Compute,
    Conventions,
    FloatArray,
    IntArray,
    Params,
    Runs,
    Source,
)
from scaling.sweeprows import is_sweep, sweep_runs
from scaling.table import Table, read_table

MOST_GROUPS = 12
"""Values of a column that sorts rows into groups; a name of each run has more."""


def read_runs(
    path: Path,
    *,
    params: Params = "total",
    compute: Compute | None = None,
    heads: bool | None = None,
    columns: Mapping[str, str] | None = None,
    where: Mapping[str, str] | None = None,
    exits: bool = False,
) -> Runs:
    """Read a table of runs, or the `rows.jsonl` of a sweep.

    Args:
        path: .csv, .tsv, .jsonl or .parquet.
        params: what N counts. Where the file has both it decides which is taken, elsewhere it is the reader's word.
        compute: whose C; by default the file's where it has one, else 6·N·D.
        heads: whether C counts the heads that are not in N; by default given C does, and 6·N·D where `h` is mapped.
        columns: by role (`scaling.columns.ROLES`), the column; those with usual names are found without.
        where: by column, the value that rows must have.
        exits: of a sweep, one observation for each exit instead of one for each run.

    Raises:
        ScalingError: the file cannot be read, a column is missing, or a number is impossible; the text says where.
    """
    table, conditions = read_table(path).where(where or {}), dict(where or {})
    used: dict[str, str] = {}
    if is_sweep(table):
        if columns:
            raise ScalingError(f"{path}: these are the rows of a sweep, whose columns are known; leave the mapping out")
        conventions = Conventions(params, compute or "given", compute != "6ND" if heads is None else heads)
        runs, findings = sweep_runs(table, conventions, exits)
    else:
        if table.torn:
            raise ScalingError(table.torn)
        used = find_columns(table, params, columns or {})
        runs, findings = _table_runs(table, used, params, compute, heads)
    check_values(runs, used)
    source = Source(path.name, sha256_file(path), used, conditions)
    return replace(runs, source=source, findings=findings)


def _table_runs(
    table: Table, columns: Mapping[str, str], params: Params, compute: Compute | None, heads: bool | None
) -> tuple[Runs, tuple[Finding, ...]]:
    values = {role: _numbers(table, column) for role, column in columns.items() if role != "run"}
    finished = np.isfinite(values["loss"])
    places = np.array(table.places)
    findings = []
    if not finished.any():
        raise ScalingError(f"{table.path}: no row has a finite number in the loss's column {columns['loss']!r}")
    if not finished.all():
        findings.append(warning("no-loss", f"left out for want of a finite loss: {listed(list(places[~finished]))}"))
    cluster = _clusters(table, columns.get("run"))[finished]
    values = {role: array[finished] for role, array in values.items()}
    if "d" not in values:
        with np.errstate(all="ignore"):  # what is not positive is refused by name afterwards
            values["d"] = values["c"] / (FLOPS_PER_PARAMETER * values["n"])
        findings.append(note("d-from-c", f"no column of tokens: D is C/(6N), C from {columns['c']!r}"))
    values.setdefault("g", np.ones(len(cluster)))
    conventions = _conventions(table, values, params, compute, heads)
    runs = Runs(
        n=values["n"],
        d=values["d"],
        g=values["g"],
        c=values["c"] if conventions.compute == "given" else _six_nd(values, conventions),
        loss=values["loss"],
        cluster=cluster,
        label=places[finished],
        conventions=conventions,
        exit_layer=values.get("layer"),
        n_layers=values.get("layers"),
        exit_weight=values.get("weight"),
        n_exit=values.get("n_exit"),
    )
    return runs, (*findings, *_groups(table, columns), *_shared_runs(table, columns))


def _groups(table: Table, columns: Mapping[str, str]) -> list[Finding]:
    """Columns of words that sort the rows into a few groups, each of which may have a law of its own."""
    groups = []
    for column in table.columns:
        if column == _run_column(table, columns):
            continue
        cells = {str(row.get(column)) for row in table.rows}
        few = 1 < len(cells) <= min(MOST_GROUPS, len(table.rows) - 1)
        if few and column not in columns.values() and not any(map(_is_number, cells)):
            groups.append(f"{column} ({listed(sorted(cells))})")
    if not groups:
        return []
    text = f"the rows differ in {' and in '.join(groups)}, which no law knows of: --where COLUMN=VALUE chooses"
    return [note("mixed", text)]


def _shared_runs(table: Table, columns: Mapping[str, str]) -> list[Finding]:
    """Rows that may be of one run although nobody said so: bootstrap intervals would take them for independent."""
    if "run" in columns:
        return []
    if column := _run_column(table, columns):
        count = len({str(row.get(column)) for row in table.rows})
        text = f"{len(table.rows)} rows have {count} values of {column!r}: if rows with one value are one run, "
        return [warning("shared-runs", f"{text}say so with --map run={column}, or intervals are too narrow")]
    if "layer" in columns or "n_exit" in columns:
        text = "exits of one run share its noise: say which column names the run with --map run=COLUMN"
        return [warning("shared-runs", f"{text}, or intervals are too narrow")]
    return []


def _run_column(table: Table, columns: Mapping[str, str]) -> str | None:
    """The column whose name says that it tells runs apart, where it gives several rows one value."""
    for column in table.columns:
        names = {str(row.get(column)) for row in table.rows}
        if "run" in column.lower() and column not in columns.values() and 1 < len(names) < len(table.rows):
            return column
    return None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return text == "None"
    return True


def _conventions(
    table: Table, values: Mapping[str, FloatArray], params: Params, compute: Compute | None, heads: bool | None
) -> Conventions:
    if compute == "given" and "c" not in values:
        raise ScalingError(
            f"{table.path}: no column of FLOPs to take C from; say which with --map c=COLUMN, or --compute 6ND"
        )
    compute = compute or ("given" if "c" in values else "6ND")
    if compute == "given":
        return Conventions(params, compute, True if heads is None else heads)
    if heads and "h" not in values:
        raise ScalingError(
            f"{table.path}: 6ND counts the heads that are not in N only where their size is known; say which column "
            "has it with --map h=COLUMN, or leave --heads out"
        )
    return Conventions(params, compute, "h" in values if heads is None else heads)


def _six_nd(values: Mapping[str, FloatArray], conventions: Conventions) -> FloatArray:
    multiplied = values["n"]
    if conventions.heads:
        multiplied = multiplied + (values["g"] - (conventions.params == "total")) * values["h"]
    with np.errstate(over="ignore"):  # what is not finite is refused by name afterwards
        return FLOPS_PER_PARAMETER * multiplied * values["d"]


def _clusters(table: Table, column: str | None) -> IntArray:
    if column is None:
        return np.arange(len(table.rows))
    names = [str(row.get(column)) for row in table.rows]
    return np.unique(names, return_inverse=True)[1].astype(np.int64)


def _numbers(table: Table, column: str) -> FloatArray:
    """A column as numbers, NaN where a cell is empty."""
    cells = (row.get(column) for row in table.rows)
    return np.array([_number(table, column, i, cell) for i, cell in enumerate(cells)], dtype=np.float64)


def _number(table: Table, column: str, index: int, cell: object) -> float:
    text = "" if cell is None else str(cell).strip()
    try:
        return float(text) if text else float("nan")
    except ValueError:
        raise ScalingError(
            f"{table.path}, {table.places[index]}: expected a number in column {column!r}, got {text[:40]!r}"
        ) from None
