"""From a table to arrays: gaps, futures, orders of rows, kinds of frames, and what is refused."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.series.data.tables import HOURS, NAMES, flights, rows
from unrolled.errors import CallError, DataError
from unrolled.series.data import (
    Panel,
    Roles,
    panel_of,
    read_table,
    split_bounds,
    split_of_keys,
    table_of,
    write_table,
)

ROLES = Roles(
    "time", "departures", series="origin", known="holiday", past=["temp", "sky"], static="runways"
)
TABLE = flights()
HOUR = 3600 * 10**9
ARRAYS = ("lengths", "offsets", "times", "gaps", "targets", "past", "known", "past_codes", "known_codes",
          "static", "static_codes")  # fmt: skip


def same(one: Panel, other: Panel) -> None:
    """All arrays and the plan are equal; the ways in which the tables write their times may differ."""
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)
    assert one.keys == other.keys and one.plan.columns == other.plan.columns
    assert one.plan.facts() == other.plan.facts()


def table(**columns: Any) -> dict[str, Any]:
    return {
        name: np.asarray(values) if isinstance(values, list) else values
        for name, values in columns.items()
    }


def hours(*numbers: int) -> np.ndarray:
    return np.datetime64("2020-01-01T00", "h") + np.array(numbers)


def test_a_table_becomes_its_arrays() -> None:
    panel = panel_of(TABLE, ROLES)
    assert panel.keys == [("JFK",), ("LGA",)] and panel.lengths.tolist() == [HOURS, HOURS]
    for k, series in enumerate(panel):
        chosen = slice(k * HOURS, (k + 1) * HOURS)
        assert series.key == panel.keys[k]
        np.testing.assert_array_equal(series.times, TABLE["time"][chosen].astype(np.int64))
        np.testing.assert_array_equal(series.targets[:, 0], TABLE["departures"][chosen])
        np.testing.assert_array_equal(series.past[:, 0], TABLE["temp"][chosen])
        np.testing.assert_array_equal(series.known[:, 0], TABLE["holiday"][chosen])
        levels = panel.plan.categories("past")[0].levels
        assert [levels[c - 1] for c in series.past_codes[:, 0]] == TABLE["sky"][chosen].tolist()
        assert series.static.tolist() == [(4, 2)[k]]
        assert series.gaps.tolist() == [0.0] + [1.0] * (HOURS - 1)
    assert panel.key_columns["origin"].to_pylist() == ["JFK", "LGA"]
    assert panel.known.shape[1] == len(panel.plan.known) == 3
    assert len(panel) == 2 and len(panel[:1]) == 1 and panel[-1].key == ("LGA",)
    with pytest.raises(IndexError):
        panel[2]


@pytest.mark.parametrize("kind", ["pandas", "polars", "arrow", "csv", "csv.gz", "parquet"])
def test_every_kind_of_frame_and_file_gives_the_same_panel(kind: str, tmp_path: Path) -> None:
    makers = {"pandas": pd.DataFrame, "polars": pl.DataFrame, "arrow": pa.table}
    if kind in makers:
        frame = makers[kind](TABLE)
    else:
        write_table(tmp_path / f"t.{kind}", TABLE)
        frame = read_table(tmp_path / f"t.{kind}")
    same(panel_of(frame, ROLES), panel_of(TABLE, ROLES))


@given(st.randoms(use_true_random=False), st.booleans())
def test_the_rows_of_series_may_be_interleaved(random, by_pandas: bool) -> None:
    """Whichever series a row is of, each keeps the order of its own."""
    which = [0] * HOURS + [1] * HOURS
    random.shuffle(which)
    which[which.index(0)], which[0] = which[0], 0  # the order in which series appear is kept
    places, taken = [], [0, HOURS]
    for series in which:
        places.append(taken[series])
        taken[series] += 1
    mixed = rows(TABLE, places)
    same(panel_of(pd.DataFrame(mixed) if by_pandas else mixed, ROLES), panel_of(TABLE, ROLES))


@given(st.sets(st.integers(1, HOURS - 2), max_size=30))
def test_a_missing_row_is_a_step_of_nan(dropped: set[int]) -> None:
    kept = [k for k in range(2 * HOURS) if k not in dropped]
    panel, whole = panel_of(rows(TABLE, kept), ROLES, frequency="hour"), panel_of(TABLE, ROLES)
    gone = sorted(dropped)
    for name in ("times", "gaps", "lengths", "static"):
        np.testing.assert_array_equal(getattr(panel, name), getattr(whole, name))
    for name in ("targets", "past"):
        expected = getattr(whole, name).copy()
        expected[gone] = np.nan
        np.testing.assert_array_equal(getattr(panel, name), expected)
    assert np.isnan(panel.known[gone, 0]).all() and not np.isnan(panel.known[:, 1:]).any()
    assert (panel.past_codes[gone] == 0).all()
    assert panel.plan.rows == len(kept) and panel.plan.steps == 2 * HOURS


def test_an_empty_row_and_no_row_are_the_same() -> None:
    kept = [k for k in range(2 * HOURS) if k not in (7, 8, 250)]
    empty = {name: values.copy() for name, values in TABLE.items()}
    for name in ("departures", "holiday", "temp"):
        empty[name][[7, 8, 250]] = np.nan
    empty["sky"][[7, 8, 250]] = None
    one, other = panel_of(rows(TABLE, kept), ROLES), panel_of(empty, ROLES)
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)


def test_without_a_frequency_rows_stay_and_gaps_are_told() -> None:
    data = table(t=hours(0, 1, 4, 10), y=[1.0, 2.0, 3.0, 4.0])
    panel = panel_of(data, Roles("t", "y"), frequency=None)
    assert panel.plan.frequency is None and panel.plan.unit == 3 * HOUR
    assert panel[0].gaps.tolist() == [0, 1 / 3, 1, 2] and panel.lengths.tolist() == [4]
    ahead = panel_of(data, panel.plan, horizon=2)[0]
    assert np.diff(ahead.times[-3:]).tolist() == [3 * HOUR, 3 * HOUR]
    assert ahead.gaps.tolist() == [0, 1 / 3, 1, 2, 1, 1]


def test_without_a_column_of_times_rows_are_steps() -> None:
    panel = panel_of(
        table(y=[1.0, 2.0, 5.0, 6.0], s=["a", "b", "a", "b"]), Roles(None, "y", series="s")
    )
    assert panel[0].times.tolist() == [0, 1] and panel[1].targets.ravel().tolist() == [2, 6]
    assert (
        panel.plan.frequency is not None and "in steps of 1, from 0 to 1" in panel.plan.facts()[1]
    )


def test_a_history_ends_with_its_last_target() -> None:
    data = table(t=hours(*range(8)), y=[np.nan, 1, np.nan, 3, np.nan, np.nan, np.nan, np.nan],
                 x=np.arange(8.0))  # fmt: skip
    panel = panel_of(data, Roles("t", "y", known="x"))
    assert panel.lengths.tolist() == [4] and panel[0].known.shape == (4, 1)
    ahead = panel_of(data, panel.plan, horizon=3)[0]
    assert ahead.targets.shape == (4, 1) and ahead.known[:, 0].tolist() == list(range(7))
    assert ahead.times.tolist() == data["t"][:7].astype("datetime64[ns]").astype(np.int64).tolist()


def test_the_future_may_come_in_a_frame_of_its_own() -> None:
    data = table(t=hours(*range(4)), s=["a"] * 4, y=[1.0, 2, 3, 4], x=[0.0, 1, 2, 3], p=[5.0] * 4)
    plan = panel_of(data, Roles("t", "y", series="s", known="x", past="p")).plan
    future = table(t=hours(4, 5), s=["a"] * 2, x=[4.0, 5.0])
    series = panel_of(data, plan, future=pd.DataFrame(future), horizon=2)[0]
    assert series.known[:, 0].tolist() == [0, 1, 2, 3, 4, 5] and series.past.shape == (4, 1)
    with pytest.raises(DataError, match="the future: no column 'x' \\(known\\)"):
        panel_of(data, plan, future={"t": future["t"], "s": future["s"]}, horizon=2)
    other = table(t=hours(4), s=["b"], x=[4.0])
    with pytest.raises(
        DataError, match="the future: row 0: the series b has no history, expected rows of it"
    ):
        panel_of(data, plan, future=other, horizon=1)
    twice = table(t=hours(3), s=["a"], x=[4.0])
    with pytest.raises(
        DataError, match="the future: row 0: the series a has 2020-01-01 03:00:00 a second time"
    ):
        panel_of(data, plan, future=twice, horizon=1)
    with pytest.raises(
        DataError, match=r"the future: the column 't' \(time\) holds whole numbers, expected times"
    ):
        panel_of(data, plan, future=table(t=[4], s=["a"], x=[4.0]), horizon=1)


def test_a_future_without_what_is_known_ahead_is_refused_with_what_is_missing() -> None:
    data = table(t=hours(0, 1, 2, 3, 0, 1, 2), s=list("aaaabbb"), y=[1.0, 2, 3, np.nan, 4, 5, 6],
                 x=np.arange(7.0))  # fmt: skip
    plan = panel_of(data, Roles("t", "y", series="s", known="x")).plan
    with pytest.raises(
        DataError,
        match=r"the frame: 2 of the 3 rows after the last target of the series a are missing \(and of 1 "
        r"more "
        r"series\), from 2020-01-01 04:00:00 to 2020-01-01 05:00:00; expected them, with the target "
        r"empty and what "
        r"is known ahead: x",
    ):
        panel_of(data, plan, horizon=3)
    plain = panel_of(
        data, Roles("t", "y", series="s")
    ).plan  # nothing is known ahead but the calendar
    assert panel_of(data, plain, horizon=3)[1].times.shape == (6,)


@pytest.mark.parametrize(
    ("first", "frequency", "zone", "expected"),
    [
        ("2020-10-24T12:00Z", "day", "Europe/Berlin", ["2020-10-25T13:00", "2020-10-26T13:00"]),
        ("2020-10-24T23:00Z", "hour", "Europe/Berlin", ["2020-10-25T00:00", "2020-10-25T01:00"]),
        ("2020-01-31T00:00Z", "month end", None, ["2020-02-29T00:00", "2020-03-31T00:00"]),
        ("2019-02-28T00:00Z", "year", None, ["2020-02-28T00:00", "2021-02-28T00:00"]),
    ],
)
def test_the_future_goes_on_by_the_calendar_of_the_zone(first, frequency, zone, expected) -> None:
    data = {"t": [first], "y": [1.0]}
    plan = panel_of(data, Roles("t", "y"), frequency=frequency, zone=zone or "UTC").plan
    ahead = panel_of(data, plan, horizon=2)
    got = ahead.times[1:].astype("datetime64[ns]").astype("datetime64[m]")
    assert got.astype(str).tolist() == expected
    assert ahead.clock.written(ahead.times)[0].as_py() == first


def test_a_day_that_is_missing_at_a_change_of_the_clock_is_one_step() -> None:
    local = pd.date_range("2020-03-26", periods=6, freq="D", tz="Europe/Berlin", unit="ns").delete(
        3
    )
    panel = panel_of(
        pd.DataFrame({"t": local, "y": np.arange(5.0)}), Roles("t", "y"), frequency="day"
    )
    assert panel.lengths.tolist() == [6] and np.isnan(panel.targets[3, 0])
    assert panel.clock.texts(panel.times) == [f"2020-03-{day} 00:00:00" for day in range(26, 32)]


def test_local_rows_of_an_hour_that_comes_twice_are_two_steps() -> None:
    texts = [f"2020-10-25 0{h}:00" for h in (0, 1, 2, 2, 3, 4)]
    data = {"t": texts * 2, "s": ["a"] * 6 + ["b"] * 6, "y": [1.0] * 12}
    panel = panel_of(data, Roles("t", "y", series="s"), zone="Europe/Berlin")
    assert str(panel.plan.frequency) == "1 hour" and panel.plan.steps == 12
    with pytest.raises(
        DataError,
        match="a second time, after row 2; expected each time once; if a clock was set back",
    ):
        panel_of(data, Roles("t", "y", series="s"))


def test_new_series_and_new_levels_are_taken_and_unknown() -> None:
    plan = panel_of(TABLE, ROLES).plan
    new = {name: values[:3].copy() for name, values in TABLE.items()}
    new["origin"][:], new["sky"][1] = "EWR", "snow"
    series = panel_of(new, plan)[0]
    assert series.key == ("EWR",) and series.past_codes[1, 0] == 0
    assert panel_of(new, plan).plan is plan


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"temp": None}, r"no column 'temp' \(past\), expected one of"),
        ({"temp": np.full(400, "mild", dtype=object)}, r"row 0: the column 'temp' \(past\) has 'mild', "
         r"expected a number"),
        ({"time": np.arange(400) % 200}, r"\(time\) holds whole numbers, expected times without a zone "
         r"as in training"),
        ({"time": np.tile(TABLE["time"][0] + np.arange(200) * np.timedelta64(1, "D"), 2)},
         "the frame: rows every day, expected every hour as in training; train on such a table, or "
         "add"),
        ({"time": np.tile(TABLE["time"][0] + np.arange(200) * np.timedelta64(30, "m"), 2)},
         "row 1: 2013-03-12 00:30:00 of the series JFK lies between two steps; expected rows every hour "
             "from"),
        ({"departures": np.full(400, np.nan)}, r"the column 'departures' \(target\) has no value"),
        ({"departures": np.append(np.ones(200), np.full(200, np.nan))},
         "1 series without a value of 'departures': LGA; expected a history to forecast from"),
    ],
)  # fmt: skip
def test_a_table_is_held_to_its_plan(changed: dict[str, Any], message: str) -> None:
    plan = panel_of(TABLE, ROLES).plan
    with pytest.raises(DataError, match=message):
        panel_of({k: v for k, v in (TABLE | changed).items() if v is not None}, plan)


def test_a_plan_with_a_zone_refuses_times_without_one() -> None:
    plan = panel_of(
        {"t": ["2020-01-01T00:00Z", "2020-01-01T01:00Z"], "y": [1, 2]}, Roles("t", "y")
    ).plan
    read = panel_of({"t": ["2020-01-01T00:00", "2020-01-01T01:00"], "y": [1, 2]}, plan)
    assert read.clock.zone == "UTC"  # they are taken as local in the zone of the plan
    plain = panel_of(
        {"t": ["2020-01-01T00:00", "2020-01-01T01:00"], "y": [1, 2]}, Roles("t", "y")
    ).plan
    with pytest.raises(
        DataError, match="holds times in the zone UTC, expected times without a zone as in training"
    ):
        panel_of({"t": ["2020-01-01T00:00Z", "2020-01-01T01:00Z"], "y": [1, 2]}, plain)


@pytest.mark.parametrize(
    ("data", "roles", "message"),
    [
        (table(t=[1, 2, 2], y=[1.0, 2, 3]), Roles("t", "y"),
         "row 2: the series has 2 a second time, after row 1; expected each time once; drop one of the "
         "two"),
        (table(t=[1, 1], y=[1.0, 2], id=["a", "b"]), Roles("t", "y"),
         "row 1: the series has 1 a second time, after row 0; expected each time once; if there are "
         "several series, "
         "say which column tells them apart: series='id'"),
        (table(t=[1, 2, 1, 2, 3, 1], y=[1.0] * 6, s=list("aaabbb")), Roles("t", "y", series="s"),
         "row 2: the series a goes back from 2 to 1; expected times that rise within a series; sort it, "
         "with "
         "sort_values(['s', 't']) of pandas or sort(['s', 't']) of polars"),
        (table(t=[1, 2], y=[1.0, 2], s=["a", ""]), Roles("t", "y", series="s"),
         "row 1: the column 's' (series) is empty, expected the name of a series"),
        (table(t=[1, 2], y=[np.nan, np.nan]), Roles("t", "y"), "the column 'y' (target) has no value, "
         "expected numbers"),
        (table(t=[], y=[]), Roles("t", "y"), "no rows, expected one for each time of each series"),
        (table(t=[1, 2], y=[1.0, np.inf]), Roles("t", "y"), "row 1: the column 'y' (target) has inf"),
        (table(t=[1, 2], y=[1.0, 2], c=["k", "l"]), Roles("t", "y", static="c"),
         "row 1: the column 'c' (static) has another value than in row 0, in the series; expected one "
         "value a "
         "series; of a column that changes, say past or known"),
        (table(t=[1, 1], y=[1.0, 2], s=["a", "b"]), Roles("t", "y", series="s"),
         "every series has one row, from which no frequency is seen; expected more, or a frequency: "
         "'hour', 'day', …; "
         "is 's' what names a series?"),
        (table(t=hours(0, 1), y=[1.0, 2], c=hours(0, 1)), Roles("t", "y", past="c"),
         "the column 'c' (past) is of type time, expected numbers"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_refused(data, roles: Roles, message: str) -> None:
    with pytest.raises(DataError, match=re.escape(f"the frame: {message}")):
        panel_of(data, roles)


def test_a_file_in_disorder_says_how_to_sort_it(tmp_path: Path) -> None:
    path = tmp_path / "a table.csv"
    path.write_text("y;s;t\n1;a;2020-01-02\n2;a;2020-01-01\n")
    with pytest.raises(DataError) as caught:
        panel_of(read_table(path), Roles("t", "y", series="s"))
    assert str(caught.value).startswith(
        f"{path}: row 3: the series a goes back from 2020-01-02 to 2020-01-01; expected times that rise "
        f"within"
    )
    command = str(caught.value).partition("for example with: ")[2]
    assert (
        command
        == f"(head -n 1 '{path}'; tail -n +2 '{path}' | sort -t ';' -k2,2 -k3,3) > sorted.csv"
    )


def test_a_frequency_that_does_not_fit_is_refused() -> None:
    data = table(t=hours(0, 1, 3), y=[1.0, 2, 3])
    with pytest.raises(
        DataError,
        match=r"row 1: .* falls into the step of the row before; expected rows every day",
    ):
        panel_of(data, Roles("t", "y"), frequency="day")
    with pytest.raises(
        DataError,
        match=r"3 rows, every millisecond, would be 10,800,001 steps; expected at most 50 a row",
    ):
        panel_of(data, Roles("t", "y"), frequency="millisecond")
    with pytest.raises(
        CallError, match="frequency: got 1 step for times without a zone, expected a unit of time"
    ):
        panel_of(data, Roles("t", "y"), frequency=1)
    with pytest.raises(
        CallError, match="frequency: got 1 hour for whole numbers, expected a whole number"
    ):
        panel_of(table(t=[1, 2], y=[1.0, 2]), Roles("t", "y"), frequency="h")
    tenths = panel_of(table(t=[0.1, 0.2, 0.4], y=[1.0, 2, 3]), Roles("t", "y"), frequency=0.1)
    assert (
        tenths.lengths.tolist() == [4]
        and "in steps of 0.1, from 0.1 to 0.4" in tenths.plan.facts()[1]
    )


def test_series_without_a_target_are_left_out_and_named() -> None:
    data = table(
        t=[1, 2, 1, 2, 1, 2],
        s=list("aabbcc"),
        y=[np.nan, np.nan, 1, 2, 3, np.nan],
        c=list("kkllmm"),
    )
    panel = panel_of(data, Roles("t", "y", series="s", static="c"))
    assert panel.keys == [("b",), ("c",)] and panel.lengths.tolist() == [2, 1]
    assert panel.plan.notes == (
        "left out: 1 series without a value of 'y': a", "1 series of one step, of which nothing is learned",
    )  # fmt: skip
    assert panel.key_columns["s"].to_pylist() == ["b", "c"]
    assert [panel.plan.column("c").levels[c - 1] for c in panel.static_codes[:, 0]] == ["l", "m"]


def test_several_targets_and_keys() -> None:
    data = table(
        t=[1, 2, 1, 2],
        a=["x", "x", "x", "x"],
        b=[7, 7, 8, 8],
        y=[1.0, np.nan, 3, 4],
        z=[5.0, 6, 7, 8],
    )
    panel = panel_of(data, Roles("t", ["z", "y"], series=["a", "b"]))
    assert panel.keys == [("x", "7"), ("x", "8")] and panel.lengths.tolist() == [2, 2]
    np.testing.assert_array_equal(panel[0].targets, [[5, 1], [6, np.nan]])
    assert panel.key_columns["b"].to_pylist() == [7, 8]


def test_numbers_can_be_categories_and_truths_are_numbers() -> None:
    data = table(t=[1, 2, 3], y=[1.0, 2, 3], k=[10, 20, 10], b=[True, False, True])
    panel = panel_of(data, Roles("t", "y", past=["k", "b"], categories="k"))
    assert panel.past[:, 0].tolist() == [1, 0, 1] and panel.past_codes[:, 0].tolist() == [1, 2, 1]
    assert panel.plan.categories("past")[0].levels == ("10", "20")
    again = panel_of(table(t=[1, 2], y=[1.0, 2], k=[20, 30], b=[True, False]), panel.plan)
    assert again.past_codes[:, 0].tolist() == [2, 0]


def test_a_constant_series_works() -> None:
    panel = panel_of(table(t=[1, 2, 3], y=[5.0, 5, 5]), Roles("t", "y"))
    assert panel.plan.column("y").told == "always 5"


def test_many_series_and_a_long_one_work() -> None:
    count = 100_000
    many = {
        "t": np.tile([1, 2], count),
        "s": np.repeat(np.arange(count), 2),
        "y": np.arange(2.0 * count),
    }
    panel = panel_of(many, Roles("t", "y", series="s"))
    assert len(panel) == count and panel[count - 1].targets.ravel().tolist() == [
        2 * count - 2,
        2 * count - 1,
    ]
    long = panel_of({"t": np.arange(10**6), "y": np.ones(10**6)}, Roles("t", "y"))
    assert long.lengths.tolist() == [10**6]


def test_what_is_given_is_not_changed() -> None:
    data = {name: values.copy() for name, values in TABLE.items()}
    panel = panel_of(data, ROLES, horizon=0)
    panel.targets[:] = 0
    panel.times[:] = 0
    for name in NAMES:
        np.testing.assert_array_equal(data[name], TABLE[name])


def test_the_season_can_be_given() -> None:
    data = table(t=np.arange(96), y=np.ones(96))
    assert panel_of(data, Roles("t", "y")).plan.season == 1
    panel = panel_of(data, Roles("t", "y"), season=24)
    assert panel.plan.season == 24 and panel.plan.known == ["sin season", "cos season"]
    with pytest.raises(ValueError, match="season: got 0, expected at least 1"):
        panel_of(data, Roles("t", "y"), season=0)


def test_the_last_steps_are_held_out_and_short_series_are_not() -> None:
    bounds = split_bounds(np.array([100, 40, 39, 0]), (0.1, 0.2), 8)
    assert bounds.tolist() == [[70, 80], [24, 32], [39, 39], [0, 0]]
    panel = panel_of(TABLE, ROLES, least=24)
    assert panel.splits().tolist() == [[HOURS - 48, HOURS - 24]] * 2
    assert panel.plan.splits == (2 * (HOURS - 48), 48, 48)
    assert split_bounds(np.array([100]), (0.0, 0.1), 4).tolist() == [[90, 90]]
    for shares in ((0.6, 0.5), (-0.1, 0.1), (0.1,)):
        with pytest.raises(
            ValueError, match=r"shares: got .*, expected two numbers from 0 on, below 1 together"
        ):
            panel_of(TABLE, ROLES, shares=shares)


def test_the_part_of_a_key_is_its_own_whatever_others_there_are() -> None:
    keys = [(f"k{n}",) for n in range(2000)]
    parts = split_of_keys(keys, (0.1, 0.2))
    assert np.bincount(parts).tolist() == pytest.approx([1400, 200, 400], abs=80)  # 4 deviations
    assert split_of_keys(keys[500:700], (0.1, 0.2)).tolist() == parts[500:700].tolist()
    assert set(split_of_keys([("a",), ("b",), ("c",)], (0.1, 0.1)).tolist()) == {0, 1, 2}


def test_a_table_is_read_once_whatever_it_is() -> None:
    frame = table_of(TABLE)
    same(panel_of(frame, ROLES), panel_of(frame, ROLES))


def test_a_plan_made_with_a_horizon_is_of_the_histories_alone() -> None:
    data = table(t=hours(*range(6)), y=[1.0, 2, 3, 4, np.nan, np.nan], x=np.arange(6.0))
    roles = Roles("t", "y", known="x")
    panel = panel_of(data, roles, horizon=2)
    assert panel.plan == panel_of(data, roles).plan and panel.plan.steps == 4
    assert panel[0].known[:, 0].tolist() == list(range(6))


def test_counts_with_missing_steps_are_said_to_be_unknown_there() -> None:
    data = table(t=[1, 2, 4, 5], y=[3.0, 0, 1, 2])
    note = "at missing steps y is unknown; if it is 0 there, add rows that say so"
    assert note in panel_of(data, Roles("t", "y")).plan.notes
    assert not panel_of(data | {"y": np.array([0.5, 1, 2, 3])}, Roles("t", "y")).plan.notes


def test_what_was_noted_of_a_table_is_noted_once() -> None:
    read = table_of({"t": ["2020-03-29T01:00+01:00", "2020-03-29T03:00+02:00"], "y": [1.5, 2]})
    assert panel_of(read, Roles("t", "y")).plan.notes == panel_of(read, Roles("t", "y")).plan.notes
    assert len(read.notes) == 1
