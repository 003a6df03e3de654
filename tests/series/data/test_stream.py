"""A row at a time is read as a table is."""

import datetime as dt
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.series.data.tables import HOURS, flights
from unrolled.errors import DataError
from unrolled.series.data import Panel, Plan, Roles, RowReader, panel_of

ROLES = Roles(
    "time",
    "departures",
    series="origin",
    known=["holiday", "day"],
    past=["temp", "sky"],
    static="runways",
)


def table() -> dict[str, Any]:
    columns = flights()
    columns["day"] = np.array(["work", "rest"], dtype=object)[columns["holiday"].astype(int)]
    columns["temp"][[3, 17]] = np.nan
    columns["sky"][5] = None
    return columns


TABLE = table()


@pytest.fixture(scope="module", params=[None, "Europe/Berlin"])
def panel(request: pytest.FixtureRequest) -> Panel:
    times = pd.Series(TABLE["time"])
    if request.param:
        times = times.dt.tz_localize("UTC").dt.tz_convert(request.param)
    return panel_of(TABLE | {"time": times}, ROLES)


def row(index: int, time: Any) -> dict[str, Any]:
    return {name: values[index] for name, values in TABLE.items()} | {"time": time}


def same(got: list[float], expected: np.ndarray) -> None:
    np.testing.assert_array_equal(np.array(got), expected)


def test_every_row_is_to_the_bit_what_the_panel_has(panel: Panel) -> None:
    reader = RowReader(panel.plan)
    for index in range(2 * HOURS):
        time = dt.datetime(1970, 1, 1, tzinfo=dt.UTC if panel.clock.zone else None)
        time += dt.timedelta(microseconds=int(panel.times[index]) // 1000)
        got = reader.read(row(index, time))
        assert got.key == panel.keys[index // HOURS] and got.time == panel.times[index]
        for name in ("targets", "past", "known", "past_codes", "known_codes"):
            same(getattr(got, name), getattr(panel, name)[index])


@pytest.mark.parametrize("zone", [None, "Europe/Berlin"])
def test_a_time_may_be_written_in_any_way(zone: str | None) -> None:
    plan = panel_of(TABLE | {"time": pd.Series(TABLE["time"]).dt.tz_localize(zone)}, ROLES).plan
    local = dt.datetime(2013, 3, 12, 5)
    expected = int(pd.Timestamp(local, tz=zone).as_unit("ns").value)
    ways = [
        local, local.isoformat(), np.datetime64(local), pd.Timestamp(local, tz=zone), "3/13/2013 5:00",
        dt.datetime(2013, 3, 12, 4, tzinfo=dt.UTC), "2013-03-12T04:00:00Z", "2013-03-12 05:00:00+01:00",
    ]  # fmt: skip
    reader = RowReader(plan)
    for way in ways[:4] + (ways[5:] if zone else []):
        assert reader.read(row(0, way)).time == expected, way
    assert reader.read(row(0, ways[4])).time == expected + 24 * 3600 * 10**9
    if zone is None:
        with pytest.raises(
            DataError,
            match=r"the row: .* holds times in the zone UTC, expected times without a zone",
        ):
            reader.read(row(0, ways[5]))


def test_counters_fractions_and_dates_are_times() -> None:
    def plan(times: Any) -> Plan:
        return panel_of({"t": times, "y": [1.0, 2, 3]}, Roles("t", "y")).plan

    assert RowReader(plan([1, 2, 3])).read({"t": 7, "y": 1}).time == 7
    assert RowReader(plan([1, 2, 3])).read({"t": np.int64(7), "y": 1}).time == 7
    assert RowReader(plan([0.1, 0.2, 0.3])).read({"t": 0.4, "y": 1}).time == 4 * 10**8
    assert RowReader(plan([0.5, 1, 1.5])).read({"t": 2.0, "y": 1}).time == 2 * 10**9
    days = RowReader(plan([dt.date(2020, 1, day) for day in (1, 2, 3)]))
    assert days.read({"t": dt.date(2020, 1, 4), "y": 1}).time == days.read({"t": "2020-01-04"}).time
    order = RowReader(panel_of({"y": [1.0, 2]}, Roles(None, "y")).plan)
    assert order.read({"y": 1}, time=2).time == 2
    with pytest.raises(DataError, match="the row: no time, expected its step"):
        order.read({"y": 1})


@pytest.mark.parametrize("zone", [None, "Europe/Berlin"])
@pytest.mark.parametrize("frequency", ["hour", "day", None])
def test_what_is_ahead_is_what_a_panel_has_ahead(zone: str | None, frequency: str | None) -> None:
    times = pd.date_range(
        "2020-03-14", periods=60, freq="D" if frequency == "day" else "h", tz=zone
    )
    data = {"t": pd.Series(times), "y": np.ones(60)}
    panel = panel_of(data, Roles("t", "y"), frequency=frequency)
    series = panel_of(data, panel.plan, horizon=700)[0]
    reader = RowReader(panel.plan)
    for step, horizon in ((40, 30), (41, 600), (59, 700)):
        ahead, features = reader.ahead(int(series.times[step]), horizon)
        same(ahead, series.times[step + 1 : step + 1 + horizon])
        same(features, series.known[step + 1 : step + 1 + horizon])


def test_what_is_not_there_is_missing_and_what_is_new_is_unknown() -> None:
    reader = RowReader(panel_of(TABLE, ROLES).plan)
    got = reader.read(
        {"time": dt.datetime(2013, 3, 12), "origin": "EWR", "sky": "snow", "temp": " NA "}
    )
    assert got.key == ("EWR",) and math.isnan(got.targets[0]) and math.isnan(got.past[0])
    assert got.past_codes == [0] and got.known_codes == [0]
    assert reader.read(row(0, dt.datetime(2013, 3, 12)) | {"temp": "1.5"}).past == [1.5]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"time": None}, r"the row: the column 'time' \(time\) is missing, expected a value"),
        ({"origin": ""}, r"the row: the column 'origin' \(series\) is missing"),
        (
            {"temp": "mild"},
            r"the row: the column 'temp' \(past\) has 'mild', expected a number of at most 1e\+30",
        ),
        (
            {"departures": math.inf},
            r"the row: the column 'departures' \(target\) has inf, expected a number",
        ),
        (
            {"time": "soon"},
            r"the row: row 0: the column 'time' \(time\) has 'soon'; expected a date or a time",
        ),
        (
            {"time": 5},
            r"the row: the column 'time' \(time\) holds whole numbers, expected times without a zone",
        ),
    ],
)
def test_what_cannot_be_read_is_refused(changed: dict[str, Any], message: str) -> None:
    reader = RowReader(panel_of(TABLE, ROLES).plan)
    with pytest.raises(DataError, match=message):
        reader.read(row(0, dt.datetime(2013, 3, 12)) | changed)


def test_a_nanosecond_is_kept() -> None:
    plan = panel_of(TABLE, ROLES).plan
    reader = RowReader(plan)
    text = "2013-03-12T05:00:00.123456789"
    expected = int(np.datetime64(text, "ns").astype(np.int64))
    for way in (text, np.datetime64(text), pd.Timestamp(text)):
        assert reader.read(row(0, way)).time == expected
    assert reader.read(row(0, np.datetime64("2013-03-12T05", "h"))).time % 10**9 == 0


def test_pandas_own_missing_value_is_one() -> None:
    reader = RowReader(panel_of(TABLE, ROLES).plan)
    got = reader.read(row(0, dt.datetime(2013, 3, 12)) | {"departures": pd.NA, "sky": pd.NA})
    assert math.isnan(got.targets[0]) and got.past_codes == [0]
    for name in ("origin", "time"):
        with pytest.raises(DataError, match=f"the column '{name}' .* is missing"):
            reader.read(row(0, dt.datetime(2013, 3, 12)) | {name: pd.NA})


def test_static_columns_are_read_as_the_panel_has_them(panel: Panel) -> None:
    numbers, codes = RowReader(panel.plan).static(row(HOURS, None))
    same(numbers, panel.static[1])
    same(codes, panel.static_codes[1])
    assert math.isnan(RowReader(panel.plan).static({})[0][0])
