"""Tables from files: CSV, JSON lines and Parquet, each cell with the line it came from. Nothing is ever unpickled."""

import csv
import gzip
import io
import json
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from scaling.errors import ScalingError

PICKLES = (".pickle", ".pkl", ".p", ".joblib", ".pt", ".pth", ".npy")
MOST_BYTES = 1 << 28
"""Of a file, or of what a compressed one holds: a run takes some hundred."""
ADVICE = "expected .csv, .tsv, .jsonl or .parquet (text also with .gz)"


@dataclass(frozen=True)
class Table:
    """Rows by column. Cells are as the file has them: text in CSV, JSON's types in JSON lines."""

    path: Path
    columns: tuple[str, ...]
    rows: tuple[Mapping[str, object], ...]
    places: tuple[str, ...]
    """Where each row stands, for messages: `line 7`."""
    torn: str = ""
    """What is wrong with a last line that no newline ends (a writer may have died in it); empty if nothing is."""

    def where(self, conditions: Mapping[str, str]) -> "Table":
        """The rows whose columns have these values, compared as numbers where both are.

        Raises `ScalingError` if there is no such column, or no row is left.
        """
        for column, wanted in conditions.items():
            if column not in self.columns:
                raise ScalingError(f"{self.path}: no column {column!r} to filter by; there are {_names(self.columns)}")
            if not any(_same(row.get(column), wanted) for row in self.rows):
                seen = dict.fromkeys(_text(row.get(column)) for row in self.rows)
                raise ScalingError(f"{self.path}: no row has {column} = {wanted!r}; there are {_names(tuple(seen))}")
        kept = [i for i, row in enumerate(self.rows) if all(_same(row.get(c), v) for c, v in conditions.items())]
        if not kept:
            raise ScalingError(f"{self.path}: no row has all of {', '.join(f'{c}={v}' for c, v in conditions.items())}")
        rows, places = tuple(self.rows[i] for i in kept), tuple(self.places[i] for i in kept)
        return Table(self.path, self.columns, rows, places, self.torn)


def read_table(path: Path) -> Table:
    """Read a file by its suffix.

    Raises:
        ScalingError: the file is missing, empty, a pickle, of an unknown kind, too large to be a table of runs, or
            malformed; the text names the line.
    """
    if path.is_dir():
        raise ScalingError(f"{path}: is a folder; name a file in it")
    names = [suffix.lower() for suffix in path.suffixes]
    kind = names[-2] if names[-1:] == [".gz"] and len(names) > 1 else "".join(names[-1:])
    if kind in PICKLES or set(names) & set(PICKLES):
        raise ScalingError(
            f"{path}: pickles are never opened, since loading one runs what is in it; {ADVICE}: write the table again "
            "with the program that made it"
        )
    reader = _READERS.get(kind)
    if reader is None or (kind == ".parquet" and names[-1] == ".gz"):
        raise ScalingError(f"{path}: cannot tell what kind of file this is; {ADVICE}")
    try:
        table = reader(path)
    except FileNotFoundError:
        raise ScalingError(f"{path}: no such file") from None
    if not table.rows:
        raise ScalingError(f"{path}: has no rows")
    return table


def _read_delimited(path: Path) -> Table:
    lines = _lines(path)
    if not lines or not lines[0].strip():
        raise ScalingError(f"{path}: is empty; expected a line with the columns' names, then one line per run")
    delimiter = max((",", "\t", ";"), key=lines[0].count)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    try:
        header = tuple(name.strip() for name in next(reader))
        if repeated := [name for name in dict.fromkeys(header) if header.count(name) > 1]:
            raise ScalingError(f"{path}: column {repeated[0]!r} stands there {header.count(repeated[0])} times")
        rows: list[dict[str, object]] = []
        places: list[str] = []
        for cells in reader:
            if not "".join(cells).strip():
                continue
            if len(cells) != len(header):
                raise ScalingError(
                    f"{path}, line {reader.line_num}: {len(cells)} cells, expected {len(header)}, one for each of "
                    f"{_names(header)}"
                )
            rows.append(dict(zip(header, cells, strict=True)))
            places.append(f"line {reader.line_num}")
    except csv.Error as error:
        raise ScalingError(f"{path}, line {reader.line_num}: {error}") from None
    return Table(path, header, tuple(rows), tuple(places))


def _read_json_lines(path: Path) -> Table:
    lines = _lines(path)
    columns: dict[str, None] = {}
    rows: list[dict[str, object]] = []
    places: list[str] = []
    torn = ""
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError(f"expected an object with one key per column, got {line.strip()[:40]}")
        except (ValueError, RecursionError) as error:
            problem = f"{path}, line {number}: {error}"
            if number < len(lines) or line.endswith("\n") or not rows:
                raise ScalingError(problem) from None
            torn = problem
            continue
        columns.update(dict.fromkeys(row))
        rows.append(row)
        places.append(f"line {number}")
    return Table(path, tuple(columns), tuple(rows), tuple(places), torn)


def _read_parquet(path: Path) -> Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
        parts = (file.metadata.row_group(i) for i in range(file.metadata.num_row_groups))
        _check_size(path, sum(part.total_byte_size for part in parts))
        table = file.read()
        rows = table.to_pylist()
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise ScalingError(f"{path}: not a Parquet file that can be read ({error})") from None
    return Table(path, tuple(table.column_names), tuple(rows), tuple(f"row {i}" for i in range(1, len(rows) + 1)))


_READERS: Mapping[str, Callable[[Path], Table]] = {
    ".csv": _read_delimited,
    ".tsv": _read_delimited,
    ".jsonl": _read_json_lines,
    ".ndjson": _read_json_lines,
    ".parquet": _read_parquet,
}


def _lines(path: Path) -> list[str]:
    """A text file's lines, with their ends. Raises `ScalingError` if it is not text."""
    try:
        with (gzip.open if path.suffix.lower() == ".gz" else open)(path, "rb") as file:
            data = file.read(MOST_BYTES + 1)
        _check_size(path, len(data))
        text = data.decode("utf-8-sig")
    except (UnicodeDecodeError, EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ScalingError(f"{path}: not UTF-8 text, whatever its name says ({error}); {ADVICE}") from None
    if "\0" in text:
        raise ScalingError(f"{path}: holds binary data, whatever its name says; {ADVICE}")
    return list(io.StringIO(text, newline=None))


def _check_size(path: Path, size: int) -> None:
    if size > MOST_BYTES:
        raise ScalingError(
            f"{path}: more than {MOST_BYTES >> 20} MiB, and a table of runs has one row for each run; write one with "
            "final losses only"
        )


def _same(cell: object, wanted: str) -> bool:
    try:
        return float(_text(cell)) == float(wanted)
    except ValueError:
        return _text(cell) == wanted


def _text(cell: object) -> str:
    return "" if cell is None else str(cell).strip()


def _names(names: tuple[str, ...]) -> str:
    shown = ", ".join(repr(name) for name in names[:24])
    return shown + (f" and {len(names) - 24} more" if len(names) > 24 else "")
