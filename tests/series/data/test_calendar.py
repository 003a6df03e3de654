"""Features of the calendar: which there are, and where in a cycle a time is."""

import numpy as np
import pandas as pd
import pytest

from unrolled.series.data import calendar
from unrolled.series.data.clock import Clock
from unrolled.series.data.frequency import DAY, Frequency

PLAIN = Clock("datetime")
YEARS = 3 * 365 * DAY


def phase(times: np.ndarray, clock: Clock, name: str, **options: int) -> np.ndarray:
    """From 0 to 1, where in its cycle a time is, from its sine and cosine."""
    sine, cosine = calendar.features(times, clock, (name,), **options).T
    return np.arctan2(sine, cosine) / (2 * np.pi) % 1


def times(*texts: str) -> np.ndarray:
    return np.array(texts, "datetime64[ns]").astype(np.int64)


@pytest.mark.parametrize(
    ("frequency", "expected"),
    [
        ("min", ["minute of hour", "hour of day", "day of week", "day of month", "month of year"]),
        ("h", ["hour of day", "day of week", "day of month", "month of year"]),
        ("D", ["day of week", "day of month", "month of year"]),
        ("B", ["day of week", "day of month", "month of year"]),
        ("W", ["month of year"]),
        ("MS", ["month of year"]),
        ("QS", ["month of year"]),
        ("YS", []),
    ],
)
def test_only_what_varies_from_step_to_step_is_a_feature(frequency, expected) -> None:
    assert list(calendar.cycles(PLAIN, Frequency.of(frequency).size, YEARS)) == expected


def test_a_cycle_is_a_feature_if_it_was_seen_twice() -> None:
    hour = Frequency("hour").size
    assert calendar.cycles(PLAIN, hour, 2 * DAY - 1) == ()
    assert calendar.cycles(PLAIN, hour, 2 * DAY) == ("hour of day",)
    assert calendar.cycles(PLAIN, hour, 14 * DAY) == ("hour of day", "day of week")


def test_a_counter_has_its_season_alone() -> None:
    clock = Clock("counter")
    assert calendar.cycles(clock, 10, 960, 48) == ("season",)
    assert calendar.cycles(clock, 10, 959, 48) == calendar.cycles(clock, 10, 960, 1) == ()
    got = phase(np.arange(0, 960, 10), clock, "season", step=10, season=48)
    np.testing.assert_allclose(got, np.arange(96) % 48 / 48, atol=1e-12)


def test_a_time_is_where_the_calendar_says() -> None:
    at = times("2020-02-29T18:15", "2019-12-31T00:00", "2020-01-01T12:00")
    np.testing.assert_allclose(phase(at, PLAIN, "hour of day"), [18.25 / 24, 0, 0.5], atol=1e-12)
    np.testing.assert_allclose(phase(at, PLAIN, "minute of hour"), [0.25, 0, 0], atol=1e-12)
    np.testing.assert_allclose(phase(at, PLAIN, "day of week"), [5 / 7, 1 / 7, 2 / 7], atol=1e-12)
    np.testing.assert_allclose(phase(at, PLAIN, "day of month"), [28 / 29, 30 / 31, 0], atol=1e-12)
    np.testing.assert_allclose(
        phase(at, PLAIN, "month of year"), [59 / 366, 364 / 365, 0], atol=1e-12
    )


def test_the_calendar_is_that_of_the_zone() -> None:
    hours = pd.date_range("2020-03-28", periods=60, freq="h", tz="UTC", unit="ns")
    local = hours.tz_convert("Europe/Berlin")
    got = phase(hours.asi8, Clock("datetime", "Europe/Berlin"), "hour of day")
    np.testing.assert_allclose(got, local.hour / 24, atol=1e-12)
    got = phase(hours.asi8, Clock("datetime", "Europe/Berlin"), "day of week")
    np.testing.assert_allclose(got, local.day_of_week / 7, atol=1e-12)


def test_each_cycle_has_two_names_and_none_has_no_column() -> None:
    assert calendar.names(("hour of day",)) == ["sin hour of day", "cos hour of day"]
    assert calendar.features(times("2020-01-01"), PLAIN, ()).shape == (1, 0)
