"""Any frame as columns, and columns as a frame of the same kind.

A frame is one of pandas, polars or PyArrow, or of another library that narwhals knows, or a mapping from
names to arrays. Inside, a column is an Arrow array; it becomes NumPy numbers, codes or times when
its role is known.
"""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unrolled.errors import CallError, DataError, MissingExtraError

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

# What stands in a cell of text that holds no number.
MISSING = ("", "NA", "N/A", "n/a", "#N/A", "NaN", "nan", "-nan", "NULL", "Null", "null", "None", "NaT", "<NA>", ".")
NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"
COMMAS = r"^[+-]?\d+(,\d+)?$"
LARGEST = 1e30  # beyond it a square leaves float32, in which networks calculate
LEVELS_OF_NUMBERS = 0.5  # the share of a text's levels that are numbers from which it is meant as numbers


def extra(package: str, purpose: str = "reading tables") -> Any:
    """A module of the extra ``series``.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        return import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package.partition(".")[0]:
            raise
        raise MissingExtraError(purpose, error.name, "series") from None


class Table:
    """Columns by name, of ``rows`` rows.

    Args:
        columns: an Arrow array each, or a function that makes one when it is asked for.
        rows: how many rows it has.
        name: what messages call it: a file's name, or ``"the frame"``.
        first_row: the number by which messages call the first row; 2 in a file with a header.
        commas: whether a comma may stand for the decimal point.
    """

    def __init__(
        self,
        columns: Mapping[str, Any],
        rows: int,
        *,
        name: str,
        first_row: int = 0,
        numbers: Integers | None = None,
        commas: bool = False,
        path: str | None = None,
        delimiter: str = ",",
    ) -> None:
        self.name, self.rows, self.first_row, self.commas = name, rows, first_row, commas
        self.path, self.delimiter, self._numbers = path, delimiter, numbers
        self._columns = dict(columns)

    @property
    def names(self) -> list[str]:
        """The columns' names, in order."""
        return list(self._columns)

    def __contains__(self, name: str) -> bool:
        return name in self._columns

    def row(self, index: int) -> str:
        """How messages call a row: as its file counts, or from 0 in a frame."""
        return f"row {self._numbers[index] if self._numbers is not None else int(index) + self.first_row}"

    def sorting(self, names: Sequence[str]) -> str:
        """How to sort it by columns, for a message."""
        if self.path is not None:
            places = " ".join(f"-k{k},{k}" for k in (self.names.index(name) + 1 for name in names))
            return (
                f"for example with: (head -n 1 {self.path}; tail -n +2 {self.path} | "
                f"sort -t '{self.delimiter}' {places}) > sorted.csv"
            )
        return f"with sort_values({list(names)}) of pandas or sort({list(names)}) of polars"

    def check_names(self, names: Iterable[str], purpose: str) -> None:
        """Refuse a name that is no column, with the nearest that is one."""
        for name in names:
            if name not in self._columns:
                near = difflib.get_close_matches(name, self._columns, 1, 0.5)
                advice = f"; did you mean {near[0]!r}?" if near else ""
                raise DataError(
                    f"{self.name}: no column {name!r} ({purpose}); "
                    f"columns: {_listed(self._columns)}{advice}"
                )

    def arrow(self, name: str) -> Any:
        """A column as an Arrow array."""
        column = self._columns[name]
        if callable(column):
            try:
                column = column()
            except Exception as error:  # each library has errors of its own for a column of mixed kinds
                raise DataError(
                    f"{self.name}: the column {name!r} cannot be read ({error}); expected values of one kind"
                ) from None
            self._columns[name] = column
        return column

    def kind(self, name: str) -> str:
        """What a column holds: ``"number"``, ``"boolean"``, ``"time"``, ``"text"`` or Arrow's name of the type."""
        types = extra("pyarrow").types
        kind = self.arrow(name).type
        if types.is_dictionary(kind):
            kind = kind.value_type
        if types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind):
            return "number"
        if types.is_boolean(kind):
            return "boolean"
        if types.is_timestamp(kind) or types.is_date(kind):
            return "time"
        if _is_text(kind):
            return "text"
        return str(kind)

    def is_numbers(self, name: str) -> bool:
        """Whether a column is of numbers: also text that is meant as numbers, of which a few cells are not."""
        kind = self.kind(name)
        if kind != "text":
            return kind in ("number", "boolean", "null")
        cells, _ = self._cells(name)
        compute = extra("pyarrow.compute")
        levels = compute.unique(cells.drop_null())
        if not len(levels):
            return True
        numbers = compute.match_substring_regex(levels, NUMBER)
        if self.commas:
            numbers = compute.or_(numbers, compute.match_substring_regex(levels, COMMAS))
        share = compute.mean(numbers).as_py()
        return bool(share >= LEVELS_OF_NUMBERS) or _are_truths(levels)

    def numbers(self, name: str, purpose: str = "") -> Floats:
        """A column as numbers ``[N]``, NaN where one is missing.

        Raises:
            DataError: a cell is no number, is infinite, or larger than ``LARGEST``.
        """
        column, compute = self.arrow(name), extra("pyarrow.compute")
        kind, what = self.kind(name), f"the column {name!r}{purpose and f' ({purpose})'}"
        arrow = extra("pyarrow")
        if kind == "text":
            column = self._parsed(name, what)
        elif kind == "boolean":
            column = compute.cast(column, arrow.uint8())
        elif kind not in ("number", "null"):
            raise DataError(f"{self.name}: {what} is of type {kind}, expected numbers")
        if arrow.types.is_dictionary(column.type):
            column = compute.cast(column, column.type.value_type)
        values = np.array(compute.cast(column, arrow.float64(), safe=False).to_numpy(zero_copy_only=False))
        wrong = np.abs(values) > LARGEST
        if wrong.any():
            at = int(wrong.argmax())
            raise DataError(
                f"{self.name}: {self.row(at)}: {what} has {values[at]:g}, expected a number of at most "
                f"{LARGEST:g}; leave the cell empty if it is unknown"
            )
        return values.astype(np.float64, copy=False)

    def _cells(self, name: str) -> tuple[Any, Any]:
        """Text without spaces around it, null where it holds nothing; and the text as it is."""
        arrow, compute = extra("pyarrow"), extra("pyarrow.compute")
        text = self.arrow(name)
        if arrow.types.is_dictionary(text.type):
            text = compute.cast(text, arrow.string())
        text = compute.cast(text, arrow.large_string())
        cells = compute.utf8_trim_whitespace(text)
        missing = compute.is_in(cells, arrow.array(MISSING, arrow.large_string()))
        return compute.if_else(missing, arrow.scalar(None, arrow.large_string()), cells), text

    def _parsed(self, name: str, what: str) -> Any:
        arrow, compute = extra("pyarrow"), extra("pyarrow.compute")
        cells, text = self._cells(name)
        try:
            return compute.cast(cells, arrow.float64())
        except arrow.ArrowInvalid:
            pass
        if self.commas:
            with_commas = compute.match_substring_regex(cells, COMMAS)
            if compute.all(with_commas).as_py():
                return compute.cast(compute.replace_substring(cells, ",", "."), arrow.float64())
        levels = compute.unique(cells.drop_null())
        if _are_truths(levels):
            return compute.cast(compute.equal(compute.utf8_lower(cells), "true"), arrow.uint8())
        fine = compute.match_substring_regex(cells, NUMBER)
        fine = np.asarray(compute.fill_null(fine, True).to_numpy(zero_copy_only=False), dtype=bool)
        at = int((~fine).argmax())
        raise DataError(
            f"{self.name}: {self.row(at)}: {what} has {text[at].as_py()!r}, expected a number; "
            "correct the cell, or leave it empty if it is unknown"
        )

    def levels(self, name: str) -> tuple[Integers, list[str]]:
        """A column as codes ``[N]``, -1 where it is missing, and the text of each, in order of appearance."""
        arrow, compute = extra("pyarrow"), extra("pyarrow.compute")
        column = self.arrow(name)
        if isinstance(column, arrow.ChunkedArray):
            column = column.combine_chunks()
            if isinstance(column, arrow.ChunkedArray):
                column = arrow.concat_arrays(column.chunks)
        if arrow.types.is_dictionary(column.type):
            column = compute.cast(column, column.type.value_type)
        if arrow.types.is_floating(column.type):
            column = compute.if_else(compute.is_nan(column), None, column)
        encoded = compute.dictionary_encode(column)
        codes = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
        texts = [_text(value) for value in encoded.dictionary.to_pylist()]
        if _is_text(column.type) and "" in texts:
            codes[codes == texts.index("")] = -1
        return codes, texts


def table_of(frame: Any, name: str = "the frame") -> Table:
    """A frame, or a mapping from names to arrays, as a ``Table``; a ``Table`` stays what it is.

    Raises:
        CallError: it is neither.
        DataError: two columns have one name, or columns differ in length.
    """
    if isinstance(frame, Table):
        return frame
    arrow = extra("pyarrow")
    if isinstance(frame, Mapping):
        columns = {str(key): _array(name, str(key), values) for key, values in frame.items()}
        lengths = {key: len(values) for key, values in columns.items()}
        if len(set(lengths.values())) > 1:
            raise DataError(f"{name}: columns of different lengths: {lengths}")
        return Table(columns, next(iter(lengths.values()), 0), name=name)
    narwhals = extra("narwhals")
    try:
        known = narwhals.from_native(frame, eager_only=True)
    except TypeError:
        if hasattr(frame, "collect"):
            raise CallError(f"{name}: got a lazy {type(frame).__name__}; give it as .collect()") from None
        raise CallError(
            f"{name}: got {type(frame).__name__}, expected a frame of pandas, polars or PyArrow, "
            "or a mapping from names to arrays"
        ) from None
    except narwhals.exceptions.NarwhalsError as error:
        raise DataError(f"{name}: {error}") from None
    if known.implementation.is_pandas_like():
        native = known.to_native()
        named = [level for level in native.index.names if level is not None]
        if named and not set(named) & set(native.columns):
            known = narwhals.from_native(native.reset_index(), eager_only=True)
    return Table(
        {str(column): (lambda c=column: _converted(known[c], arrow)) for column in known.columns},
        len(known),
        name=name,
    )


def _array(table: str, name: str, values: Any) -> Any:
    arrow = extra("pyarrow")
    if isinstance(values, np.ndarray) and values.ndim != 1:
        raise DataError(f"{table}: the column {name!r} has shape {list(values.shape)}, expected one dimension")
    if isinstance(values, np.ndarray) and values.dtype.kind == "U":
        values = values.astype(object)
    try:
        return arrow.array(values, from_pandas=True)
    except (arrow.ArrowException, TypeError, ValueError) as error:
        raise DataError(f"{table}: the column {name!r} cannot be read ({error}); expected values of one kind") from None


def _converted(series: Any, arrow: Any) -> Any:
    native = series.to_native()
    if str(getattr(native, "dtype", "")).startswith("period"):
        native = native.dt.to_timestamp()
        series = extra("narwhals").from_native(native, series_only=True)
    column = series.to_arrow()
    if isinstance(column, arrow.ChunkedArray) and column.num_chunks == 1:
        return column.chunk(0)
    return column


def frame_like(example: Any, columns: Mapping[str, Any]) -> Any:
    """``columns``, NumPy or Arrow arrays by name, as a frame of the library that ``example`` is of.

    For a mapping, a mapping of NumPy arrays.
    """
    arrow = extra("pyarrow")
    table = arrow.table({name: _array("columns", name, values) for name, values in columns.items()})
    if isinstance(example, Mapping):
        return {name: table[name].to_numpy() for name in table.column_names}
    if isinstance(example, Table):
        return table
    narwhals = extra("narwhals")
    known = narwhals.from_native(example, eager_only=True)
    return narwhals.from_arrow(table, backend=known.implementation).to_native()


def _is_text(kind: Any) -> bool:
    types = extra("pyarrow").types
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def _are_truths(levels: Any) -> bool:
    """Whether all of the text is "true" or "false", in any case."""
    return len(levels) > 0 and {text.lower() for text in levels[:5].to_pylist()} <= {"true", "false"} and len(levels) <= 4


def _text(value: object) -> str:
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def _listed(names: Sequence[str] | Mapping[str, Any]) -> str:
    """Some of ``names``, for a message."""
    shown = list(names)
    return ", ".join(shown[:12]) + (f" and {len(shown) - 12} more" if len(shown) > 12 else "")
