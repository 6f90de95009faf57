"""Where text comes from: a file, or a data set of the `datasets` library, with its weight in the mix."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from family.files import sha256_file
from training.errors import DataError
from training.quiet import quiet

DATASET = "hf:"
"""Begins the name of a data set: `hf:ID`, `hf:ID@CONFIG`, `hf:ID:SPLIT`, `hf:ID@CONFIG:SPLIT`; the split is `train`."""
FORMATS = ".txt, .jsonl or .parquet"


@dataclass(frozen=True)
class Source:
    """A text file or data set, and its weight in the mix."""

    ref: str
    """Path of a file, or `hf:ID[@CONFIG][:SPLIT]`: a data set of the hub, or a folder of data files."""
    weight: float = 1.0

    @property
    def path(self) -> Path:
        """The file. Raises `DataError` for a data set."""
        if self.ref.startswith(DATASET):
            raise DataError(f"{self.ref}: expected a file ({FORMATS}), not a data set")
        return Path(self.ref)

    @property
    def name(self) -> str:
        """What reports call it: the file's name, or the data set's."""
        return self.ref if self.ref.startswith(DATASET) else Path(self.ref).name


def parse_source(argument: str) -> Source:
    """`SOURCE` or `SOURCE=WEIGHT`. Raises `DataError` for a weight that is not a positive number."""
    ref, separator, weight = argument.rpartition("=")
    if not separator or Path(argument).exists():
        return Source(argument)
    try:
        value = float(weight)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise DataError(f"{argument}: expected FILE or FILE=WEIGHT with a positive number, for example {ref}=0.5")
    return Source(ref, value)


def fingerprint(source: Source) -> str:
    """SHA-256 of a source's content (a data set's: of the table files that hold it, and its split).

    Raises:
        DataError: there is no such file or data set.
    """
    if not source.ref.startswith(DATASET):
        if not source.path.is_file():
            raise DataError(f"{source.ref}: no such file")
        return sha256_file(source.path)
    digest = hashlib.sha256(_parts(source.ref)[2].encode())
    for file in load_dataset(source.ref).cache_files:
        digest.update(sha256_file(Path(file["filename"])).encode())
    return digest.hexdigest()


def load_dataset(ref: str) -> Any:
    """The data set that `hf:...` names, as a memory-mapped `datasets.Dataset`.

    Raises:
        DataError: the library is missing, or it finds no such data set.
    """
    try:
        import datasets
    except ModuleNotFoundError as error:
        missing(ref, error)
    name, config, split = _parts(ref)
    try:
        with quiet():
            return datasets.load_dataset(name, config, split=split)
    except Exception as error:  # what the library and its readers raise has no common base
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(
            f"{ref}: cannot be loaded ({reason}); expected hf:ID[@CONFIG][:SPLIT], ID a data set of the hub or a folder"
        ) from error


def dataset_rows(ref: str, wanted: Callable[[str], bool]) -> Iterator[dict[str, object]]:
    """Rows of a data set in order, with the wanted columns."""
    data = load_dataset(ref)
    yield from data.select_columns([name for name in data.column_names if wanted(name)])


def parquet_rows(path: Path, wanted: Callable[[str], bool]) -> Iterator[dict[str, object]]:
    """Rows of a Parquet file in order, with the wanted columns. Raises `DataError` if it is not readable."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        missing(str(path), error)
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            columns = [name for name in file.schema_arrow.names if wanted(name)]
            for batch in file.iter_batches(batch_size=1024, columns=columns):
                yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path}: not readable as Parquet ({error})") from None


def missing(what: str, error: ModuleNotFoundError) -> NoReturn:
    """Tell how to install the package that reading `what` needs."""
    raise DataError(f"{what}: needs the package {error.name}; install it with: pip install 'familial[data]'") from None


def _parts(ref: str) -> tuple[str, str | None, str]:
    """(id or folder, config, split) of `hf:ID[@CONFIG][:SPLIT]`."""
    name, _, split = ref.removeprefix(DATASET).partition(":")
    name, _, config = name.partition("@")
    return name, config or None, split or "train"
