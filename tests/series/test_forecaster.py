"""The forecaster as a user meets it: frames, runs, what is resumed, what is refused."""

import datetime as dt
import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch

from tests.series.forecasting import ROLES, TINY, drawn, holed, rows_of
from unrolled.errors import CallError, DataError, RunError
from unrolled.series import Forecaster
from unrolled.series.forecaster import RECIPE, calibrate
from unrolled.series.run import ForecastRun
from unrolled.training import Callback, Trainer

HOURS, HORIZON = 120, 6
TABLE = holed(HOURS + HORIZON, HORIZON)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Forecaster:
    out = tmp_path_factory.mktemp("fitted") / "run"
    return Forecaster(HORIZON, out=out, **TINY).fit(TABLE, **ROLES)


def test_what_it_says_is_near_what_it_has_learnt_from(fitted: Forecaster) -> None:
    told = rows_of(fitted.predict(TABLE))
    assert told.shape == (2 * HORIZON, 3) and (np.diff(told) >= 0).all()
    assert (told[:, 1] > 0).all() and (told[:, 1] < 20).all()  # about 9 an hour


@pytest.mark.parametrize("kind", [pd.DataFrame, pl.DataFrame, dict, "arrow"])
def test_a_frame_of_any_library_gives_one_of_the_same(fitted: Forecaster, kind: Any) -> None:
    expected = fitted.predict(TABLE)
    frame = pl.DataFrame(TABLE).to_arrow() if kind == "arrow" else kind(TABLE)
    told = fitted.predict(frame)
    assert type(told) is type(frame)
    columns = told if kind is dict else told.to_pandas() if kind == "arrow" else told
    assert (
        list(columns) == list(expected) if kind is dict else list(columns.columns) == list(expected)
    )
    for name, values in expected.items():
        np.testing.assert_array_equal(np.asarray(columns[name]), values)
    if kind is pd.DataFrame:
        assert told["time"].dtype == frame["time"].dtype
        assert [told[name].dtype for name in told if name[0] == "q"] == ["float64"] * 3
    if kind is pl.DataFrame:
        assert told.schema["time"] == frame.schema["time"]


def test_levels_may_be_asked_for_and_lie_between_those_that_were_learnt(fitted: Forecaster) -> None:
    told = fitted.predict(TABLE, quantiles=(0.3, 0.05, 0.25, 0.5))
    assert list(told)[2:] == ["q0.3", "q0.05", "q0.25", "q0.5"]
    assert (told["q0.25"] <= told["q0.3"]).all() and (told["q0.3"] <= told["q0.5"]).all()
    with pytest.raises(
        ValueError, match=r"quantiles: got 0.99, expected levels from 0.025 to 0.975"
    ):
        fitted.predict(TABLE, quantiles=(0.5, 0.99))


def test_other_series_are_forecast_too(fitted: Forecaster) -> None:
    other = {name: values[HOURS + HORIZON :].copy() for name, values in TABLE.items()}
    other["origin"] = np.full(HOURS + HORIZON, "EWR", dtype=object)
    told, known = fitted.predict(other), fitted.predict(TABLE)
    assert set(told["origin"]) == {"EWR"}
    np.testing.assert_allclose(rows_of(told), rows_of(known, origin="LGA"), rtol=1e-5)


def test_one_row_is_a_history(fitted: Forecaster) -> None:
    keep = np.arange(HOURS - 1, HOURS + HORIZON)
    told = fitted.predict({name: values[keep] for name, values in TABLE.items()})
    assert np.isfinite(rows_of(told)).all()


def test_the_future_may_be_a_frame_of_its_own(fitted: Forecaster) -> None:
    ahead = np.isnan(TABLE["departures"]) & (np.arange(len(TABLE["time"])) % 126 >= HOURS)
    history = {name: values[~ahead] for name, values in TABLE.items()}
    future = {name: TABLE[name][ahead] for name in ("origin", "time", "holiday", "day")}
    np.testing.assert_array_equal(
        rows_of(fitted.predict(history, future=future)), rows_of(fitted.predict(TABLE))
    )


def test_loaded_it_says_the_same_to_the_bit(fitted: Forecaster) -> None:
    loaded = Forecaster.load(fitted.run.directory)
    for horizon in (None, 2, 15):
        table = holed(HOURS + 15, 15)
        told, expected = (f.predict(table, horizon=horizon) for f in (loaded, fitted))
        assert list(told) == list(expected)
        for name in told:
            np.testing.assert_array_equal(told[name], expected[name])
    mine, its = vars(loaded), vars(fitted)
    for name in (
        "horizon",
        "quantiles",
        "cell",
        "hidden_size",
        "depth",
        "distribution",
        "epochs",
        "seed",
    ):
        assert mine[name] == its[name]
    assert loaded.run.plan == fitted.run.plan


def test_all_that_a_run_holds_is_data(fitted: Forecaster) -> None:
    names = sorted(path.name for path in fitted.run.directory.rglob("*") if path.is_file())
    assert names == [".lock", "calibration.json", "config.json", "panel.safetensors",
                     "training.safetensors", "weights.safetensors"]  # fmt: skip
    config = json.loads((fitted.run.directory / "config.json").read_text())
    assert config["kind"] == "forecast" and config["command"]["horizon"] == HORIZON
    assert config["command"]["optimizer"] == RECIPE["optimizer"]


class Stopping(Callback):
    """Stops a training, as Ctrl-C does, after a step."""

    def __init__(self, step: int) -> None:
        self.at = step

    def step(self, done: Any) -> None:
        if done.step == self.at:
            raise KeyboardInterrupt


@pytest.mark.parametrize("stop", [1, 4])
def test_a_resumed_run_equals_a_straight_one_to_the_bit(tmp_path: Path, stop: int) -> None:
    options = {**TINY, "epochs": 2, "batch_steps": 64}
    straight = Forecaster(HORIZON, out=tmp_path / "straight", **options).fit(TABLE, **ROLES)
    stopped = Forecaster(HORIZON, out=tmp_path / "stopped", **options)
    with pytest.raises(KeyboardInterrupt):
        stopped.fit(TABLE, callbacks=(Stopping(stop),), **ROLES)
    torch.manual_seed(7)  # whatever a new process begins with
    run = ForecastRun(tmp_path / "stopped")
    trainer = Trainer(run)
    trainer.restore()
    trainer.train()
    calibrate(run, trainer.data)
    told = [f.predict(TABLE) for f in (straight, Forecaster.load(tmp_path / "stopped"))]
    for name in told[0]:
        np.testing.assert_array_equal(told[0][name], told[1][name])
    files = [
        (tmp_path / name / "weights.safetensors").read_bytes() for name in ("straight", "stopped")
    ]
    assert files[0] == files[1]


def test_the_same_seed_gives_the_same_and_another_another() -> None:
    told = [
        rows_of(Forecaster(HORIZON, **TINY, seed=seed).fit(TABLE, **ROLES).predict(TABLE))
        for seed in (3, 3, 4)
    ]
    assert np.array_equal(told[0], told[1]) and not np.array_equal(told[0], told[2])


def test_a_pickled_forecaster_says_the_same(fitted: Forecaster) -> None:
    again = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(rows_of(again.predict(TABLE)), rows_of(fitted.predict(TABLE)))


def test_a_temporary_run_is_gone_with_its_forecaster() -> None:
    forecaster = Forecaster(HORIZON, **TINY).fit(TABLE, **ROLES)
    first = forecaster.run.directory
    assert first.exists()
    forecaster.fit(TABLE, **ROLES)
    second = forecaster.run.directory
    assert not first.exists() and second.exists()
    del forecaster
    assert not second.exists()


def test_a_time_with_a_zone_stays_in_it() -> None:
    zone = "Europe/Berlin"
    time = pd.date_range("2020-03-25", periods=120, freq="h", tz=zone)  # over a change of the clock
    frame = pd.DataFrame({"time": time, "y": np.sin(np.arange(120.0) / 4)})
    told = Forecaster(4, **TINY).fit(frame, time="time", target="y").predict(frame)
    assert told["time"].dtype == frame["time"].dtype
    assert told["time"].tolist() == [time[-1] + pd.Timedelta(hours=h) for h in (1, 2, 3, 4)]


def test_days_are_days() -> None:
    days = [dt.date(2020, 1, 1) + dt.timedelta(days=k) for k in range(60)]
    frame = pl.DataFrame({"day": days, "y": np.arange(60.0) % 7})
    told = Forecaster(3, **TINY).fit(frame, time="day", target="y").predict(frame)
    assert told["day"].to_list() == [dt.date(2020, 3, k) for k in (1, 2, 3)]


@pytest.mark.parametrize(
    "values",
    [np.full(60, 5.0), np.zeros(60), np.append(np.full(59, np.nan), 3.0), np.arange(60.0) * 1e20],
    ids=["constant", "zeros", "one value", "large"],
)
def test_of_any_series_something_finite_is_said(values: np.ndarray) -> None:
    frame = {"t": np.arange(60), "y": values}
    told = Forecaster(4, **TINY).fit(frame, time="t", target="y").predict(frame, horizon=9)
    assert np.isfinite(rows_of(told)).all() and (np.diff(rows_of(told)) >= 0).all()


@pytest.mark.parametrize("steps", [2, 3, 5, 9])
def test_a_series_shorter_than_the_horizon_is_learnt_from(steps: int) -> None:
    frame = {"t": np.arange(steps), "y": np.arange(float(steps))}
    told = Forecaster(HORIZON, **TINY).fit(frame, time="t", target="y").predict(frame)
    assert told["t"].tolist() == list(range(steps, steps + HORIZON))
    assert np.isfinite(rows_of(told)).all()


def test_without_a_validation_share_it_trains_to_the_end() -> None:
    forecaster = Forecaster(HORIZON, validation_share=0.0, **TINY).fit(TABLE, **ROLES)
    assert np.isfinite(rows_of(forecaster.predict(TABLE))).all()
    assert forecaster.spread.tolist() == [1.0] * 9


Y = {"t": np.arange(60), "y": np.arange(60.0), "temp": np.zeros(60)}


@pytest.mark.parametrize(
    ("changed", "roles", "message"),
    [
        ({}, {"target": "yy"}, "no column 'yy' \\(target\\), expected one of .* did you mean 'y'"),
        ({}, {"past": "tmp"}, "no column 'tmp' \\(past\\), .* did you mean 'temp'"),
        ({}, {"time": "time"}, "no column 'time' \\(time\\)"),
        ({}, {"past": "y"}, "past: got 'y', which is given as target too"),
        (
            {},
            {"categories": "y"},
            "categories: got 'y', expected a column of known, past or static",
        ),
        (
            {"y": np.full(60, np.nan)},
            {},
            "the column 'y' \\(target\\) has no value, expected numbers",
        ),
        (
            {"y": np.where(np.arange(60) == 7, np.inf, 1.0)},
            {},
            "row 7: .* has inf, expected a number",
        ),
        ({"y": np.array(["a"] * 60)}, {}, "row 0: .* has 'a', expected a number"),
        ({"t": np.arange(60) // 2}, {}, "row 1: the series has 0 a second time"),
        ({"t": np.arange(60)[::-1]}, {}, "row 1: the series goes back from 59 to 58"),
        ({"t": np.arange(0), "y": np.zeros(0), "temp": np.zeros(0)}, {}, "no rows"),
        (
            {"t": np.arange(1), "y": np.zeros(1), "temp": np.zeros(1)},
            {},
            "every series has one row",
        ),
    ],
)
def test_a_table_that_cannot_be_learnt_from_is_refused(changed, roles, message) -> None:
    with pytest.raises((CallError, DataError), match=message):
        Forecaster(4, **TINY).fit({**Y, **changed}, **{"time": "t", "target": "y", **roles})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"horizon": 0}, "horizon: got 0, expected at least 1"),
        ({"horizon": 2.5}, "horizon: got 2.5, expected a whole number"),
        ({"quantiles": ()}, "quantiles: got none, expected levels between 0 and 1"),
        ({"quantiles": (0.1, 1.0)}, "quantiles: got 1.0, expected levels between 0 and 1"),
        ({"quantiles": 0.5}, "quantiles: got 0.5, expected levels between 0 and 1"),
        ({"quantiles": "0.5"}, "quantiles: got '0.5', expected levels"),
        ({"quantiles": (True,)}, "quantiles: got True, expected levels"),
        ({"cell": "lstmm"}, "cell: got 'lstmm', expected one of elman, lstm, gru"),
        ({"distribution": "gauss"}, "distribution: got 'gauss', expected one of quantiles, normal"),
        ({"minutes": 1, "epochs": 1}, "minutes: got 1 with epochs=1, expected one of them"),
        ({"validation_share": 1.0}, "validation_share: got 1.0, expected a number from 0"),
        ({"threads": 0}, "threads: got 0, expected at least 1"),
    ],
)
def test_an_argument_that_cannot_be_is_refused_at_once(options, message) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        Forecaster(**{"horizon": 4, **options})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden_size": 0}, "hidden_size: got 0, expected at least 1"),
        ({"depth": -1}, "depth: got -1, expected at least 1"),
        ({"dropout": 1.0}, "dropout: got 1.0, expected a number from 0"),
        ({"learning_rate": 0}, "learning_rate: got 0, expected a finite number above 0"),
        ({"epochs": -1}, "epochs: got -1, expected a finite number above 0"),
        ({"season": 0}, "season: got 0, expected at least 1"),
        ({"batch_steps": 0}, "batch_steps: got 0, expected at least 1"),
        ({"seed": -1}, "seed: got -1, expected at least 0"),
        ({"distribution": "negative-binomial"}, "distribution: got .* for the target 'y', which is not a "
         "count \\(it is -1 to 58\\)"),
    ],
)  # fmt: skip
def test_an_argument_that_cannot_serve_is_refused_before_training(
    tmp_path, options, message
) -> None:
    out = tmp_path / "run"
    with pytest.raises((ValueError, CallError), match=message):
        Forecaster(4, out=out, **{**TINY, **options}).fit(
            Y | {"y": Y["y"] - 1}, time="t", target="y"
        )
    assert not out.exists()


def test_what_is_not_fitted_says_so() -> None:
    forecaster = Forecaster(4)
    for call in (forecaster.predict, forecaster.backtest):
        with pytest.raises(
            CallError, match="not fitted, expected fit\\(…\\) or load\\(…\\) before"
        ):
            call(Y)


def test_bad_requests_of_a_fitted_one_are_refused(fitted: Forecaster) -> None:
    with pytest.raises(ValueError, match="horizon: got 0, expected at least 1"):
        fitted.predict(TABLE, horizon=0)
    with pytest.raises(ValueError, match="quantiles: got 2, expected levels between 0 and 1"):
        fitted.predict(TABLE, quantiles=(2,))
    with pytest.raises(ValueError, match="origins: got 0, expected at least 1"):
        fitted.backtest(TABLE, origins=0)
    with pytest.raises(DataError, match="no column 'temp' \\(past\\)"):
        fitted.predict({name: v for name, v in TABLE.items() if name != "temp"})
    with pytest.raises(
        DataError, match="1 of the 7 rows after the last target of the series JFK are missing"
    ):
        fitted.predict(TABLE, horizon=7)
    with pytest.raises(CallError, match="the frame: got list, expected a frame of pandas, polars"):
        fitted.predict([1, 2])


def test_a_run_that_is_there_is_not_written_over(fitted: Forecaster) -> None:
    again = Forecaster(HORIZON, out=fitted.run.directory, **TINY)
    with pytest.raises(CallError, match="already holds a run"):
        again.fit(TABLE, **ROLES)


def test_what_is_no_run_or_damaged_is_not_loaded(fitted: Forecaster, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no such directory"):
        Forecaster.load(tmp_path / "none")
    damaged = tmp_path / "damaged"
    shutil.copytree(fitted.run.directory, damaged)
    (damaged / "calibration.json").write_text('{"spread": [1, 2]}')
    with pytest.raises(RunError, match="damaged, expected 9 numbers under 'spread'"):
        Forecaster.load(damaged)
    (damaged / "calibration.json").unlink()
    (damaged / "data" / "panel.safetensors").write_bytes(b"12345678")
    loaded = Forecaster.load(damaged)  # which needs no panel to forecast
    assert loaded.spread.tolist() == [1.0] * 9
    with pytest.raises(RunError, match=r"panel.safetensors: damaged"):
        loaded.run.panel()


def test_many_series_at_once(tmp_path: Path) -> None:
    count, steps = 3000, 8
    frame = {
        "key": np.repeat(np.arange(count), steps), "t": np.tile(np.arange(steps), count),
        "y": np.random.default_rng(0).normal(size=count * steps),
    }  # fmt: skip
    forecaster = drawn(tmp_path / "run", frame, 3, {"time": "t", "series": "key", "target": "y"})
    assert len(forecaster.predict(frame)["q0.5"]) == 3 * count
    back = forecaster.backtest(frame, origins=2)
    assert back.scores.forecasts == 6 * count
