"""A back-test: its scores are those of its forecasts, and it says whether the naive forecast is better."""

import numpy as np
import pytest

from tests.series.forecasting import ROLES, drawn, holed, rows_of
from unrolled.errors import CallError
from unrolled.series import Forecaster
from unrolled.series.data import panel_of
from unrolled.series.models.distributions import LEVELS
from unrolled.series.scores import figures, seasonal_errors

HOURS, HORIZON, SEASON = 80, 4, 6
TABLE = holed(HOURS, 0)


@pytest.fixture(scope="module")
def forecaster(tmp_path_factory: pytest.TempPathFactory) -> Forecaster:
    roles = {**ROLES, "known": []}
    directory = tmp_path_factory.mktemp("backtest") / "run"
    return drawn(directory, TABLE, HORIZON, roles, season=SEASON, quantiles=LEVELS)


def test_its_scores_are_those_of_its_forecasts(forecaster: Forecaster) -> None:
    back = forecaster.backtest(TABLE, origins=10)
    values, errors, off = [], [], []
    for k in range(2):
        y = TABLE["departures"][k * HOURS : (k + 1) * HOURS]
        first = HOURS - HORIZON - 10
        each = seasonal_errors(y[: first + 1], SEASON)
        for origin in range(first, first + 10):
            values += y[origin + 1 : origin + 1 + HORIZON].tolist()
            errors += [each] * HORIZON
    quantiles = rows_of(back.forecasts)
    got = figures(np.array(values), quantiles, LEVELS, np.array(errors))
    assert got == back.scores and got.forecasts == int(np.isfinite(values).sum())
    off = np.abs(np.array(values) - quantiles[:, 4]) / np.array(errors)[:, 0]
    np.testing.assert_allclose(back.by_horizon, np.nanmean(off.reshape(20, HORIZON), 0), rtol=1e-12)
    assert back.scores.mase == pytest.approx(np.nanmean(off))


def test_origins_are_the_last_that_have_a_whole_future(forecaster: Forecaster) -> None:
    back = forecaster.backtest(TABLE, origins=3)
    cutoffs = back.forecasts["cutoff"].reshape(2, 3, HORIZON)
    last = TABLE["time"][HOURS - 1]
    expected = last - np.array([6, 5, 4]).astype("timedelta64[h]")
    assert (cutoffs == expected[None, :, None]).all()
    assert back.forecasts["time"].max() == last
    assert len(forecaster.backtest(TABLE, origins=10**6).forecasts["q0.5"]) == 2 * (HOURS - 4) * 4


def test_a_short_series_has_fewer_and_one_that_is_too_short_none(forecaster: Forecaster) -> None:
    keep = np.append(np.arange(HOURS), HOURS + np.arange(HORIZON + 2))
    table = {name: values[keep] for name, values in TABLE.items()}
    table["departures"][-1] = 5.0
    assert (
        len(rows_of(forecaster.backtest(table, origins=5).forecasts, origin="LGA")) == 2 * HORIZON
    )
    table = {name: values[keep[:-2]] for name, values in TABLE.items()}
    table["departures"][-1] = 5.0
    assert set(forecaster.backtest(table).forecasts["origin"]) == {"JFK"}
    with pytest.raises(
        CallError, match="horizon: got 90, expected fewer: no series has more than 80"
    ):
        forecaster.backtest(TABLE, horizon=90)


def test_it_goes_further_than_the_network_learnt(forecaster: Forecaster) -> None:
    far = forecaster.backtest(TABLE, origins=2, horizon=11)
    assert far.by_horizon.shape == (11,) and np.isfinite(rows_of(far.forecasts)).all()


def test_the_first_line_says_who_is_better(forecaster: Forecaster) -> None:
    back = forecaster.backtest(TABLE, origins=20)
    lines = str(back).splitlines()
    assert back.scores.mase > back.naive.mase  # nothing was learnt
    assert lines[0] == (
        f"it LOSES to the seasonal naive forecast: MASE {back.scores.mase:.3g}, "
        f"where that has {back.naive.mase:.3g}"
    )
    assert lines[1].split() == ["MASE", "RMSSE", "CRPS", "80", "%", "covers", "95", "%", "covers"]
    assert lines[2].startswith("network") and lines[3].startswith("seasonal naive")


def test_a_network_that_has_learnt_is_better_and_says_so() -> None:
    t = np.arange(600)
    y = 5 * np.sin(t * np.pi / 7.3) + np.random.default_rng(0).normal(size=600)
    frame = {"t": t, "y": y}
    forecaster = Forecaster(7, epochs=25, threads=1, test_share=0.2).fit(
        frame, time="t", target="y"
    )
    back = forecaster.backtest(frame, origins=110)
    assert str(back).startswith("better than the seasonal naive forecast by ")


def test_a_constant_series_has_no_scaled_error(tmp_path) -> None:
    frame = {"y": np.full(60, 5.0)}
    back = drawn(tmp_path / "run", frame, 3, {"target": "y"}).backtest(frame, origins=4)
    assert np.isnan([back.scores.mase, back.scores.rmsse, *back.by_horizon]).all()
    assert back.naive.crps == 0.0 and "LOSES to the seasonal naive forecast: CRPS" in str(back)


def test_of_zeros_there_is_nothing_to_compare_with(tmp_path) -> None:
    frame = {"y": np.zeros(60)}
    back = drawn(tmp_path / "run", frame, 3, {"target": "y"}).backtest(frame, origins=4)
    assert back.verdict() == "nothing to compare with: all that came is missing or 0"


def test_before_its_first_value_nothing_is_said_of_a_target_and_nothing_learnt(tmp_path) -> None:
    table = holed(HOURS, 0)
    table["delay"] = np.arange(2.0 * HOURS)
    table["delay"][: HOURS - 10] = np.nan
    table["delay"][HOURS:] = np.nan
    table["departures"][:60] = np.nan
    roles = {**ROLES, "known": [], "target": ["departures", "delay"]}
    forecaster = drawn(tmp_path / "run", table, HORIZON, roles)
    back = forecaster.backtest(table, origins=30)
    jfk, first = table["time"][:HOURS], 1 + int(np.isfinite(table["departures"]).argmax())
    for target, begin in (("departures", first - 1), ("delay", HOURS - 10)):
        told = rows_of(back.forecasts, origin="JFK", target=target).reshape(30, HORIZON, 3)
        steps = HOURS - HORIZON - 30 + np.arange(30)
        assert (np.isnan(told).all((1, 2)) == (steps < begin)).all()
        assert np.isfinite(told[steps >= begin]).all()
    assert np.isnan(rows_of(back.forecasts, origin="LGA", target="delay")).all()
    assert np.isfinite([back.scores.mase, back.scores.crps, back.naive.crps]).all()
    origins = back.forecasts["cutoff"][back.forecasts["origin"] == "JFK"]
    assert origins.min() == jfk[HOURS - HORIZON - 30]
    data = forecaster.run.origins(panel_of(table, forecaster.run.plan))
    before = data.ahead(np.array([10]), np.array([0]))
    assert before.values.isnan().all()
