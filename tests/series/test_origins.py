"""What the network is given at a step and at an origin, value by value."""

import math

import numpy as np
import pytest

from tests.series.forecasting import ROLES, drawn, holed
from unrolled.series.data import Roles, panel_of
from unrolled.series.data.origins import FURTHEST, Origins, seasons_of, statistics_of

HOURS, HORIZON, AHEAD, SEASON = 40, 4, 6, 5
TABLE = holed(HOURS + AHEAD, AHEAD)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Origins:
    run = drawn(tmp_path_factory.mktemp("origins") / "run", TABLE, HORIZON, season=SEASON).run
    return run.origins(panel_of(TABLE, run.plan, horizon=AHEAD))


def nan_to_0(value: float) -> float:
    return 0.0 if math.isnan(value) else value


def test_what_is_read_at_a_step_is_what_the_table_has_there(data: Origins) -> None:
    panel, plan = data.panel, data.panel.plan
    names = [*plan.past, *plan.known, *plan.static]
    assert names[:2] == ["temp", "holiday"] and names[-1] == "runways"
    statistics = {
        role: np.array(rows) for role, rows in zip(
            ("past", "known", "static"), statistics_of(panel_of(TABLE, plan)), strict=True
        )
    }  # fmt: skip
    for series in range(2):
        for step in range(HOURS):
            row = int(data.begins[series]) + step
            value, location, scale = (
                float(a[row, 0]) for a in (panel.targets, data.location, data.scale)
            )
            scaled = (value - location) / scale
            temp, known = panel.past[row, 0], panel.known[row]
            mean, spread = statistics["past"][0]
            away = (known - statistics["known"][:, 0]) / statistics["known"][:, 1]
            expected = [
                nan_to_0(scaled), float(not math.isnan(value)), math.asinh(location / scale),
                nan_to_0((temp - mean) / spread), float(not math.isnan(temp)),
                *map(nan_to_0, away.tolist()),
                (panel.static[series, 0] - statistics["static"][0, 0]) / statistics["static"][0, 1],
                panel.gaps[row], float(not math.isnan(value) or not math.isnan(temp)),
            ]  # fmt: skip
            window = data.read(np.array([[row]]))
            np.testing.assert_allclose(window.inputs[0, 0], expected, rtol=1e-6, atol=1e-6)
            codes = [*panel.past_codes[row], *panel.known_codes[row], *panel.static_codes[series]]
            assert window.codes[0, 0].tolist() == codes


def test_what_is_known_at_an_origin_is_what_was_and_what_is_known_ahead(data: Origins) -> None:
    panel, values = data.panel, data.values[:, 0]
    assert data.seasons == [SEASON, 7 * SEASON]
    for series in range(2):
        begin, end = int(data.begins[series]), int(data.ends[series])
        for origin in range(begin, begin + HOURS):
            ahead = data.ahead(np.array([origin]), np.array([series]))
            location, scale = data.location[origin, 0], data.scale[origin, 0]

            def scaled(row: int, begin: int = begin, location=location, scale=scale) -> float:
                if row < begin or math.isnan(values[row]):
                    return 0.0
                return float(np.clip((values[row] - location) / scale, -FURTHEST, FURTHEST))

            for h in range(1, HORIZON + 1):
                lags = [scaled(origin)]
                for season in data.seasons:
                    row = origin + h
                    while row > origin:
                        row -= season
                    lags.append(scaled(row))
                np.testing.assert_allclose(ahead.lags[0, h - 1, 0], lags, rtol=1e-6)
                row = origin + h
                np.testing.assert_array_equal(ahead.known[0, h - 1], data.known[row])
                assert ahead.known_codes[0, h - 1].tolist() == panel.known_codes[row].tolist()
                came = math.nan if math.isnan(values[row]) else scaled(row)
                np.testing.assert_allclose(ahead.values[0, h - 1, 0], came, rtol=1e-6)
            assert ahead.location.item() == np.float32(location)
            assert ahead.scale.item() == np.float32(scale)
        last = data.ahead(np.array([end - 2]), np.array([series]))
        assert (last.known[0, 1:] == 0).all() and (last.known_codes[0, 1:] == 0).all()
        assert last.values.isnan().all()


def test_of_irregular_times_the_gap_is_read(tmp_path) -> None:
    times = np.cumsum(np.random.default_rng(0).integers(1, 50, 30))
    table = {"t": times, "y": np.arange(30.0)}
    roles = {"time": "t", "target": "y"}
    run = drawn(tmp_path / "run", table, 2, roles, frequency=None).run
    data = run.origins(panel_of(table, run.plan))
    gaps = np.append(0, np.diff(times)) / run.plan.unit
    np.testing.assert_allclose(data.inputs[:, -2], gaps, rtol=1e-6)
    assert (data.inputs[:, -1] == 1).all()


@pytest.mark.parametrize(
    ("step", "season", "expected"),
    [
        ("h", None, [24, 168]),
        ("h", 1, []),
        ("D", None, [7]),
        ("MS", None, [12]),
        ("30min", 4, [4, 28]),
    ],
)
def test_seasons_are_those_of_the_frequency_and_of_the_week(step, season, expected) -> None:
    times = {"h": "h", "D": "D", "MS": "M", "30min": "30m"}[step]
    size = 30 if times == "30m" else 1
    unit = "m" if times == "30m" else times
    t = (np.datetime64("2020-01-01", unit) + size * np.arange(400)).astype("datetime64[ns]")
    plan = panel_of({"t": t, "y": np.ones(400)}, Roles("t", "y"), season=season).plan
    assert seasons_of(plan) == expected


def test_statistics_are_those_of_training(tmp_path) -> None:
    table = holed(HOURS + AHEAD, AHEAD)
    panel = panel_of(
        table, Roles(**{"targets" if k == "target" else k: v for k, v in ROLES.items()})
    )
    before = statistics_of(panel)
    for k in range(2):
        table["temp"][k * (HOURS + AHEAD) + 36 : (k + 1) * (HOURS + AHEAD)] = 1e9
    assert panel.splits()[0].tolist() == [32, 36]
    assert statistics_of(panel_of(table, panel.plan)) == before
    [[mean, spread]] = before.past
    trains = np.concatenate([table["temp"][:32], table["temp"][HOURS + AHEAD :][:32]])
    assert mean == pytest.approx(np.nanmean(trains)) and spread == pytest.approx(np.nanstd(trains))
    table["temp"][:] = 3.0
    assert statistics_of(panel_of(table, panel.plan)).past == [[3.0, 1.0]]
    table["temp"][:] = np.nan
    assert statistics_of(panel_of(table, panel.plan)).past == [[0.0, 1.0]]
