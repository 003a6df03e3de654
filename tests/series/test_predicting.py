"""Quantiles at other levels, beyond the horizon, in the units of the table and as its columns."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from tests.series.forecasting import ROLES, drawn, holed, rows_of
from unrolled.series import Forecaster
from unrolled.series.data import panel_of
from unrolled.series.models.distributions import LEVELS
from unrolled.series.passes import Asked
from unrolled.series.predicting import at_levels, predicted

HOURS, AHEAD = 50, 60
TABLE = holed(HOURS + AHEAD, AHEAD)


def test_at_levels_that_are_known_nothing_is_calculated() -> None:
    quantiles = np.random.default_rng(0).normal(size=(4, 3, 9)).cumsum(-1)
    np.testing.assert_array_equal(
        at_levels(quantiles, LEVELS, (0.9, 0.025, 0.5)), quantiles[..., [6, 0, 4]]
    )


def test_between_them_a_normal_distribution_is_met_exactly() -> None:
    quantiles = stats.norm.ppf(LEVELS, 3, 2)[None]
    wanted = (0.03, 0.2, 0.3, 0.5, 0.77, 0.97)
    np.testing.assert_allclose(
        at_levels(quantiles, LEVELS, wanted)[0], stats.norm.ppf(wanted, 3, 2), rtol=1e-12
    )


def test_beyond_the_outermost_are_these() -> None:
    quantiles = np.arange(9.0)[None]
    assert at_levels(quantiles, LEVELS, (0.001, 0.999)).tolist() == [[0.0, 8.0]]


@given(st.lists(st.floats(0.001, 0.999), min_size=2, max_size=9), st.integers(0, 99))
def test_at_any_levels_none_crosses_another(wanted, seed) -> None:
    quantiles = np.random.default_rng(seed).exponential(size=(3, 9)).cumsum(-1)
    assert (np.diff(at_levels(quantiles, LEVELS, sorted(wanted))) >= -1e-12).all()


@pytest.fixture(scope="module")
def forecaster(tmp_path_factory: pytest.TempPathFactory) -> Forecaster:
    return drawn(tmp_path_factory.mktemp("predicting") / "run", TABLE, 24)


def test_beyond_what_it_learnt_it_says_as_much_and_the_first_part_is_the_same(forecaster) -> None:
    far = forecaster.predict(TABLE, horizon=60, quantiles=LEVELS)
    near = forecaster.predict(TABLE, quantiles=LEVELS)
    assert len(far["q0.5"]) == 120 and len(near["q0.5"]) == 48
    for origin in ("JFK", "LGA"):
        all_60, first = rows_of(far, origin=origin), rows_of(near, origin=origin)
        assert np.isfinite(all_60).all() and (np.diff(all_60) >= 0).all()
        np.testing.assert_allclose(all_60[:24], first, rtol=1e-5, atol=1e-4)
    hours = far["time"][:60].astype("datetime64[h]")
    assert (np.diff(hours) == np.timedelta64(1, "h")).all()
    assert hours[0] == TABLE["time"][HOURS].astype("datetime64[h]")


def test_less_than_it_learnt_is_the_first_part(forecaster) -> None:
    near, whole = forecaster.predict(TABLE, horizon=5), forecaster.predict(TABLE)
    first = np.tile(np.arange(24) < 5, 2)
    for name in near:
        np.testing.assert_array_equal(near[name], whole[name][first])


def test_uncertainty_grows_beyond_the_horizon_of_a_random_walk() -> None:
    steps = np.random.default_rng(0).normal(size=1500).cumsum() + 50
    frame = {"y": steps}
    forecaster = Forecaster(8, hidden_size=8, epochs=3, threads=1).fit(frame, target="y")
    told = forecaster.predict(frame, horizon=64)
    width = told["q0.9"] - told["q0.1"]
    # that of h steps is 2.56 √h; at 64 that of 8 times as wide as at 1, here at least 3 times
    assert width[63] > 1.5 * width[7] > 1.5 * width[0]
    assert list(told) == ["step", "q0.1", "q0.5", "q0.9"] and told["step"].tolist() == [
        *range(1500, 1564)
    ]


def test_a_small_change_of_a_large_value_is_not_rounded_away(tmp_path) -> None:
    y = 1e9 + np.random.default_rng(0).normal(size=300).round(3)
    frame = {"y": y}
    forecaster = drawn(tmp_path / "run", frame, 4, {"target": "y"})
    told, moved = (forecaster.predict({"y": y + c})["q0.5"] for c in (0.0, 0.25))
    assert told.dtype == np.float64 and len(np.unique(told)) == 4
    # float32 has no number between 1e9 and 1e9 + 64
    assert (told % 64 != 0).any() and (moved != told).any()


@pytest.mark.parametrize(
    ("changed", "keys"),
    [({}, ["origin"]), ({"series": ["origin", "sky"], "past": "temp"}, ["origin", "sky"])],
)
def test_the_frame_has_the_table_s_columns_by_their_names(tmp_path, changed, keys) -> None:
    table = holed(30, 0) | {"sky": np.repeat(["a", "b"], 30)}
    forecaster = drawn(tmp_path / "run", table, 3, {**ROLES, "known": [], **changed})
    told, back = forecaster.predict(table), forecaster.backtest(table, origins=2).forecasts
    assert list(told) == [*keys, "time", "q0.1", "q0.5", "q0.9"]
    assert list(back) == [*keys, "cutoff", "time", "q0.1", "q0.5", "q0.9"]
    assert (told["time"] > table["time"].max()).all()
    assert (back["time"] - back["cutoff"]).tolist() == [3600 * 10**9 * h for h in (1, 2, 3)] * 4


def test_of_several_targets_each_has_its_rows(tmp_path) -> None:
    table = holed(30, 0) | {"delay": np.arange(60.0)}
    roles = {**ROLES, "known": [], "target": ["departures", "delay"]}
    forecaster = drawn(tmp_path / "run", table, 3, roles)
    told = forecaster.predict(table)
    assert list(told) == ["origin", "time", "target", "q0.1", "q0.5", "q0.9"]
    assert told["origin"].tolist() == ["JFK"] * 6 + ["LGA"] * 6
    assert told["target"].tolist() == (["departures"] * 3 + ["delay"] * 3) * 2
    alone = forecaster.run.origins(panel_of(table, forecaster.run.plan, horizon=3))
    asked = Asked(alone.lengths - 1, np.arange(2))
    values = predicted(forecaster.network, forecaster.spread, alone, asked, 3)
    middle = list(forecaster.network.distribution.levels).index(0.5)
    np.testing.assert_array_equal(told["q0.5"].reshape(2, 2, 3), values[..., middle].swapaxes(1, 2))


def test_columns_that_are_added_give_way_to_the_table_s_own(tmp_path) -> None:
    table = {
        "cutoff": np.repeat(["a", "b"], 20), "target": np.repeat(["c", "d"], 20),
        "step": np.repeat(["e", "f"], 20), "y": np.arange(40.0), "z": np.arange(40.0),
    }  # fmt: skip
    roles = {"series": ["cutoff", "target", "step"], "target": ["y", "z"]}
    forecaster = drawn(tmp_path / "run", table, 2, roles)
    back = forecaster.backtest(table, origins=1).forecasts
    assert list(back)[:6] == ["cutoff", "target", "step", "cutoff_", "step_", "target_"]
    assert back["cutoff"].tolist() == ["a"] * 4 + ["b"] * 4
    assert back["cutoff_"].tolist() == [17] * 8 and back["step_"].tolist() == [18, 19] * 4
    assert back["target_"].tolist() == ["y", "y", "z", "z"] * 2


def test_counts_are_whole_numbers_from_0(tmp_path) -> None:
    table = holed(40, 0)
    roles = {**ROLES, "known": []}
    forecaster = drawn(tmp_path / "run", table, 30, roles, distribution="negative-binomial")
    told = rows_of(forecaster.predict(table, horizon=70))
    assert (told == np.rint(told)).all() and (told >= 0).all() and (np.diff(told) >= 0).all()
