"""Frequencies: their names, what is inferred, and the calendar that they step through."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unrolled.errors import CallError
from unrolled.series.data import Frequency
from unrolled.series.data.clock import Clock
from unrolled.series.data.frequency import DAY, SIZES, UNITS, first_days, inferred, months_of

HOUR = SIZES["hour"]
ONE = np.zeros(1, dtype=np.int64)  # where the first of a single series begins

# Each frequency by its name in pandas, and what it is here.
PANDAS = {
    "5s": "5 seconds", "min": "1 minute", "15min": "15 minutes", "30min": "30 minutes", "h": "1 hour",
    "6h": "6 hours", "D": "1 day", "2D": "2 days", "B": "1 business day", "W": "1 week",
    "W-WED": "1 week", "2W": "2 weeks", "MS": "1 month", "ME": "1 month end", "QS": "1 quarter",
    "QE": "3 month ends", "BME": "1 business month end", "YS": "1 year", "7h": "7 hours",
}  # fmt: skip


def times(start: str, count: int, frequency: str) -> np.ndarray:
    found = pd.date_range(start, periods=count, freq=frequency)
    return found.as_unit("ns").asi8.copy()


@pytest.mark.parametrize("name", PANDAS)
@pytest.mark.parametrize("start", ["2020-01-30", "2019-12-31 05:17"])
def test_a_frequency_of_pandas_is_inferred_named_and_stepped_through(name, start) -> None:
    every = times(start, 40, name)
    frequency = inferred(every, every, ONE)
    assert str(frequency) == PANDAS[name]
    assert Frequency.of(name) == frequency == Frequency.of(str(frequency))
    steps, between = frequency.steps(every[:1], every)
    assert steps.tolist() == list(range(40)) and not between.any()
    assert frequency.times(every[:1], np.arange(40)).tolist() == every.tolist()


@given(st.sampled_from(sorted(PANDAS)), st.sets(st.integers(0, 60), min_size=25), st.booleans())
def test_gaps_do_not_hide_a_frequency(name, kept, is_short) -> None:
    every = times("2018-01-01", 61, name)
    rows = every[sorted(kept)]
    frequency = inferred(rows, rows, ONE)
    gaps = np.diff(sorted(kept))
    if np.gcd.reduce(gaps) == 1 and (gaps == 1).mean() >= 0.5:
        # Few steps of two weeks at a month's end cannot be told from others; nothing else may differ.
        assert str(frequency) == PANDAS[name]


def test_the_frequency_is_that_of_all_series_whatever_their_phase() -> None:
    series = [times("2020-01-01 00:00", 5, "h"), times("2020-01-01 00:30", 5, "h")]
    rows = np.concatenate(series)
    assert inferred(rows, rows, np.array([0, 5])) == Frequency("hour")
    months = [times("2020-01-01", 5, "MS"), times("2020-01-01", 5, "MS") + 9 * DAY]
    rows = np.concatenate(months)
    assert inferred(rows, rows, np.array([0, 5])) == Frequency("month")


def test_a_day_with_a_change_of_the_clock_is_a_day() -> None:
    clock = Clock("datetime", "Europe/Berlin")
    local = times("2020-03-27", 6, "D")
    utc = clock.utc(local)
    assert set(np.diff(utc)) == {24 * HOUR, 23 * HOUR}
    assert inferred(utc, clock.local(utc), ONE) == Frequency("day")
    hours = times("2020-03-28", 72, "h")  # in UTC
    assert inferred(hours, clock.local(hours), ONE) == Frequency("hour")


def test_irregular_times_have_none() -> None:
    rng = np.random.default_rng(0)
    rows = np.cumsum(rng.integers(1, 10**12, 100))
    assert inferred(rows, rows, ONE) is None
    counted = np.cumsum(rng.choice([3, 7, 11, 20], 100))
    assert inferred(counted, None, ONE) is None
    assert inferred(rows[:1], rows[:1], ONE) is None


def test_a_counter_has_a_step() -> None:
    assert inferred(np.array([0, 10, 20, 50]), None, ONE) == Frequency("step", 10)
    assert Frequency.of(10) == Frequency("step", 10) and str(Frequency.of(1)) == "1 step"


@pytest.mark.parametrize(
    ("first", "frequency", "expected"),
    [
        ("2020-01-31", "ME", ["2020-01-31", "2020-02-29", "2020-03-31", "2020-04-30"]),
        ("2019-01-31", "month", ["2019-01-31", "2019-02-28", "2019-03-31", "2019-04-30"]),
        ("2020-02-29", "year", ["2020-02-29", "2021-02-28", "2022-02-28", "2023-02-28", "2024-02-29"]),
        ("2019-11-15", "quarter", ["2019-11-15", "2020-02-15", "2020-05-15"]),
        ("2020-02-27", "day", ["2020-02-27", "2020-02-28", "2020-02-29", "2020-03-01"]),
        ("2020-02-27", "business day", ["2020-02-27", "2020-02-28", "2020-03-02", "2020-03-03"]),
        ("2020-02-26", "week", ["2020-02-26", "2020-03-04"]),
    ],
)  # fmt: skip
def test_the_calendar_has_leap_years_ends_of_months_and_weekends(
    first, frequency, expected
) -> None:
    start = np.array([first], "datetime64[ns]").astype(np.int64)
    got = Frequency.of(frequency).times(start, np.arange(len(expected)))
    assert got.astype("datetime64[ns]").astype("datetime64[D]").astype(str).tolist() == expected
    steps, between = Frequency.of(frequency).steps(start, got)
    assert steps.tolist() == list(range(len(expected))) and not between.any()


@given(st.sampled_from([u for u in UNITS if u != "step"]), st.integers(1, 3), st.integers(0, 40))
def test_a_step_and_its_time_are_inverse(unit, count, step) -> None:
    first = np.array(["2019-12-30T06:00"], "datetime64[ns]").astype(np.int64)
    if unit == "month end":
        first = first + DAY
    frequency = Frequency(unit, count)
    got, between = frequency.steps(first, frequency.times(first, np.array([step])))
    assert got.tolist() == [step] and not between.any()


def test_what_lies_between_steps_is_seen() -> None:
    first = np.zeros(1, dtype=np.int64)
    for frequency, offset in [
        ("hour", SIZES["minute"]), ("week", DAY), ("month", DAY), ("business day", 2 * DAY), (
         "month end", DAY),
    ]:  # fmt: skip
        assert Frequency.of(frequency).steps(first, first + offset)[1].all(), frequency


def test_seasons_are_those_of_a_day_a_week_or_a_year() -> None:
    seasons = {
        "s": 3600, "10s": 360, "min": 1440, "15min": 96, "7min": 1, "h": 24, "6h": 4, "24h": 7, "D": 7,
        "2D": 1, "B": 5, "W": 52, "2W": 26, "MS": 12, "5MS": 1, "ME": 12, "BME": 12, "QS": 4, "QE": 4,
        "YS": 1,
    }  # fmt: skip
    assert {name: Frequency.of(name).season for name in seasons} == seasons
    assert Frequency("step").season == 1


@pytest.mark.parametrize("name", ["", "fortnight", "0 hours", "h2", 0, "5"])
def test_what_is_no_frequency_is_refused(name) -> None:
    with pytest.raises(
        CallError, match=r"frequency: got .*expected one such as 'hour', '30 minutes'"
    ):
        Frequency.of(name)


@pytest.mark.parametrize(
    "text",
    [
        "D",
        "2 days",
        "B",
        "3 business days",
        "W",
        "2 weeks",
        "MS",
        "2 months",
        "ME",
        "BME",
        "Q",
        "Y",
    ],
)
@given(data=st.data())
def test_an_origin_is_shared_by_all_whose_steps_coincide(text: str, data: st.DataObject) -> None:
    frequency = Frequency.of(text)
    day, step = data.draw(st.integers(1000, 30_000)), data.draw(st.integers(-20, 20))
    first = np.array([day * DAY + 5])
    first = frequency.times(
        first, np.array([0])
    )  # of a business day or the end of a month: the next
    other = frequency.times(first, np.array([step]))
    origin = frequency.origin(first)
    steps, between = frequency.steps(origin, first)
    if between[0]:  # a day that not every month has
        assert first_days(months_of(first // DAY) + 1)[0] - first[0] // DAY <= 3
        return
    assert (frequency.times(origin, steps) == first).all()
    assert (frequency.times(origin, steps + step) == other).all()
    assert (frequency.origin(other) == origin).all() or months_of(first // DAY) != months_of(
        other // DAY
    )
