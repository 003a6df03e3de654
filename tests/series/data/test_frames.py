"""Frames of any kind as columns: numbers, codes, and what is refused."""

import decimal
import re

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from unrolled.errors import CallError, DataError, MissingExtraError
from unrolled.series.data import Table, frame_like, frames, table_of

COLUMNS = {
    "n": [1.5, None, 3.0],
    "k": [1, 2, 3],
    "b": [True, False, None],
    "s": ["x", None, "y"],
    "t": np.array(["2020-01-01", "2020-01-02", "2020-01-03"], "datetime64[us]"),
}
KINDS = {"pandas": pd.DataFrame, "polars": pl.DataFrame, "arrow": pa.table, "mapping": dict}


@pytest.mark.parametrize("kind", KINDS)
def test_a_frame_of_any_library_has_the_same_columns(kind: str) -> None:
    table = table_of(KINDS[kind](COLUMNS))
    assert table.names == list(COLUMNS) and table.rows == 3
    assert [table.kind(name) for name in table.names] == [
        "number",
        "number",
        "boolean",
        "text",
        "time",
    ]
    np.testing.assert_array_equal(table.numbers("n", "past"), [1.5, np.nan, 3])
    np.testing.assert_array_equal(table.numbers("k", "past"), [1, 2, 3])
    np.testing.assert_array_equal(table.numbers("b", "past"), [1, 0, np.nan])
    codes, texts = table.levels("s")
    assert codes.tolist() == [0, -1, 1] and texts == ["x", "y"]
    assert table.row(2) == "row 2"


@pytest.mark.parametrize("kind", KINDS)
def test_columns_come_back_as_the_kind_of_frame_that_came(kind: str) -> None:
    frame = KINDS[kind](COLUMNS)
    got = frame_like(frame, {"s": ["a", "b"], "q0.5": np.array([1.0, np.nan])})
    assert type(got) is type(frame)
    assert list(got["s"] if kind != "arrow" else got["s"].to_pylist()) == ["a", "b"]
    back = table_of(got)
    np.testing.assert_array_equal(back.numbers("q0.5", "past"), [1, np.nan])


def test_a_table_comes_back_as_arrows_table() -> None:
    assert isinstance(frame_like(table_of({"a": [1]}), {"b": [1, 2]}), pa.Table)


def test_categories_decimals_and_numbers_with_a_type_of_their_own_are_read() -> None:
    table = table_of(
        pd.DataFrame(
            {
                "c": pd.Categorical(["u", "v", None]),
                "n": pd.Categorical([3, 1, 3]),
                "i": pd.array([1, None, 3], dtype="Int64"),
                "d": [decimal.Decimal("1.5"), None, decimal.Decimal("2")],
            }
        )
    )
    assert table.levels("c")[0].tolist() == [0, 1, -1] and table.kind("c") == "text"
    np.testing.assert_array_equal(table.numbers("n", "past"), [3, 1, 3])
    np.testing.assert_array_equal(table.numbers("i", "past"), [1, np.nan, 3])
    np.testing.assert_array_equal(table.numbers("d", "past"), [1.5, np.nan, 2])
    codes, texts = table.levels("i")
    assert codes.tolist() == [0, -1, 1] and texts == ["1", "3"]


def test_a_level_is_the_same_as_a_whole_number_with_or_without_a_point() -> None:
    assert table_of({"a": [1.0, np.nan, 2.5]}).levels("a")[1] == ["1", "2.5"]
    assert table_of({"a": [1, 2]}).levels("a")[1] == ["1", "2"]


def test_the_named_index_of_pandas_is_a_column() -> None:
    index = pd.MultiIndex.from_product([["A", "B"], [1, 2]], names=["id", "t"])
    table = table_of(pd.DataFrame({"y": [1, 2, 3, 4]}, index=index))
    assert table.names == ["id", "t", "y"]
    assert table_of(pd.DataFrame({"y": [1]}, index=[7])).names == ["y"]


def test_numbers_in_text_are_read_with_what_stands_for_none() -> None:
    table = table_of(
        {
            "a": [" 1.5 ", "-2e3", "NA", "", None, "nan"],
            "b": ["True", "false", "TRUE", "", None, "true"],
        }
    )
    np.testing.assert_array_equal(table.numbers("a", "past"), [1.5, -2000, *[np.nan] * 4])
    np.testing.assert_array_equal(table.numbers("b", "past"), [1, 0, 1, np.nan, np.nan, 1])
    assert table.is_numbers("a") and table.is_numbers("b")


def test_text_is_meant_as_numbers_if_half_of_its_levels_are() -> None:
    assert table_of({"a": ["1", "2", "x"]}).is_numbers("a")
    assert not table_of({"a": ["1", "x", "y"]}).is_numbers("a")
    assert table_of({"a": pa.array([None, None], pa.string())}).is_numbers("a")


@pytest.mark.parametrize(
    ("values", "role", "message"),
    [
        (["1", "2", "x"], "target", "row 2: the column 'a' (target) has 'x', expected a number, or an "
         "empty cell if it is unknown"),
        (["1", "2,5", "3"], "past", "row 1: the column 'a' (past) has '2,5', expected a number, or an "
         "empty cell if it is unknown; if it is a category, say so: categories='a'"),
        ([1.0, float("inf")], "past", "row 1: the column 'a' (past) has inf, expected a number of at "
         "most 1e+30; leave the cell empty if it is unknown"),
        ([0.0, -1e31], "past", "row 1: the column 'a' (past) has -1e+31, expected a number of at most "
         "1e+30"),
        (["1", "-inf"], "past", "row 1: the column 'a' (past) has -inf"),
        (np.array(["2020-01-01"], "datetime64[s]"), "past", "the column 'a' (past) is of type time, "
         "expected numbers"),
        ([[1], [2]], "past", "the column 'a' (past) is of type list"),
    ],
)  # fmt: skip
def test_what_is_no_number_is_refused_with_its_row(values, role: str, message: str) -> None:
    with pytest.raises(DataError, match=re.escape(f"the frame: {message}")):
        table_of({"a": values}).numbers("a", role)


def test_a_column_of_several_kinds_is_refused_when_it_is_asked_for() -> None:
    table = table_of(pd.DataFrame({"a": [1, "x"], "b": [1, 2]}, dtype=object))
    assert table.numbers("b", "past").tolist() == [1, 2]
    with pytest.raises(
        DataError, match=r"the column 'a' cannot be read .* expected values of one kind"
    ):
        table.numbers("a", "past")
    with pytest.raises(DataError, match="the column 'a' cannot be read"):
        table_of({"a": [1, "x"]})


def test_what_is_no_frame_is_refused() -> None:
    with pytest.raises(
        CallError, match="the frame: got list, expected a frame of pandas, polars or PyArrow"
    ):
        table_of([1, 2])
    with pytest.raises(CallError, match=r"got a lazy LazyFrame; give what its collect\(\) gives"):
        table_of(pl.LazyFrame({"a": [1]}))
    with pytest.raises(
        DataError, match=r"got columns of different lengths \(a 1, b 2\), expected the same"
    ):
        table_of({"a": [1], "b": [1, 2]})
    with pytest.raises(
        DataError, match=r"the column 'a' has shape \[2, 1\], expected one dimension"
    ):
        table_of({"a": np.zeros((2, 1))})
    with pytest.raises(DataError, match="the frame: "):
        table_of(pd.DataFrame([[1, 2]], columns=["a", "a"]))


def test_a_missing_column_names_the_nearest() -> None:
    table = table_of({"departures": [1], "origin": ["x"]})
    with pytest.raises(
        DataError,
        match=r"the frame: no column 'departure' \(target\), expected one of departures, origin; "
        r"did you mean 'departures'\?",
    ):
        table.check_names(["departure"], "target")
    with pytest.raises(DataError, match="no column 'zzz'") as caught:
        table.check_names(["zzz"], "target")
    assert "mean" not in str(caught.value)
    many = table_of({f"c{k}": [1] for k in range(40)})
    with pytest.raises(DataError, match="c11 and 28 more"):
        many.check_names(["z"], "past")


def test_an_index_of_times_without_a_name_is_told_how_to_get_one() -> None:
    frame = pd.DataFrame({"y": [1.0, 2]}, index=pd.date_range("2020-01-01", periods=2))
    with pytest.raises(
        DataError, match=r"no column 'ds' \(time\).*: give it the name with rename_axis\('ds'\)"
    ):
        table_of(frame).check_names(["ds"], "time")
    assert table_of(frame.rename_axis("ds")).names == ["ds", "y"]


def test_without_the_extra_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(module: str) -> None:
        raise ModuleNotFoundError(name=module)

    monkeypatch.setattr(frames, "import_module", absent)
    with pytest.raises(
        MissingExtraError, match=r"pip install pyarrow \(the extra 'series' of unrolled\)"
    ):
        table_of({"a": [1]})


def test_a_table_is_itself() -> None:
    table = table_of({"a": [1]})
    assert table_of(table) is table and isinstance(table, Table) and "a" in table
