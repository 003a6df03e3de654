"""Any frame as columns, and columns as a frame of the same kind.

A frame is one of pandas, polars or PyArrow, or of another library that narwhals knows, or a mapping from
names to arrays. Inside, a column is an Arrow array; it becomes NumPy numbers, codes or times when
its role is known.
"""

import difflib
import shlex
from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unrolled.errors import CallError, DataError, MissingExtraError

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

# What stands in a cell of text that holds no number.
MISSING = (
    "", ".", "-", "?", "NA", "N/A", "n/a", "#N/A", "<NA>", "NaN", "nan", "-nan", "NaT",
    "NULL", "Null", "null", "None",
)  # fmt: skip
NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"
COMMAS = r"^[+-]?\d+(,\d+)?$"
TRUTHS = {"true": 1.0, "false": 0.0}
COARSE = [np.dtype(f"datetime64[{unit}]") for unit in "YMWhm"]  # units that Arrow has not
LARGEST = 1e30  # beyond it a square leaves float32, in which networks calculate
MEANT = 0.5  # the share of a text's levels that are numbers from which it is meant as numbers
HEAD = 100  # cells by which most columns of another type are told
SHOWN = 12  # names in a message


def extra(module: str) -> Any:
    """A module of a package that the extra ``series`` brings.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        if error.name != package:
            raise
        raise MissingExtraError("a table", package, "series") from None


class Table:
    """Columns by name, each of ``rows`` cells.

    Args:
        columns: of each an Arrow array, or a function that gives one when it is asked for.
        rows: how many rows there are.
        name: what messages call the table.
        first_row: the number that messages give to the first row.
        numbers: those that they give to each row, where some are left out.
        commas: whether a comma may be the decimal point.
        file: the CSV file that it comes from.
        delimiter: what stands between the cells there.
    """

    def __init__(
        self,
        columns: Mapping[str, Any],
        rows: int,
        *,
        name: str = "the frame",
        first_row: int = 0,
        numbers: Integers | None = None,
        commas: bool = False,
        file: str | None = None,
        delimiter: str = ",",
    ) -> None:
        self.name, self.rows, self.notes = name, rows, list[str]()
        self.has_index_of_times = False  # of pandas, and without a name
        self._columns, self._first_row, self._numbers = dict(columns), first_row, numbers
        self._commas, self._file, self._delimiter = commas, file, delimiter

    @property
    def names(self) -> list[str]:
        """The columns' names, in order."""
        return list(self._columns)

    def __contains__(self, name: str) -> bool:
        return name in self._columns

    def row(self, index: int) -> str:
        """How messages call a row: as its file counts, or in a frame from 0."""
        number = index + self._first_row if self._numbers is None else self._numbers[index]
        return f"row {number}"

    def note(self, text: str) -> None:
        """Keep what a reader of a plan should know, once."""
        if text not in self.notes:
            self.notes.append(text)

    def sorting(self, names: Sequence[str]) -> str:
        """How to sort it by columns, for a message."""
        if self._file is None:
            listed_names = list(names)
            return f"with sort_values({listed_names}) of pandas or sort({listed_names}) of polars"
        file, by = (
            shlex.quote(self._file),
            " ".join(
                f"-k{place},{place}" for place in (self.names.index(name) + 1 for name in names)
            ),
        )
        delimiter = r"$'\t'" if self._delimiter == "\t" else shlex.quote(self._delimiter)
        rest = f"tail -n +2 {file} | sort -t {delimiter} {by}"
        return f"for example with: (head -n 1 {file}; {rest}) > sorted.csv"

    def check_names(self, names: Iterable[str], role: str) -> None:
        """Refuse a name that is no column, with the nearest that is one."""
        for name in names:
            if name not in self._columns:
                near = difflib.get_close_matches(name, self._columns, 1, 0.5)
                advice = f"; did you mean {near[0]!r}?" if near else ""
                if role == "time" and self.has_index_of_times:
                    advice = f"; the index holds times: give it the name with rename_axis({name!r})"
                raise DataError(
                    f"{self.name}: no column {name!r} ({role}), expected one of "
                    f"{listed(self._columns)}{advice}"
                )

    def arrow(self, name: str) -> Any:
        """A column as an Arrow array."""
        column = self._columns[name]
        if callable(column):
            try:
                column = column()
            except Exception as error:  # each library has its own for a column of several kinds
                raise DataError(
                    f"{self.name}: the column {name!r} cannot be read ({error}), expected values of "
                    "one kind"
                ) from None
        arrow = extra("pyarrow")
        if isinstance(column, arrow.ChunkedArray):
            column = column.combine_chunks()
        if arrow.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        self._columns[name] = column
        return column

    def kind(self, name: str) -> str:
        """What a column holds: "number", "boolean", "time", "text", "null", or its type in Arrow."""
        types, kind = extra("pyarrow").types, self.arrow(name).type
        if _is_text(kind):
            return "text"
        if types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind):
            return "number"
        if types.is_timestamp(kind) or types.is_date(kind):
            return "time"
        return "boolean" if types.is_boolean(kind) else str(kind)

    def is_numbers(self, name: str) -> bool:
        """Whether a column is meant as numbers: of text, if at least half of its levels are some."""
        if self.kind(name) != "text":
            return self.kind(name) in ("number", "boolean", "null")
        column, arrow, compute = self.arrow(name), extra("pyarrow"), extra("pyarrow.compute")
        if cast(column, arrow.float64()) is not None:
            return True
        levels = cells_of(compute.unique(column))
        if self._read(levels) is not None:
            return True
        return bool(compute.mean(self._fits(levels.drop_null())).as_py() >= MEANT)

    def numbers(self, name: str, role: str) -> Floats:
        """A column as numbers ``[N]``, NaN where one is missing; true is 1, false is 0.

        Raises:
            DataError: a cell is no number, or larger than ``LARGEST``.
        """
        arrow = extra("pyarrow")
        kind, what = self.kind(name), f"the column {name!r} ({role})"
        if kind == "text":
            column = self._parsed(name, what, role)
        elif kind == "boolean":
            column = self.arrow(name).cast(arrow.uint8())
        elif kind in ("number", "null"):
            column = self.arrow(name)
        else:
            raise DataError(f"{self.name}: {what} is of type {kind}, expected numbers")
        values = column.cast(arrow.float64(), safe=False).to_numpy(zero_copy_only=False)
        wrong = np.abs(values) > LARGEST
        if wrong.any():
            at = int(wrong.argmax())
            raise DataError(
                f"{self.name}: {self.row(at)}: {what} has {values[at]:g}, expected a number of at most "
                f"{LARGEST:g}; leave the cell empty if it is unknown"
            )
        return np.array(values, dtype=np.float64)

    def _parsed(self, name: str, what: str, role: str) -> Any:
        """A column of text as numbers."""
        arrow, column = extra("pyarrow"), self.arrow(name)
        numbers = cast(column, arrow.float64())
        if numbers is not None:
            return numbers
        encoded = column.dictionary_encode()
        cells = cells_of(encoded.dictionary)
        numbers = self._read(cells)
        if numbers is not None:
            return numbers.take(encoded.indices)
        compute = extra("pyarrow.compute")
        fits = compute.fill_null(self._fits(cells), True).take(encoded.indices)
        of_row = fits.fill_null(True).to_numpy(zero_copy_only=False)
        at = int(np.asarray(of_row, dtype=bool).argmin())
        advice = "" if role == "target" else f"; if it is a category, say so: categories={name!r}"
        raise DataError(
            f"{self.name}: {self.row(at)}: {what} has {column[at].as_py()!r}, expected a number, or an "
            f"empty cell if it is unknown{advice}"
        )

    def _fits(self, cells: Any) -> Any:
        """Which texts are numbers."""
        compute = extra("pyarrow.compute")
        fits = compute.match_substring_regex(cells, NUMBER)
        return (
            compute.or_(fits, compute.match_substring_regex(cells, COMMAS))
            if self._commas
            else fits
        )

    def _read(self, cells: Any) -> Any:
        """Texts as numbers, or ``None`` if some are none."""
        arrow, compute = extra("pyarrow"), extra("pyarrow.compute")
        numbers = cast(cells, arrow.float64())
        if numbers is not None:
            return numbers
        if self._commas and compute.all(compute.match_substring_regex(cells, COMMAS)).as_py():
            self.note("commas in numbers are decimal points")
            return compute.replace_substring(cells, ",", ".").cast(arrow.float64())
        lower = compute.utf8_lower(cells)
        if compute.all(compute.is_in(lower.drop_null(), arrow.array(TRUTHS, lower.type))).as_py():
            truths = compute.equal(lower, arrow.scalar("true", lower.type))
            return truths.cast(arrow.uint8()).cast(arrow.float64())
        return None

    def levels(self, name: str) -> tuple[Integers, list[str]]:
        """A column as codes ``[N]``, -1 where a cell is empty, and the text of each, as they appear."""
        arrow, compute = extra("pyarrow"), extra("pyarrow.compute")
        column = self.arrow(name)
        if _is_text(column.type):
            is_empty = compute.equal(column, arrow.scalar("", column.type))
            column = compute.if_else(is_empty, arrow.scalar(None, column.type), column)
        elif arrow.types.is_floating(column.type):
            column = compute.if_else(
                compute.is_nan(column), arrow.scalar(None, column.type), column
            )
        encoded = compute.dictionary_encode(column)
        codes = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
        return codes, [level_of(value) for value in encoded.dictionary.to_pylist()]


def table_of(frame: Any, name: str = "the frame") -> Table:
    """A frame, or a mapping from names to arrays, as a ``Table``; a ``Table`` is itself.

    The named levels of pandas's index are columns too.

    Raises:
        CallError: it is none of these.
        DataError: two columns have one name, or differ in length, or a cell is of another kind.
    """
    if isinstance(frame, Table):
        return frame
    if isinstance(frame, Mapping):
        columns = {str(key): _array(values, str(key), name) for key, values in frame.items()}
        lengths = {len(values) for values in columns.values()}
        if len(lengths) > 1:
            told = ", ".join(f"{key} {len(values)}" for key, values in columns.items())
            raise DataError(f"{name}: got columns of different lengths ({told}), expected the same")
        return Table(columns, max(lengths, default=0), name=name)
    known, is_index_of_times = _narwhals_frame(frame, name), False
    if known.implementation.is_pandas_like():
        native = known.to_native()
        is_index_of_times = str(native.index.dtype).startswith(("datetime", "period"))
        named = [level for level in native.index.names if level is not None]
        if named and not set(named) & set(native.columns):
            known = _narwhals_frame(native.reset_index(), name)
    columns = {str(column): _reader(known, column) for column in known.columns}
    table = Table(columns, len(known), name=name)
    table.has_index_of_times = is_index_of_times
    return table


def _narwhals_frame(frame: Any, name: str) -> Any:
    narwhals = extra("narwhals")
    try:
        return narwhals.from_native(frame, eager_only=True)
    except TypeError:
        if hasattr(frame, "collect"):
            kind = f"a lazy {type(frame).__name__}; give what its collect() gives"
        else:
            kind = (
                f"{type(frame).__name__}, expected a frame of pandas, polars or PyArrow, or a mapping from "
                "names to arrays"
            )
        raise CallError(f"{name}: got {kind}") from None
    except narwhals.exceptions.NarwhalsError as error:
        raise DataError(f"{name}: {error}") from None


def _reader(frame: Any, column: Any) -> Any:
    """A function that gives a narwhals frame's column as an Arrow array."""

    def read() -> Any:
        series = frame[column]
        native = series.to_native()
        if str(getattr(native, "dtype", "")).startswith("period"):
            narwhals = extra("narwhals")
            series = narwhals.from_native(native.dt.to_timestamp(), series_only=True)
        return series.to_arrow()

    return read


def _array(values: Any, name: str, table: str) -> Any:
    """Values as an Arrow array, NaN and ``None`` as missing."""
    arrow = extra("pyarrow")
    if isinstance(values, arrow.Array | arrow.ChunkedArray):
        return values
    shape = getattr(values, "shape", (0,))
    if len(shape) != 1:
        raise DataError(
            f"{table}: the column {name!r} has shape {list(shape)}, expected one dimension"
        )
    if getattr(values, "dtype", np.dtype(float)) in COARSE:
        values = values.astype("datetime64[s]")
    try:
        return arrow.array(values, from_pandas=True)
    except (arrow.ArrowException, TypeError, ValueError) as error:
        raise DataError(
            f"{table}: the column {name!r} cannot be read ({error}); expected values of one kind"
        ) from None


def frame_like(example: Any, columns: Mapping[str, Any]) -> Any:
    """NumPy or Arrow arrays by name, as a frame of the library that ``example`` is of.

    Of a mapping a mapping of NumPy arrays; of a ``Table`` a table of PyArrow.
    """
    arrow = extra("pyarrow")
    table = arrow.table({name: _array(values, name, "columns") for name, values in columns.items()})
    if isinstance(example, Mapping):
        return {name: table[name].to_numpy() for name in table.column_names}
    if isinstance(example, Table):
        return table
    backend = _narwhals_frame(example, "the frame").implementation
    return extra("narwhals").from_arrow(table, backend=backend).to_native()


def cells_of(texts: Any) -> Any:
    """An Arrow array of texts without spaces around them, and null where they hold nothing."""
    arrow, compute = extra("pyarrow"), extra("pyarrow.compute")
    kind = arrow.large_string()
    cells = compute.utf8_trim_whitespace(texts.cast(kind))
    is_missing = compute.is_in(cells, arrow.array(MISSING, kind))
    return compute.if_else(is_missing, arrow.scalar(None, kind), cells)


def cast(texts: Any, kind: Any) -> Any:
    """Texts as an Arrow array of another type, or ``None`` if some are not of that type."""
    arrow = extra("pyarrow")
    try:
        texts[:HEAD].cast(kind)  # Arrow writes a message for each text that fails
        return texts.cast(kind)
    except arrow.ArrowInvalid:
        return None


def listed(names: Iterable[str]) -> str:
    """Names for a message, not too many of them."""
    every = list(names)
    more = len(every) - SHOWN
    return ", ".join(every[:SHOWN]) + (f" and {more} more" if more > 0 else "")


def _is_text(kind: Any) -> bool:
    types = extra("pyarrow").types
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def level_of(value: object) -> str:
    """A value as the text of a level; a whole number is written without a point."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
