"""Times: every way of writing them, their zones, the clock that is set, and what is refused."""

import datetime as dt

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unrolled.errors import CallError, DataError
from unrolled.series.data.clock import Clock
from unrolled.series.data.frames import table_of
from unrolled.series.data.times import times_of

NS = 10**9


def read(values, zone=None, series=None):
    """The times of a column, and its clock."""
    return times_of(table_of({"t": values}), "t", zone=zone, series=series)


def utc(*texts: str) -> list[int]:
    return [int(np.datetime64(text, "ns").astype(np.int64)) for text in texts]


@pytest.mark.parametrize(
    ("texts", "times", "written"),
    [
        (["2020-02-29", "2020-03-01"], ["2020-02-29", "2020-03-01"], None),
        (["2020/02/29", "2020/03/01"], ["2020-02-29", "2020-03-01"], None),
        (["2020-2-29", "2020-3-1"], ["2020-02-29", "2020-03-01"], ["2020-02-29", "2020-03-01"]),
        (["2020.02.29"], ["2020-02-29"], None),
        (["29.02.2020"], ["2020-02-29"], None),
        (["2/29/2020", "3/1/2020"], ["2020-02-29", "2020-03-01"], ["02/29/2020", "03/01/2020"]),
        (["29/2/2020", "1/3/2020"], ["2020-02-29", "2020-03-01"], ["29/02/2020", "01/03/2020"]),
        (["Feb 29 2020", "March 1, 2020"], ["2020-02-29", "2020-03-01"], ["Feb 29 2020", "Mar 01 2020"]),
        (["29-Feb-2020"], ["2020-02-29"], None),
        (["29-02-2020 05:00"], ["2020-02-29T05:00"], None),
        (["2020-03", "2020-04"], ["2020-03-01", "2020-04-01"], None),
        (["2020/03"], ["2020-03-01"], None),
        (["2020M03"], ["2020-03-01"], None),
        (["Mar 2020"], ["2020-03-01"], None),
        (["2020Q4", "2021Q1"], ["2020-10-01", "2021-01-01"], None),
        (["2020-Q4"], ["2020-10-01"], ["2020Q4"]),
        (["2020-W53", "2021-W01"], ["2020-12-28", "2021-01-04"], None),
        (["2020-03-29T14:30"], ["2020-03-29T14:30"], None),
        (["2020-03-29 14:30:15"], ["2020-03-29T14:30:15"], None),
        (["2020-03-29 14"], ["2020-03-29T14"], None),
        (["2020-03-29 14:30:15.5"], ["2020-03-29T14:30:15.5"], ["2020-03-29 14:30:15"]),
        (["2020-03-29T14:30:15,25"], ["2020-03-29T14:30:15.25"], ["2020-03-29T14:30:15"]),
        (["2020-03-29T14:30:00Z"], ["2020-03-29T14:30"], None),
        (["2020-03-29 14:30 UTC"], ["2020-03-29T14:30"], ["2020-03-29 14:30Z"]),
        (["2020-03-29T14:30+02:00"], ["2020-03-29T12:30"], None),
        (["2020-03-29T14:30:00-0530"], ["2020-03-29T20:00"], None),
        (["2/29/2020 2:30 PM", "2/29/2020 12:05 AM"], ["2020-02-29T14:30", "2020-02-29T00:05"],
         ["02/29/2020 02:30 PM", "02/29/2020 12:05 AM"]),
        (["24.12.2020 18:00"], ["2020-12-24T18:00"], None),
        (["20200229 05:00"], ["2020-02-29T05:00"], None),
        # R leaves the clock out at midnight.
        (["2020-03-29", "2020-03-29 01:00:00"], ["2020-03-29", "2020-03-29T01:00"],
         ["2020-03-29 00:00:00", "2020-03-29 01:00:00"]),
    ],
)  # fmt: skip
def test_a_text_is_read_and_written_again(texts, times, written) -> None:
    got, clock = read(texts)
    assert got.tolist() == utc(*times)
    assert clock.written(got).to_pylist() == (written or texts)


@given(
    st.lists(
        st.datetimes(dt.datetime(1700, 1, 1), dt.datetime(2200, 1, 1)), min_size=1, max_size=5
    ),
    st.sampled_from(["T", " "]),
    st.sampled_from(["", "Z", "+05:30", "-0800"]),
)
def test_any_time_of_iso_8601_is_read_as_python_reads_it(times, separator, offset) -> None:
    times = [time.replace(microsecond=0) for time in times]
    texts = [time.isoformat(separator) + offset for time in times]
    got, clock = read(texts)
    ahead = dt.datetime.fromisoformat(texts[0]).utcoffset() or dt.timedelta()
    assert got.tolist() == utc(*((time - ahead).isoformat() for time in times))
    assert clock.written(got).to_pylist() == texts


@pytest.mark.parametrize("kind", ["pandas", "polars", "arrow", "numpy", "python"])
@pytest.mark.parametrize("zone", [None, "Europe/Berlin"])
def test_a_datetime_of_any_library_is_the_same_and_is_given_back_as_it_was(kind, zone) -> None:
    if kind == "numpy" and zone:
        return
    plain = pd.Series(pd.date_range("2020-03-28", periods=3, freq="D", tz=zone, name="t"))
    values = {
        "pandas": lambda: plain.to_frame("t"),
        "polars": lambda: pl.from_pandas(plain.to_frame("t")),
        "arrow": lambda: pa.table({"t": pa.array(plain)}),
        "numpy": lambda: {"t": plain.to_numpy()},
        "python": lambda: {
            "t": plain.dt.to_pydatetime().tolist() if hasattr(plain.dt, "to_pydatetime") else []
        },
    }[kind]()
    table = table_of(values)
    times, clock = times_of(table, "t")
    assert (
        times.tolist()
        == plain.dt.tz_convert("UTC")
        .dt.tz_localize(None)
        .astype("datetime64[ns]")
        .astype("int64")
        .tolist()
        if zone
        else plain.astype("datetime64[ns]").astype("int64").tolist()
    )
    assert clock.zone == zone
    assert clock.written(times).type == table.arrow("t").type
    assert clock.written(times).equals(table.arrow("t"))


def test_dates_periods_and_numbers_are_times() -> None:
    assert read([dt.date(2020, 2, 29)])[0].tolist() == utc("2020-02-29")
    assert read([dt.date(2020, 2, 29)])[1].written(np.array(utc("2020-03-01"))).to_pylist() == [
        dt.date(2020, 3, 1)
    ]
    periods = pd.DataFrame({"t": pd.period_range("2020-02", periods=2, freq="M")})
    assert times_of(table_of(periods), "t")[0].tolist() == utc("2020-02-01", "2020-03-01")
    assert read([20200229, 20200301])[0].tolist() == utc("2020-02-29", "2020-03-01")
    assert read([20200229])[1].written(np.array(utc("2020-03-01"))).to_pylist() == [20200301]
    assert read(["20200229"])[0].tolist() == utc("2020-02-29")
    for values in ([1, 2, 5], [1.0, 2.0, 5.0], ["1", "2", "5"]):
        times, clock = read(values)
        assert times.tolist() == [1, 2, 5] and clock == Clock("counter")
    times, clock = read([0.1, 0.2, 0.4])
    assert times.tolist() == [NS // 10, NS // 5, 2 * NS // 5]
    assert clock.written(times).to_pylist() == [0.1, 0.2, 0.4] and clock.text(NS // 10) == "0.1"
    assert read([20200230, 20200301])[1] == Clock("counter")  # no date: there is no such day


def test_the_zone_tells_where_the_calendar_is_read_and_changes_no_moment() -> None:
    texts = ["2013-03-10T06:00:00Z", "2013-03-10T07:00:00Z"]
    times, clock = read(texts, "America/New_York")
    assert times.tolist() == utc("2013-03-10T06:00", "2013-03-10T07:00")
    assert clock.texts(times) == ["2013-03-10 01:00:00", "2013-03-10 03:00:00"]
    assert clock.written(times).to_pylist() == texts
    assert clock.utc(clock.local(times)).tolist() == times.tolist()


def test_a_local_time_that_does_not_exist_is_refused_with_its_row() -> None:
    with pytest.raises(
        DataError,
        match=r"the frame: row 1: the column 't' \(time\) has 2020-03-29 02:30:00, which in "
        r"Europe/Berlin does "
        r"not exist: the clock jumps over it; expected times in UTC, or with their offset",
    ):
        read(["2020-03-29 01:30", "2020-03-29 02:30", "2020-03-29 03:30"], "Europe/Berlin")
    assert read(["2020-03-29 02:30"])[1].zone is None  # as it is, where no zone is given


def test_a_local_time_that_the_clock_shows_twice_is_refused_unless_it_is_there_twice() -> None:
    once = ["2020-10-25 01:00", "2020-10-25 02:00", "2020-10-25 03:00"]
    with pytest.raises(
        DataError,
        match=r"row 1: .* has 2020-10-25 02:00:00, .* is one of two: the clock shows it twice",
    ):
        read(once, "Europe/Berlin")
    twice = ["2020-10-25 01:00", "2020-10-25 02:00", "2020-10-25 02:00", "2020-10-25 03:00"]
    times, _ = read(twice, "Europe/Berlin")
    assert np.diff(times).tolist() == [3600 * NS] * 3
    # Two series side by side, each with both.
    times, _ = read(np.repeat(twice, 2).tolist(), "Europe/Berlin", np.array([0, 1] * 4))
    assert np.diff(times[::2]).tolist() == np.diff(times[1::2]).tolist() == [3600 * NS] * 3
    with pytest.raises(DataError, match=r"row 1: .* is one of two"):  # one each is not both
        read(
            ["2020-10-25 01:00", "2020-10-25 02:00", "2020-10-25 02:00"],
            "Europe/Berlin",
            np.arange(3),
        )


def test_offsets_that_vary_are_read_and_said() -> None:
    table = table_of({"t": ["2020-03-29T01:00+01:00", "2020-03-29T03:00+02:00"]})
    times, clock = times_of(table, "t")
    assert times.tolist() == utc("2020-03-29T00:00", "2020-03-29T01:00") and clock.zone == "UTC"
    assert table.notes == [
        "the offsets of the times vary, so the calendar is read in UTC; to read it in local time, say "
        "where: "
        "zone='Europe/Berlin'"
    ]
    table = table_of({"t": ["2020-03-29T01:00+01:00", "2020-03-29T03:00+02:00"]})
    assert times_of(table, "t", zone="Europe/Berlin")[1].zone == "Europe/Berlin" and not table.notes


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (
            ["2020-01-01", None],
            r"row 1: the column 't' \(time\) has no value; expected a date or a time",
        ),
        (["2020-01-01", ""], r"row 1: .* has no value"),
        (["2020-01-01", "soon"], r"row 1: .* has 'soon'; expected a time like 2020-01-01"),
        (["soon"], r"row 0: .* has 'soon'; expected a date or a time as ISO 8601 writes it"),
        (["2020-01-31", "2020-02-30"], r"row 1: .* has '2020-02-30'; expected a date or a time"),
        (["2020-01-01 01:00", "2020-01-01 25:00"], r"row 1: .* has '2020-01-01 25:00'"),
        (
            ["2020-01-01 01:00", "2020-01-01 02:00Z"],
            r"row 1: .* has '2020-01-01 02:00Z'; expected no zone",
        ),
        (
            ["2020-01-01 01:00Z", "2020-01-01 02:00"],
            r"row 1: .* '2020-01-01 02:00'; expected a zone",
        ),
        (["01/02/2020", "02/02/2020"], r"expected a date whose day and month can be told apart"),
        (["2020-W54"], r"row 0: .* has '2020-W54'"),
        (["Foo 2020"], r"row 0: .* has 'Foo 2020'"),
        ([1.5, float("inf")], r"row 1: .* has inf; expected a date or a time"),
        ([1.5, None], r"row 1: .* has no value"),
        ([True, False], r"the column 't' \(time\) is of type boolean, expected a date or a time"),
        ([dt.datetime(2500, 1, 1)], r"leaves the years 1678 to 2261, expected times within them"),
    ],
)
def test_what_is_no_time_is_refused_with_its_row(texts, message) -> None:
    with pytest.raises(DataError, match=message):
        read(texts)


def test_a_zone_that_is_not_known_is_refused() -> None:
    with pytest.raises(
        CallError, match="zone: got 'Europe/Atlantis', expected a name of the time zone"
    ):
        read(["2020-01-01"], "Europe/Atlantis")


def test_a_clock_says_what_it_holds_and_with_which_it_agrees() -> None:
    zoned, plain, date, counter = (
        Clock("datetime", "UTC"), Clock("datetime"), Clock("date"), Clock("counter"),
    )  # fmt: skip
    assert zoned.described == "times in the zone UTC" and plain.described == "times without a zone"
    assert date.described == "dates" and counter.described == "whole numbers"
    assert plain.agrees(date) and zoned.agrees(Clock("datetime", "Asia/Tokyo"))
    assert (
        not zoned.agrees(plain)
        and not counter.agrees(date)
        and not counter.agrees(Clock("fractions"))
    )
    assert Clock.of_record(zoned.record()) == zoned
