"""Tables in files: every way in which CSV is written, Parquet, and what is refused."""

import bz2
import gzip
import io
import re
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from unrolled.errors import CallError, DataError
from unrolled.series.data import Table, read_table, write_table


def put(tmp_path: Path, content: bytes | str, name: str = "t.csv") -> Path:
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def cells(table: Table) -> dict[str, list[object]]:
    return {name: table.arrow(name).to_pylist() for name in table.names}


PLAIN = {"a": ["1", "2"], "b": ["x", "y"]}


@pytest.mark.parametrize(
    ("content", "name"),
    [
        ("a,b\n1,x\n2,y\n", "t.csv"),
        ("a,b\r\n1,x\r\n2,y\r\n", "t.csv"),
        ("a,b\n1,x\n2,y", "t.csv"),
        ("\ufeffa,b\n1,x\n2,y\n", "t.csv"),
        ("a;b\n1;x\n2;y\n", "t.csv"),
        ("a\tb\n1\tx\n2\ty\n", "t.tsv"),
        ("a\tb\n1\tx\n2\ty\n", "t.txt"),
        ("a|b\n1|x\n2|y\n", "t.csv"),
        ('"a","b"\n"1","x"\n"2","y"\n', "t.csv"),
        (" a , b\n1,x\n2,y\n", "t.csv"),
        ("a,b\n1,x\n2,y\n".encode("utf-16"), "t.csv"),
        (gzip.compress(b"a,b\n1,x\n2,y\n", mtime=0), "t.csv.gz"),
        (gzip.compress(b"a,b\n1,x\n2,y\n", mtime=0), "t.csv"),
    ],
)
def test_every_way_of_writing_a_table_gives_the_same_cells(tmp_path, content, name) -> None:
    table = read_table(put(tmp_path, content, name))
    assert cells(table) == PLAIN
    assert [table.row(k) for k in range(2)] == ["row 2", "row 3"]  # the names are row 1


def test_an_encoding_can_be_named(tmp_path: Path) -> None:
    path = put(tmp_path, "Straße;n\nGlück;1\n".encode("cp1252"))
    with pytest.raises(
        DataError, match="row 1 is not UTF-8; name its encoding, such as encoding='cp1252'"
    ):
        read_table(path)
    assert cells(read_table(path, encoding="cp1252")) == {"Straße": ["Glück"], "n": ["1"]}
    with pytest.raises(CallError, match="encoding: got 'no such', expected one that Python knows"):
        read_table(path, encoding="no such")


def test_a_byte_of_another_encoding_far_down_is_refused_with_its_row(tmp_path: Path) -> None:
    path = put(tmp_path, b"a,b\n" + b"1,x\n" * 50_000 + b"1,\xe9\n")
    with pytest.raises(DataError, match="row 50002 is not UTF-8"):
        read_table(path)


@pytest.mark.parametrize("encoding", ["utf-16", "gb18030"])
def test_a_file_of_many_blocks_may_have_any_encoding(tmp_path: Path, encoding: str) -> None:
    lines = [f"{k},温度{k}" for k in range(200_000)]
    table = read_table(
        put(tmp_path, "\n".join(["数,名", *lines]).encode(encoding)), encoding=encoding
    )
    assert table.names == ["数", "名"] and table.rows == len(lines)
    assert table.arrow("名")[199_999].as_py() == "温度199999"


def test_other_compressions_are_known_by_the_name(tmp_path: Path) -> None:
    assert cells(read_table(put(tmp_path, bz2.compress(b"a,b\n1,x\n2,y\n"), "t.csv.bz2"))) == PLAIN


def test_decimal_commas_are_read_where_cells_are_not_parted_by_them(tmp_path: Path) -> None:
    table = read_table(put(tmp_path, "a;b;c\n1,5;2;1.5\n-3;;2\n"))
    assert table.numbers("a", "past").tolist() == [1.5, -3]
    np.testing.assert_array_equal(table.numbers("b", "past"), [2, np.nan])
    assert table.numbers("c", "past").tolist() == [1.5, 2]
    assert table.notes == ["commas in numbers are decimal points"]
    mistaken = read_table(put(tmp_path, "a;b\n1,5;2\n2,5;x\nthree;y\n"))
    assert mistaken.is_numbers("a") and not mistaken.is_numbers("b")
    with pytest.raises(DataError, match=r"row 4: the column 'a' \(past\) has 'three', expected a"):
        mistaken.numbers("a", "past")
    with pytest.raises(
        DataError, match=r"row 3: the column 'a' \(past\) has '2,5', expected a number"
    ):
        read_table(put(tmp_path, 'a,b\n1.5,x\n"2,5",y\n')).numbers("a", "past")


def test_cells_may_hold_what_parts_them_and_lines(tmp_path: Path) -> None:
    table = read_table(put(tmp_path, 'a,b\n"1,2","x\ny"\n3,"say ""hi"""\n'))
    assert cells(table) == {"a": ["1,2", "3"], "b": ["x\ny", 'say "hi"']}


def test_blank_rows_are_left_out_and_counted(tmp_path: Path) -> None:
    table = read_table(put(tmp_path, "a,b\n\n1,x\n\n\n2,y\n\n"))
    assert cells(table) == PLAIN and [table.row(k) for k in range(2)] == ["row 3", "row 6"]
    assert cells(read_table(put(tmp_path, "a\n1\n\n2\n"))) == {"a": ["1", None, "2"]}


def test_a_table_without_rows_has_columns(tmp_path: Path) -> None:
    for content in ("a,b\n", "a,b", "a,b\n\n"):
        table = read_table(put(tmp_path, content))
        assert table.names == ["a", "b"] and table.rows == 0


def test_a_column_without_a_name_gets_one(tmp_path: Path) -> None:
    assert read_table(put(tmp_path, ",y\n0,1\n")).names == ["column 1", "y"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "empty, expected a table with the names of the columns in the first row"),
        (b"\n\n", "empty, expected a table"),
        ("\na,b\n1,2\n", "row 1 is blank, expected the names"),
        (
            "1,2\n3,4\n",
            "row 1 holds numbers (1, 2), expected the names of the columns in the first row",
        ),
        ("a,a\n1,2\n", "two columns are named 'a', expected each name once"),
        (
            "a,b\n1,2\n3\n",
            "row 3: got 1 cells, expected 2 as the first row: '3'; a cell that holds",
        ),
        ("a,b\n1,2\n3,4,5\n", "row 3: got 3 cells, expected 2 as the first row: '3,4,5'"),
        ("a,b\n" + "1,2\n" * 400_000 + "3,4,5\n", "row 400002: got 3 cells, expected 2"),
        (
            b"PK\x03\x04....",
            "a zip archive, as .xlsx is, expected CSV or Parquet; export it as one of them",
        ),
        (b"ARROW1..", "an Arrow file, expected CSV or Parquet"),
        (b"a,b\n1,\x00\n", "binary, expected CSV or Parquet"),
        (b"PAR1....PAR1", "cannot be read"),
        (gzip.compress(b"a,b\n" + b"1,2\n" * 9, mtime=0)[:-12], "cannot be read"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path: Path, content, message: str) -> None:
    path = put(tmp_path, content)
    with pytest.raises(DataError, match=re.escape(f"{path}: {message}")):
        read_table(path)


def test_what_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none.csv: no such file"):
        read_table(tmp_path / "none.csv")
    with pytest.raises(DataError, match="cannot be read"):
        read_table(tmp_path)


class Standard:
    """What is at the other end of a pipe."""

    def __init__(self, content: bytes) -> None:
        self.buffer = io.BytesIO(content)


def test_standard_input_is_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    for content in (b"a,b\n1,x\n2,y\n", gzip.compress(b"a,b\n1,x\n2,y\n", mtime=0)):
        monkeypatch.setattr(sys, "stdin", Standard(content))
        table = read_table("-")
        assert cells(table) == PLAIN and table.name == "standard input"
    monkeypatch.setattr(sys, "stdin", Standard(b"PAR1.."))
    with pytest.raises(DataError, match="standard input: got Parquet, expected CSV"):
        read_table("-")
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(DataError, match="standard input: closed, expected a table"):
        read_table("-")


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz", "t.tsv", "t.parquet"])
def test_a_table_is_written_and_read_again(tmp_path: Path, name: str) -> None:
    columns = {"id": ["a", "b,c", None], "y": [0.1, float("nan"), 1e-9], "k": [1, 2, 3]}
    write_table(tmp_path / name, columns)
    table = read_table(tmp_path / name)
    assert table.names == ["id", "y", "k"]
    assert table.arrow("id").to_pylist() == ["a", "b,c", None]
    np.testing.assert_array_equal(table.numbers("y", "past"), [0.1, np.nan, 1e-9])
    assert table.numbers("k", "past").tolist() == [1, 2, 3]
    assert table.row(0) == ("row 1" if name.endswith("parquet") else "row 2")


def test_quotes_stand_where_they_are_needed(tmp_path: Path) -> None:
    write_table(tmp_path / "t.csv", {"a": ["x"], "b": [1.5]})
    assert (tmp_path / "t.csv").read_bytes() == b"a,b\nx,1.5\n"
    write_table(tmp_path / "t.csv", pd.DataFrame({"a": ["x,y"], "b": [None]}))
    assert (tmp_path / "t.csv").read_bytes() == b'"a","b"\n"x,y",\n'


def test_a_datetime_is_written_as_iso_8601(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {
            "t": pd.to_datetime(["2020-03-29 01:00", "2020-03-29 02:00"]),
            "z": pd.to_datetime(["2020-03-29 00:00", "2020-03-29 01:00"], utc=True).tz_convert(
                "Europe/Berlin"
            ),
            "d": pa.array([18_000, 18_001], pa.date32()).to_pylist(),
        }
    )
    write_table(tmp_path / "t.csv", frame)
    assert (tmp_path / "t.csv").read_text().splitlines() == [
        "t,z,d",
        "2020-03-29T01:00:00,2020-03-29T01:00:00+01:00,2019-04-14",
        "2020-03-29T02:00:00,2020-03-29T03:00:00+02:00,2019-04-15",
    ]


def test_standard_output_gets_csv(capsys: pytest.CaptureFixture[str]) -> None:
    write_table("-", {"a": [1]})
    assert capsys.readouterr().out == "a\n1\n"


def test_another_end_of_a_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        CallError, match=r"t.xlsx: expected a name that ends in .csv, .csv.gz, .tsv or"
    ):
        write_table(tmp_path / "t.xlsx", {"a": [1]})


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    write_table(tmp_path / "t.csv", {"a": [1]})
    with pytest.raises(DataError):
        write_table(tmp_path / "t.csv", {"a": [1], "b": [1, 2]})
    assert (tmp_path / "t.csv").read_text() == "a\n1\n"
    assert [path.name for path in tmp_path.iterdir()] == ["t.csv"]
