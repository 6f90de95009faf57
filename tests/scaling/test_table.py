import gzip
import pickle
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from scaling.errors import ScalingError
from scaling.table import read_table


def test_the_same_table_comes_from_every_kind_of_file(tmp_path: Path) -> None:
    text = "N,loss\n10,2.5\n20,2.25\n"
    (tmp_path / "a.csv").write_text(text)
    (tmp_path / "b.tsv").write_text(text.replace(",", "\t"))
    (tmp_path / "c.csv").write_text("﻿" + text.replace(",", ";").replace("\n", "\r\n"))
    (tmp_path / "d.csv.gz").write_bytes(gzip.compress(text.encode()))
    (tmp_path / "e.jsonl").write_text('{"N": 10, "loss": 2.5}\n\n{"N": 20, "loss": 2.25}\n')
    pq.write_table(pa.table({"N": [10, 20], "loss": [2.5, 2.25]}), tmp_path / "f.parquet")
    for path in sorted(tmp_path.iterdir()):
        table = read_table(path)
        assert table.columns == ("N", "loss"), path
        assert [[float(str(row[c])) for c in table.columns] for row in table.rows] == [[10, 2.5], [20, 2.25]], path


def test_rows_know_their_line(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('N,note\n1,"two\nlines"\n\n2,x\n')
    assert read_table(tmp_path / "a.csv").places == ("line 3", "line 5")
    (tmp_path / "a.jsonl").write_text('{"N": 1}\n\n{"N": "a\u2028b"}\n')
    assert read_table(tmp_path / "a.jsonl").places == ("line 1", "line 3")


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("a.csv", b"", "a.csv: is empty; expected a line with the columns' names"),
        ("a.csv", b"N,loss\n", "a.csv: has no rows"),
        ("a.jsonl", b"\n\n", "a.jsonl: has no rows"),
        ("a.csv", b"N,loss\n1,2\n3\n", "a.csv, line 3: 1 cells, expected 2, one for each of 'N', 'loss'"),
        ("a.csv", b'N,loss\n1,"2\n', "a.csv, line 2: unexpected end of data"),
        ("a.csv", b"N,N\n1,2\n", "a.csv: column 'N' stands there 2 times"),
        ("a.csv", b"N,loss\n\xff\xfe,1\n", "a.csv: not UTF-8 text, whatever its name says"),
        ("a.csv", b"N,loss\n1,\0\n", "a.csv: holds binary data, whatever its name says"),
        ("a.csv.gz", b"N,loss\n1,2\n", "a.csv.gz: not UTF-8 text, whatever its name says"),
        ("a.jsonl", b'{"N": 1}\n{"N": \n{"N": 2}\n', "a.jsonl, line 2: "),
        ("a.jsonl", b'{"N": 1}\n[1, 2]\n', "a.jsonl, line 2: expected an object with one key per column, got"),
        ("a.jsonl", b"[" * 100_000, "a.jsonl, line 1: "),
        ("a.parquet", b"PAR1 and no more", "a.parquet: not a Parquet file that can be read"),
        ("a.xlsx", b"", "a.xlsx: cannot tell what kind of file this is; expected .csv, .tsv, .jsonl or .parquet"),
        ("a", b"", "a: cannot tell what kind of file this is"),
        ("a.parquet.gz", b"", "a.parquet.gz: cannot tell what kind of file this is"),
    ],
)
def test_a_file_that_is_no_table_is_refused(tmp_path: Path, name: str, content: bytes, problem: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ScalingError) as refused:
        read_table(tmp_path / name)
    assert problem in str(refused.value)


def test_a_file_too_large_for_a_table_of_runs_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scaling.table.MOST_BYTES", 1 << 20)
    text = "N,loss\n" + "1,2\n" * (1 << 18)
    (tmp_path / "a.csv").write_text(text)
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(text.encode()))
    pq.write_table(pa.table({"N": [str(i) for i in range(200_000)]}), tmp_path / "a.parquet", use_dictionary=False)
    assert (tmp_path / "a.csv.gz").stat().st_size < 10_000, "small until it is unpacked"
    for name in ("a.csv", "a.csv.gz", "a.parquet"):
        with pytest.raises(ScalingError, match=f"{name}: more than 1 MiB, and a table of runs has one row for each"):
            read_table(tmp_path / name)


class Trap:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("name", ["a.pickle", "a.pkl", "a.pickle.xz", "a.csv", "a.jsonl", "a.parquet", "a.csv.gz"])
@pytest.mark.parametrize("protocol", [0, 4])
def test_nothing_is_unpickled_whatever_it_is_called(tmp_path: Path, name: str, protocol: int) -> None:
    (tmp_path / name).write_bytes(pickle.dumps(Trap(tmp_path / "sprung"), protocol))
    with pytest.raises(ScalingError):
        read_table(tmp_path / name).where({"N": "1"})
    assert not (tmp_path / "sprung").exists()


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(ScalingError, match=r"none\.csv: no such file"):
        read_table(tmp_path / "none.csv")
    with pytest.raises(ScalingError, match="is a folder; name a file in it"):
        read_table(tmp_path)


def test_rows_are_kept_by_text_and_by_number(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("val,seed,N\nc4,0,1\nc4,1.0,2\npile,1,3\n")
    table = read_table(tmp_path / "a.csv")
    kept = table.where({"val": "c4", "seed": "1"})
    assert [row["N"] for row in kept.rows] == ["2"] and kept.places == ("line 3",)
    with pytest.raises(ScalingError, match=r"no column 'eval' to filter by; there are 'val', 'seed', 'N'"):
        table.where({"eval": "c4"})
    with pytest.raises(ScalingError, match=r"no row has val = 'c5'; there are 'c4', 'pile'"):
        table.where({"val": "c5"})
    with pytest.raises(ScalingError, match="no row has all of val=pile, seed=0"):
        table.where({"val": "pile", "seed": "0"})


def test_half_a_last_line_is_told_apart_from_a_malformed_one(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"N": 1}\n{"N": 2')
    table = read_table(tmp_path / "a.jsonl")
    assert len(table.rows) == 1 and "line 2" in table.torn
