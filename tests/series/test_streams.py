"""A stream says at every row what the whole pass says there, and resumed it goes on to the bit."""

import datetime as dt
import io
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.series.forecasting import ROLES, TINY, drawn, holed
from unrolled.errors import CallError, DataError
from unrolled.series import Forecaster, ForecastStream
from unrolled.series.ahead import BLOCK
from unrolled.series.data import panel_of
from unrolled.series.models import DISTRIBUTIONS
from unrolled.series.models.distributions import LEVELS
from unrolled.series.passes import Asked
from unrolled.series.predicting import at_levels, predicted
from unrolled.series.stream import LONGEST_GAP

HOURS, HORIZON = 40, 5
TABLE = holed(HOURS + HORIZON, HORIZON)
CLOSE = 1e-5  # of a scale, and of a value: float32, through a few products of 8 to 32 numbers each
KINDS = ["quantiles", "gru", "irregular", "two targets", "no past", "reference"]


def rows_of(table: dict[str, Any], chosen: Any = slice(None)) -> list[dict[str, Any]]:
    columns = {name: values[chosen] for name, values in table.items()}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def in_turn(table: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of both airports in the order of their times, of the history alone."""
    size = HOURS + HORIZON
    order = [k + first for k in range(HOURS) for first in (0, size)]
    return rows_of(table, np.array(order))


def make(kind: str, directory: Any) -> tuple[Forecaster, dict[str, Any]]:
    table = {name: values.copy() for name, values in TABLE.items()}
    roles, options = dict(ROLES), {"season": 4, "quantiles": LEVELS}
    if kind == "gru":
        options |= {"cell": "gru", "depth": 2, "distribution": "normal"}
    if kind == "two targets":
        roles["target"] = ["departures", "delay"]
        table["delay"] = np.where(np.isnan(table["departures"]), np.nan, np.arange(2.0 * 45))
    if kind == "irregular":
        options["frequency"] = None
        gaps = np.random.default_rng(2).integers(1, 90, HOURS + HORIZON)
        time = np.datetime64("2013-03-12", "m") + np.cumsum(gaps)
        table["time"] = np.tile(time.astype("datetime64[ns]"), 2)
    if kind == "no past":
        roles |= {"past": [], "static": "origin", "categories": "origin"}
    forecaster = drawn(directory, table, HORIZON, roles, **options)
    if kind == "reference":
        forecaster.network.layers.backend = "reference"
    return forecaster, table


@pytest.fixture(scope="module", params=KINDS)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return make(request.param, tmp_path_factory.mktemp("streams") / "run")


def passed(
    forecaster: Forecaster, frame: Any, horizon: int = HORIZON
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Of each series what the whole pass says at every step, and the scale there."""
    panel = panel_of(frame, forecaster.run.plan, horizon=horizon)
    counts = panel.lengths
    series = np.repeat(np.arange(len(panel)), counts)
    steps = np.concatenate([np.arange(n) for n in counts])
    data = forecaster.run.origins(panel)
    told = predicted(forecaster.network, forecaster.spread, data, Asked(steps, series), HORIZON)
    scale = data.scale[data.begins[series] + steps]
    told = told[:, :, 0] if told.shape[2] == 1 else told
    ends = np.cumsum(counts)[:-1]
    return np.split(told, ends), np.split(scale.max(1), ends)


def assert_close(told: np.ndarray, expected: np.ndarray, scale: float, name: object = "") -> None:
    np.testing.assert_allclose(told, expected, rtol=CLOSE, atol=CLOSE * scale, err_msg=str(name))


def test_at_every_row_it_says_what_the_whole_pass_says(case: Any) -> None:
    forecaster, table = case
    expected, scale = passed(forecaster, table)
    stream = forecaster.stream()
    stream.known(table)
    for k, row in enumerate(in_turn(table)):
        step, series = divmod(k, 2)
        told = stream(row)
        assert_close(told, expected[series][step], scale[series][step], (series, step))
    assert stream.keys == [("JFK",), ("LGA",)]


def test_the_test_can_fail(case: Any) -> None:
    forecaster, table = case
    stream = forecaster.stream(table)
    expected, scale = passed(forecaster, table)
    assert_close(stream.forecast("JFK"), expected[0][-1], scale[0][-1])
    assert np.abs(stream.forecast("LGA") - expected[0][-1]).max() > 100 * CLOSE * scale[0][-1]


def test_after_the_histories_it_goes_on_as_if_it_had_read_them_row_by_row(case: Any) -> None:
    forecaster, table = case
    expected, scale = passed(forecaster, table)
    known = {name: table[name] for name in ("time", "origin", "holiday", "day")}
    size, begin = HOURS + HORIZON, 25
    for series in range(2):
        table["departures"][series * size + begin - 1] = 5.0
    expected, scale = passed(forecaster, table)
    keep = np.arange(2 * size) % size < begin
    stream = forecaster.stream(
        {name: values[keep] for name, values in table.items()},
        future={name: values[~keep] for name, values in known.items()},
    )
    for series, origin in enumerate(("JFK", "LGA")):
        assert_close(stream.forecast(origin), expected[series][begin - 1], scale[series][begin - 1])
    for row in in_turn(table)[2 * begin :]:
        series = ["JFK", "LGA"].index(row["origin"])
        told = stream(row)
        step = len(expected[series]) - sum(
            r["time"] > row["time"] for r in rows_of(table, slice(0, HOURS))
        )
        assert_close(told, expected[series][step - 1], scale[series][step - 1], (series, step))


def test_what_comes_next_is_what_predict_says(case: Any) -> None:
    forecaster, table = case
    told = forecaster.predict(table)
    stream = forecaster.stream(table)
    for origin in ("JFK", "LGA"):
        columns = np.stack([told[f"q{q:g}"][told["origin"] == origin] for q in LEVELS], -1)
        targets = len(forecaster.run.plan.targets)
        columns = columns.reshape(targets, HORIZON, -1).swapaxes(0, 1)
        mine = stream.forecast(origin)
        assert_close(mine, columns[:, 0] if targets == 1 else columns, 5.0)


def saved(stream: ForecastStream) -> dict[str, Any]:
    """What it has seen, by way of a file."""
    file = io.BytesIO()
    torch.save(stream.state_dict(), file)
    file.seek(0)
    return dict(torch.load(file, weights_only=True))


@pytest.mark.parametrize("is_read", [False, True], ids=["empty", "after histories"])
@given(stop=st.integers(0, 2 * HOURS))
def test_saved_at_any_row_and_resumed_it_equals_the_whole_to_the_bit(case, is_read, stop) -> None:
    forecaster, table = case
    rows = in_turn(table)
    begin = 30 if is_read else 0
    size = HOURS + HORIZON
    keep = np.arange(2 * size) % size < 15

    def fresh() -> ForecastStream:
        made = forecaster.stream()
        if is_read:
            made.read({name: values[keep] for name, values in table.items()})
        made.known(table)
        return made

    whole, first = fresh(), fresh()
    expected = [whole(row) for row in rows[begin:]]
    stop = max(stop, begin)
    for row in rows[begin:stop]:
        first(row)
    again = Forecaster.load(forecaster.run.directory)
    again.network = forecaster.network
    second = again.stream()
    second.load_state_dict(saved(first))
    told = [second(row) for row in rows[stop:]]
    for mine, its in zip(told, expected[stop - begin :], strict=True):
        np.testing.assert_array_equal(mine, its)
    for origin in ("JFK", "LGA"):
        if (origin,) in whole.keys:
            np.testing.assert_array_equal(second.forecast(origin), whole.forecast(origin))


def test_series_in_turn_are_each_as_alone_to_the_bit(case: Any) -> None:
    forecaster, table = case
    both = forecaster.stream()
    both.known(table)
    together: dict[str, list[np.ndarray]] = {"JFK": [], "LGA": []}
    for row in in_turn(table):
        together[row["origin"]].append(both(row))
    for series, origin in enumerate(together):
        alone = forecaster.stream()
        alone.known(table)
        for row, its in zip(in_turn(table)[series::2], together[origin], strict=True):
            np.testing.assert_array_equal(alone(row), its)


def test_taken_without_a_word_it_is_the_same(case: Any) -> None:
    forecaster, table = case
    speaking, silent = forecaster.stream(), forecaster.stream()
    speaking.known(table)
    for row in in_turn(table):
        told = speaking(row)
        silent.take(row)
    silent.known(table)
    np.testing.assert_array_equal(silent.forecast("LGA"), told)


# --- What is missing, and when -------------------------------------------------------------------


def hourly(hours: int, **options: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    time = (np.datetime64("2020-02-03", "h") + np.arange(hours)).astype("datetime64[ns]")
    y = 10 + 3 * np.sin(np.arange(hours) / 4) + np.random.default_rng(0).normal(size=hours)
    return {"time": time, "y": y}, {"time": "time", "target": "y", **options}


def test_rows_that_do_not_come_are_missing_steps(tmp_path) -> None:
    table, roles = hourly(2 * BLOCK + 150)
    forecaster = drawn(tmp_path / "run", table, HORIZON, roles, quantiles=LEVELS)
    keep = np.random.default_rng(1).random(len(table["y"])) < 0.6
    keep[[0, -1]] = True
    keep[100 : 100 + BLOCK + 50] = False  # longer than a block of the calendar
    frame = {name: values[keep] for name, values in table.items()}
    expected, scale = passed(forecaster, frame)
    steps = np.flatnonzero(keep)
    stream = forecaster.stream()
    for step, row in zip(steps, rows_of(frame), strict=True):
        assert_close(stream(row), expected[0][step], scale[0][step], step)


def test_what_is_known_of_a_missing_step_is_read_there(tmp_path) -> None:
    table, roles = hourly(60, known="holiday")
    table["holiday"] = np.random.default_rng(2).normal(size=60)
    forecaster = drawn(tmp_path / "run", table, HORIZON, roles, quantiles=LEVELS)
    table["y"][20:30] = np.nan
    expected, scale = passed(forecaster, table, horizon=0)
    stream = forecaster.stream()
    stream.known({name: table[name] for name in ("time", "holiday")})
    for step, row in enumerate(rows_of(table)[:55]):
        if not 20 <= step < 30:  # these rows do not come
            del row["holiday"]  # it is known
            assert_close(stream(row), expected[0][step], scale[0][step], step)


def test_before_its_first_value_nothing_is_said_of_a_target(tmp_path) -> None:
    table, roles = hourly(40)
    table["z"] = np.arange(40.0)
    roles["target"] = ["y", "z"]
    forecaster = drawn(tmp_path / "run", table, HORIZON, roles)
    table["y"][:7], table["z"][:3] = np.nan, np.nan
    stream = forecaster.stream()
    for step, row in enumerate(rows_of(table)):
        told = stream(row)
        assert np.isnan(told[:, 0]).all() == (step < 7) and np.isnan(told[:, 1]).all() == (step < 3)
        again = forecaster.stream()
        again.load_state_dict(saved(stream))
        np.testing.assert_array_equal(again.forecast(), told)


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_of_every_distribution_it_says_what_the_pass_says(tmp_path, distribution: str) -> None:
    table = holed(HOURS, 0)
    roles = {**ROLES, "known": []}
    forecaster = drawn(tmp_path / "run", table, HORIZON, roles, distribution=distribution)
    wanted = (0.1, 0.33, 0.9)
    told = forecaster.predict(table, quantiles=wanted)
    stream = forecaster.stream(table, quantiles=wanted)
    for origin in ("JFK", "LGA"):
        columns = [told[f"q{q:g}"][told["origin"] == origin] for q in wanted]
        assert_close(stream.forecast(origin), np.stack(columns, 1), 5.0)


def test_an_ordered_spread_and_one_that_is_not_give_the_same(tmp_path) -> None:
    table, roles = hourly(50)
    forecaster = drawn(tmp_path / "run", table, HORIZON, roles, quantiles=LEVELS)
    for spread in ([2, 1.5, 1.2, 1, 1, 1, 1.2, 1.5, 2.0], [1, 2, 1, 1, 1, 3, 1, 1, 1.0]):
        forecaster.spread = torch.tensor(spread)
        expected, scale = passed(forecaster, table)
        told = forecaster.stream(table).forecast()
        assert_close(told, expected[0][-1], scale[0][-1])
        assert (np.diff(told) >= 0).all()


def zoned(*arguments: Any, zone: str | None = None, **options: Any) -> list[Any]:
    return list(pd.date_range(*arguments, tz=zone, **options))


CLOCKS = {
    "hours over a change of the clock": zoned(
        "2020-03-27", periods=120, freq="h", zone="Europe/Berlin"
    ),
    "days over a change of the clock": zoned(
        "2020-02-27", periods=60, freq="D", zone="Europe/Berlin"
    ),
    "business days": zoned("2020-01-01", periods=60, freq="B"),
    "ends of months": zoned("2015-01-31", periods=60, freq="ME"),
    "months": zoned("2015-01-15", periods=60, freq="MS"),
    "half-hours": zoned("2020-01-01T00:15", periods=60, freq="30min"),
    "dates": [dt.date(2020, 1, 1) + dt.timedelta(days=k) for k in range(60)],
    "texts": [f"2020-01-{1 + k // 24:02}T{k % 24:02}:00" for k in range(120)],
    "a counter": list(range(7, 127, 2)),
    "fractions": [0.5 * k for k in range(60)],
    "no clock": None,
}


@pytest.mark.parametrize("kind", CLOCKS)
def test_whatever_the_clock_it_says_what_the_pass_says(tmp_path, kind: str) -> None:
    times = CLOCKS[kind]
    count = 60 if times is None else len(times)
    table: dict[str, Any] = {"y": np.arange(float(count)) % 7}
    if times is not None:
        table["when"] = pd.Series(times) if hasattr(times[0], "tz") else times
    roles = {"target": "y"} | ({"time": "when"} if times is not None else {})
    forecaster = drawn(tmp_path / "run", pd.DataFrame(table), HORIZON, roles, quantiles=LEVELS)
    expected, scale = passed(forecaster, pd.DataFrame(table))
    stream = forecaster.stream()
    dropped = [] if times is None else [31, 32]
    if dropped:
        table["y"][dropped] = np.nan
        expected, scale = passed(forecaster, pd.DataFrame(table))
    for step in range(count):
        if step in dropped:
            continue
        row = {"y": table["y"][step]} | ({} if times is None else {"when": times[step]})
        assert_close(stream(row), expected[0][step], scale[0][step], step)


@pytest.mark.parametrize("frequency", ["h", "D", "W-MON", "MS", "ME"])
def test_series_that_begin_at_different_steps_share_the_calendar(tmp_path, frequency: str) -> None:
    times = pd.date_range("2015-01-01", periods=70, freq=frequency)
    keep = np.concatenate([np.arange(k, 50 + k) for k in range(20)])
    table = pd.DataFrame(
        {"t": times[keep], "key": np.repeat(np.arange(20), 50), "y": keep % 7 + 0.5}
    )
    forecaster = drawn(
        tmp_path / "run", table, HORIZON, {"time": "t", "series": "key", "target": "y"}
    )
    expected, scale = passed(forecaster, table)
    stream = forecaster.stream(table[table.key < 10])
    for row in table[table.key >= 10].to_dict("records"):
        told = stream(row)
        if row["t"] == times[49 + row["key"]]:
            levels = predicted_levels(expected[row["key"]][-1], forecaster)
            assert_close(told, levels, scale[row["key"]][-1], row)
    assert len(stream._calendar._blocks) <= 2
    assert len(stream.keys) == 20 and np.isfinite(stream.forecast(3)).all()


def predicted_levels(told: np.ndarray, forecaster: Forecaster) -> np.ndarray:
    return at_levels(told, forecaster.network.distribution.levels, forecaster.quantiles)


# --- What is known ahead -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def informed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Forecaster, dict[str, Any]]:
    table, roles = hourly(60, known=["holiday", "kind"])
    rng = np.random.default_rng(2)
    table["holiday"] = rng.normal(size=60)
    table["kind"] = rng.choice(np.array(["work", "rest"], dtype=object), 60)
    directory = tmp_path_factory.mktemp("informed") / "run"
    return drawn(directory, table, HORIZON, roles), table


@pytest.mark.parametrize("kind", ["dict", "pandas", "polars", "rows"])
def test_what_is_known_may_be_any_frame_or_rows(informed, kind: str) -> None:
    forecaster, table = informed
    known = {name: table[name][20:30] for name in ("time", "holiday", "kind")}
    history = {name: values[:20] for name, values in table.items()}
    expected = forecaster.predict(history, future=known)
    rows = {
        "dict": known, "pandas": pd.DataFrame(known), "polars": pl.DataFrame(known),
        "rows": rows_of(known),
    }[kind]  # fmt: skip
    stream = forecaster.stream(history)
    stream.known(rows)
    assert_close(stream.forecast()[:, 1], expected["q0.5"], 1.0)


def test_it_may_be_given_with_a_row_and_again_when_it_changes(informed) -> None:
    forecaster, table = informed
    rows = rows_of(table)
    stream = forecaster.stream()
    first = stream(rows[0], known=rows[1 : 1 + HORIZON])
    changed = [row | {"holiday": 5.0, "kind": "rest"} for row in rows[3:5]]
    stream.known(changed)
    second = stream.forecast()
    differs = (first != second).any(1)
    assert differs.tolist() == [False, False, True, True, False]
    stream.known(rows[3:5])
    np.testing.assert_array_equal(stream.forecast(), first)


def test_what_a_row_says_itself_counts(informed) -> None:
    forecaster, table = informed
    rows = rows_of(table)
    one, two, three = (forecaster.stream() for _ in range(3))
    for stream in (one, two, three):
        stream.known(table)
    for row in rows[:10]:
        told = one(row)
        silent = two({name: row[name] for name in ("time", "y")})
        other = three(row | {"holiday": row["holiday"] + 2})
    np.testing.assert_array_equal(told, silent)
    assert not np.array_equal(told, other)


def test_rows_that_are_past_are_forgotten_and_more_may_come(informed, tmp_path) -> None:
    table, roles = hourly(1300, known="holiday")
    table["holiday"] = np.arange(1300) % 5.0
    forecaster = drawn(tmp_path / "run", {k: v[:60] for k, v in table.items()}, HORIZON, roles)
    rows = rows_of(table)
    at_once, by_parts = forecaster.stream(), forecaster.stream()
    at_once.known(rows)
    for step, row in enumerate(rows[:-HORIZON]):
        by_parts.known(rows[step : step + 1 + HORIZON])
        told, its = at_once(row), by_parts(row)
        if step % 100 == 99:
            np.testing.assert_array_equal(told, its)
    assert len(at_once._given[()].times) < 300


def test_without_a_clock_what_is_known_comes_in_order(tmp_path) -> None:
    table = {"y": np.arange(40.0) % 5, "price": np.random.default_rng(0).normal(size=40)}
    forecaster = drawn(tmp_path / "run", table, 3, {"target": "y", "known": "price"})
    history = {name: values[:20] for name, values in table.items()}
    future = {"price": table["price"][20:23]}
    expected = forecaster.predict(history, future=future)
    stream = forecaster.stream(history)
    stream.known(future)
    assert_close(stream.forecast()[:, 1], expected["q0.5"], 1.0)
    again = forecaster.stream({**table, "y": np.where(np.arange(40) < 20, table["y"], np.nan)})
    np.testing.assert_array_equal(again.forecast(), stream.forecast())
    stream.known({"price": table["price"][23:24]})
    told = stream({"y": table["y"][20]})
    longer = {name: values[:21] for name, values in table.items()}
    expected = forecaster.predict(longer, future={"price": table["price"][21:24]})
    assert_close(told[:, 1], expected["q0.5"], 1.0)


def test_without_all_that_is_known_ahead_nothing_is_said_and_nothing_taken(informed) -> None:
    forecaster, table = informed
    rows = rows_of(table)
    stream = forecaster.stream()
    stream.known(rows[: 3 + HORIZON])
    for row in rows[:3]:
        stream(row)
    before = stream.forecast()
    with pytest.raises(
        DataError,
        match=r"the row: 1 of the 5 rows after 2020-02-03 03:00:00 of the series are missing, from "
        r"2020-02-03 08:00:00 to 2020-02-03 08:00:00; expected what is known ahead, holiday, kind: "
        r"stream.known\(rows\) before",
    ):
        stream(rows[3])
    np.testing.assert_array_equal(stream.forecast(), before)
    stream(rows[3], known=rows[8:9])
    with pytest.raises(DataError, match=r"5 of the 5 rows after .* are missing"):
        forecaster.stream()(rows[0])
    with pytest.raises(DataError, match=r"5 of the 5 rows after .* are missing"):
        stream.known(rows[30:])
        stream(rows[20])


# --- What is refused -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Forecaster, dict[str, Any]]:
    table, roles = hourly(60)
    return drawn(tmp_path_factory.mktemp("plain") / "run", table, HORIZON, roles), table


def at(hour: float) -> dt.datetime:
    return dt.datetime(2020, 2, 3) + dt.timedelta(hours=hour)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"time": at(9), "y": 1.0}, "the row: the series has 2020-02-03 09:00:00 a second time"),
        ({"time": at(7), "y": 1.0}, "goes back from 2020-02-03 09:00:00 to 2020-02-03 07:00:00"),
        ({"time": at(10.5), "y": 1.0}, "10:30:00 lies between two steps; expected a row every hour"),
        ({"time": at(10 + LONGEST_GAP), "y": 1.0}, "10,000 steps of the series are missing before "
         "2021-03-26 .*, expected at most 10,000; stream.forget"),
        ({"time": None, "y": 1.0}, r"the column 'time' \(time\) is missing"),
        ({"time": 5, "y": 1.0}, "holds whole numbers, expected times without a zone"),
        ({"time": at(10), "y": "much"}, r"the column 'y' \(target\) has 'much', expected a number"),
        ({"time": at(10), "y": np.inf}, r"the column 'y' \(target\) has inf, expected a number"),
    ],
)  # fmt: skip
def test_a_row_that_cannot_be_is_refused_and_not_taken(plain, row, message) -> None:
    forecaster, table = plain
    stream = forecaster.stream()
    for each in rows_of(table)[:10]:
        stream(each)
    before = saved(stream)
    with pytest.raises(DataError, match=message):
        stream(row)
    after = saved(stream)
    for name, value in before.items():
        if isinstance(value, torch.Tensor):
            np.testing.assert_array_equal(after[name], value)
    assert np.isfinite(stream(rows_of(table)[10])).all()


def test_a_refused_first_row_begins_no_series(plain) -> None:
    stream = plain[0].stream()
    with pytest.raises(DataError):
        stream({"time": at(0), "y": "much"})
    assert stream.keys == []
    with pytest.raises(
        CallError, match="key: got none, expected one of a series of which a row has come"
    ):
        stream.forecast()


def test_within_a_day_a_second_row_is_refused(tmp_path) -> None:
    times = pd.date_range("2020-01-01", periods=40, freq="D")
    table = {"t": times, "y": np.arange(40.0)}
    stream = drawn(tmp_path / "run", table, 3, {"time": "t", "target": "y"}).stream(table)
    stream({"t": dt.datetime(2020, 2, 10), "y": 1.0})
    with pytest.raises(DataError, match="falls into the step of the row before"):
        stream({"t": dt.datetime(2020, 2, 10, 12), "y": 1.0})
    stream({"t": dt.datetime(2020, 2, 11), "y": 1.0})


def test_a_series_that_is_forgotten_begins_anew(case: Any) -> None:
    forecaster, table = case
    rows = in_turn(table)
    stream, other = forecaster.stream(), forecaster.stream()
    for one in (stream, other):
        one.known(table)
    for row in rows[:20]:
        stream(row)
    stream.forget("JFK")
    stream.known(table)
    assert stream.keys == [("LGA",)]
    for row in rows[20:40:2]:
        np.testing.assert_array_equal(stream(row), other(row))
    with pytest.raises(
        CallError, match="key: got 'EWR', expected one of a series of which a row has come: LGA"
    ):
        stream.forget("EWR")


def test_a_forecaster_that_is_not_fitted_has_no_stream() -> None:
    with pytest.raises(CallError, match="not fitted"):
        Forecaster(4).stream()


def test_levels_that_were_not_learnt_are_refused(plain) -> None:
    with pytest.raises(ValueError, match=r"quantiles: got 0.001, expected levels from 0.025"):
        plain[0].stream(quantiles=(0.001,))
    assert plain[0].stream(quantiles=(0.4, 0.6, 0.5)).levels == (0.4, 0.6, 0.5)


def test_where_nothing_can_be_known_ahead_nothing_is_given(plain) -> None:
    forecaster, table = plain
    with pytest.raises(CallError, match="known: got rows, expected none"):
        forecaster.stream().known(table)


def test_what_another_forecaster_has_seen_is_refused(plain, tmp_path) -> None:
    forecaster, table = plain
    other = Forecaster(HORIZON, **TINY).fit(table, time="time", target="y")
    with pytest.raises(CallError, match="saved: got the state of another forecaster"):
        other.stream().load_state_dict(forecaster.stream(table).state_dict())
    empty = forecaster.stream()
    empty.load_state_dict(saved(forecaster.stream()))
    assert empty.keys == []


def test_told_is_the_callers_own(plain) -> None:
    forecaster, table = plain
    stream = forecaster.stream()
    rows = rows_of(table)
    first = stream(rows[0])
    kept = first.copy()
    for row in rows[1:5]:
        stream(row)
    np.testing.assert_array_equal(first, kept)
