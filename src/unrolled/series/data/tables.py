"""Tables in files: CSV and its kin, and Parquet, by PyArrow.

PyArrow reads both, with every encoding and compression, on all cores, and needs no other package; polars is
as large and brings no encodings, pandas is larger together with what it needs for Parquet.
"""

import codecs
import csv
import encodings
import gzip
import io
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from unrolled import files
from unrolled.errors import CallError, DataError
from unrolled.series.data.clock import UTC, Clock, numbers_of
from unrolled.series.data.frames import Table, extra, table_of
from unrolled.series.data.frequency import SECOND

DELIMITERS = (",", ";", "\t", "|")
SAMPLE = 1 << 16  # bytes by which a file's kind is told
PARQUET = (".parquet", ".pq")
NAMES = "the names of the columns in the first row"
GZIP = b"\x1f\x8b"
OTHERS = {
    b"PK\x03\x04": "a zip archive, as .xlsx is",
    b"\xd0\xcf\x11\xe0": "a document of Microsoft Office",
    b"ARROW1": "an Arrow file",
    b"SQLite f": "an SQLite database",
    b"%PDF": "a PDF",
    b"\x89HDF": "an HDF5 file",
}
MARKS = {codecs.BOM_UTF8: "utf-8", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


def read_table(path: str | Path, *, encoding: str | None = None) -> Table:
    """The table in a file: CSV with commas, semicolons, tabs or bars, or Parquet; ``-``: standard input.

    What ends in ``.gz``, ``.bz2`` or ``.zst`` is unpacked. In a file without commas between its cells
    a comma may be the decimal point. Cells stay text until it is known what they are to be. Rows are
    counted as a spreadsheet does: the names are row 1.

    Args:
        path: the file.
        encoding: that of a CSV file, if it is neither UTF-8 nor marked as UTF-16.

    Raises:
        DataError: it cannot be read, is no table, or a row has too many or too few cells.
        CallError: the encoding is not known.
    """
    name = "standard input" if str(path) == "-" else str(path)
    # Python's own: what else is registered may take any name.
    if encoding is not None and encodings.search_function(encoding.lower()) is None:
        raise CallError(
            f"encoding: got {encoding!r}, expected one that Python knows, such as 'cp1252' or 'gb18030'"
        )
    arrow = extra("pyarrow")
    try:
        opened = _opener(path)
        with opened() as file:
            head = file.read(SAMPLE)
        if head.startswith(b"PAR1"):
            return _parquet(path, name)
        return _csv(opened, head, name, None if str(path) == "-" else str(path), encoding)
    except FileNotFoundError:
        raise DataError(f"{name}: no such file") from None
    except (OSError, arrow.ArrowException) as error:
        raise DataError(
            f"{name}: cannot be read ({getattr(error, 'strerror', None) or error})"
        ) from None


def _opener(path: str | Path) -> Callable[[], Any]:
    """A function that opens the unpacked bytes at ``path`` from their beginning."""
    arrow = extra("pyarrow")
    if str(path) != "-":
        with Path(path).open("rb") as file:
            found = "gzip" if file.read(2) == GZIP else "detect"
        return lambda: arrow.input_stream(str(path), compression=found)
    if sys.stdin is None:
        raise DataError("standard input: closed, expected a table")
    whole = sys.stdin.buffer.read()
    kind = "gzip" if whole.startswith(GZIP) else None
    return lambda: arrow.input_stream(io.BytesIO(whole), compression=kind)


def _parquet(path: str | Path, name: str) -> Table:
    if str(path) == "-":
        raise DataError(f"{name}: got Parquet, expected CSV; give the file by its name")
    parquet = extra("pyarrow.parquet")
    whole = parquet.read_table(str(path))
    return Table(
        {column: whole[column] for column in whole.column_names},
        whole.num_rows,
        name=name,
        first_row=1,
    )


def _csv(
    opened: Callable[[], Any], head: bytes, name: str, path: str | None, encoding: str | None
) -> Table:
    for mark, what in OTHERS.items():
        if head.startswith(mark):
            raise DataError(f"{name}: {what}, expected CSV or Parquet; export it as one of them")
    marked = next((kind for mark, kind in MARKS.items() if head.startswith(mark)), None)
    encoding = encoding or marked or "utf-8"
    text = _decoded(head, encoding, name)
    if not text.strip():
        raise DataError(f"{name}: empty, expected a table with {NAMES}")
    delimiter = _delimiter(
        text, "\t" if (path or "").removesuffix(".gz").endswith(".tsv") else None
    )
    names = _names(text, delimiter, name)
    arrow, reader = extra("pyarrow"), extra("pyarrow.csv")
    options: dict[str, Any] = {
        "parse_options": reader.ParseOptions(
            delimiter=delimiter, newlines_in_values=True, ignore_empty_lines=False
        ),
        "convert_options": reader.ConvertOptions(
            column_types={column: arrow.large_string() for column in names},
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=True,
        ),
    }
    if not text.rstrip().strip("\ufeff").count("\n") and len(head) < SAMPLE:
        none = arrow.array([], arrow.large_string())
        return Table(dict.fromkeys(names, none), 0, name=name, first_row=2)
    reading = {"column_names": names, "skip_rows": 1, "encoding": encoding}
    try:
        with opened() as file:
            found = reader.read_csv(file, read_options=reader.ReadOptions(**reading), **options)
    except (arrow.ArrowInvalid, UnicodeDecodeError) as error:
        _refuse_csv(opened, error, name, encoding, delimiter, len(names))
    rows, numbers = _without_blanks(found)
    columns = {column: rows[column] for column in rows.column_names}
    return Table(
        columns,
        rows.num_rows,
        name=name,
        first_row=2,
        numbers=numbers,
        commas=delimiter != ",",
        file=path,
        delimiter=delimiter,
    )


def _decoded(head: bytes, encoding: str, name: str) -> str:
    decoder = codecs.getincrementaldecoder(encoding)()
    try:
        text: str = decoder.decode(head)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{name}: {_wrong_encoding(head[: error.start].count(10) + 1, encoding)}"
        ) from None
    if "\0" in text:
        raise DataError(
            f"{name}: binary, expected CSV or Parquet; of UTF-16, say so: encoding='utf-16'"
        )
    return text.removeprefix("\ufeff")


def _wrong_encoding(row: int, encoding: str) -> str:
    return (
        f"row {row} is not {encoding.upper()}; name its encoding, such as encoding='cp1252' (Western "
        "Europe), 'gb18030' (Chinese) or 'shift_jis' (Japanese), or save it as UTF-8"
    )


def _delimiter(text: str, given: str | None) -> str:
    """What stands between cells: that which gives most of them, as many in each of the first rows."""
    if given is not None:
        return given
    lines = text.splitlines()[:50]
    best, most = ",", 0
    for delimiter in DELIMITERS:
        counts = [len(row) for row in csv.reader(lines[:-1] or lines, delimiter=delimiter) if row]
        if (
            counts
            and counts[0] > 1
            and counts.count(counts[0]) >= 0.9 * len(counts)
            and counts[0] > most
        ):
            best, most = delimiter, counts[0]
    return best


def _names(text: str, delimiter: str, name: str) -> list[str]:
    row = [
        cell.strip()
        for cell in next(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter), [])
    ]
    if not row:
        raise DataError(f"{name}: row 1 is blank, expected {NAMES}")
    if all(re.fullmatch(r"[-+\d.,eE]+", cell) for cell in row):
        raise DataError(f"{name}: row 1 holds numbers ({', '.join(row[:4])}), expected {NAMES}")
    names = [cell or f"column {k}" for k, cell in enumerate(row, start=1)]
    for column in names:
        if names.count(column) > 1:
            raise DataError(f"{name}: two columns are named {column!r}, expected each name once")
    return names


def _refuse_csv(
    opened: Callable[[], Any],
    error: Exception,
    name: str,
    encoding: str,
    delimiter: str,
    cells: int,
) -> None:
    """Say what is wrong with a file that could not be read, and in which row."""
    if isinstance(error, UnicodeDecodeError) or "UTF8" in str(error):
        with opened() as file:
            for number, line in enumerate(io.BufferedReader(_Raw(file)), start=1):
                try:
                    line.decode(encoding)
                except UnicodeDecodeError:
                    raise DataError(f"{name}: {_wrong_encoding(number, encoding)}") from None
    if "columns" in str(error):
        with opened() as file:
            lines = io.TextIOWrapper(io.BufferedReader(_Raw(file)), encoding, newline="")
            for number, row in enumerate(csv.reader(lines, delimiter=delimiter), start=1):
                if row and len(row) != cells:
                    shown = delimiter.join(row)[:60]
                    raise DataError(
                        f"{name}: row {number}: got {len(row)} cells, expected {cells} as the first "
                        f"row: {shown!r}; a cell that holds what stands between cells is to be quoted"
                    )
    raise DataError(f"{name}: cannot be read ({error})") from None


class _Raw(io.RawIOBase):
    """Arrow's stream as one of Python's."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        read = self._file.read(len(buffer))
        buffer[: len(read)] = read
        return len(read)


def _without_blanks(table: Any) -> tuple[Any, Any]:
    """The table without blank rows; and the numbers of those that stay, if some do not."""
    compute = extra("pyarrow.compute")
    if table.num_columns == 1 or not all(column.null_count for column in table.columns):
        return table, None
    blank = compute.is_null(table.column(0))
    for column in table.columns[1:]:
        blank = compute.and_(blank, compute.is_null(column))
    if not compute.any(blank).as_py():
        return table, None
    keep = compute.invert(blank)
    return table.filter(keep), np.flatnonzero(keep.to_numpy()) + 2


def write_table(path: str | Path, columns: Mapping[str, Any] | Any) -> None:
    """Write a frame, or arrays by name, to a file, whole or not at all; ``-``: standard output.

    The name's end says how: ``.parquet``, ``.csv``, ``.tsv``, the last two with ``.gz`` too. A
    missing number is an empty cell.

    Raises:
        CallError: the name's end is another.
        OSError: it cannot be written.
    """
    arrow = extra("pyarrow")
    name = str(path)
    plain = name.removesuffix(".gz")
    if name != "-" and not plain.endswith((".csv", ".tsv")) and not name.endswith(PARQUET):
        raise CallError(f"{name}: expected a name that ends in .csv, .csv.gz, .tsv or .parquet")
    source = table_of(columns)
    table = arrow.table({column: source.arrow(column) for column in source.names})
    if name.endswith(PARQUET):
        buffer = io.BytesIO()
        extra("pyarrow.parquet").write_table(table, arrow.PythonFile(buffer, mode="w"))
        content = buffer.getvalue()
    else:
        content = _as_csv(table, "\t" if plain.endswith(".tsv") else ",")
    if name == "-":
        sys.stdout.buffer.write(content)
        return
    files.replace(Path(path), gzip.compress(content, mtime=0) if name.endswith(".gz") else content)


def _as_csv(table: Any, delimiter: str) -> bytes:
    arrow, writer = extra("pyarrow"), extra("pyarrow.csv")
    for place, field in enumerate(table.schema):
        if arrow.types.is_timestamp(field.type):
            table = table.set_column(place, field.name, _iso(table.column(place)))
    for style in ("none", "needed"):  # quotes, if any cell or name needs them
        buffer = io.BytesIO()
        options = writer.WriteOptions(
            delimiter=delimiter, quoting_style=style, quoting_header=style
        )
        try:
            writer.write_csv(table, buffer, options)
        except arrow.ArrowInvalid:
            continue
        return buffer.getvalue()
    raise AssertionError


def _iso(stamps: Any) -> Any:
    """Times as text of ISO 8601, with their offset if they have a zone."""
    arrow, compute = extra("pyarrow"), extra("pyarrow.compute")
    zone = stamps.type.tz
    times = numbers_of(compute.fill_null(stamps, arrow.scalar(0, stamps.type)))
    if (times % SECOND).any():
        return stamps
    end = "" if zone is None else "Z" if zone == UTC else "%:z"
    texts = Clock("datetime", zone, f"%Y-%m-%dT%H:%M:%S{end}").written(times)
    empty = arrow.scalar(None, texts.type)
    return compute.if_else(stamps.is_valid().combine_chunks(), texts, empty)
