"""What is said at a step depends on nothing after it, but on what is known ahead; one pass is enough."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.series.forecasting import ROLES, drawn, holed
from unrolled.series import Forecaster
from unrolled.series.data import panel_of
from unrolled.series.passes import Asked
from unrolled.series.predicting import predicted

HOURS, HORIZON, FAR = 36, 5, 13
TABLE = holed(HOURS + FAR, FAR)
EXACT = 1e-5  # of a scale: float32, through a few products of 8 to 32 numbers each
KINDS = ["quantiles", "normal", "irregular", "two targets"]


def irregular(table: dict[str, Any]) -> dict[str, Any]:
    """The same at times that no frequency has."""
    gaps = np.random.default_rng(2).integers(1, 90, HOURS + FAR)
    time = np.datetime64("2013-03-12", "m") + np.cumsum(gaps)
    return table | {"time": np.tile(time.astype("datetime64[ns]"), 2)}


def table_of(kind: str) -> dict[str, Any]:
    table = {name: values.copy() for name, values in TABLE.items()}
    if kind == "two targets":
        delay = np.random.default_rng(3).normal(10, 4, 2 * (HOURS + FAR))
        table["delay"] = np.where(np.isnan(table["departures"]), np.nan, delay)
    return irregular(table) if kind == "irregular" else table


@pytest.fixture(scope="module", params=KINDS)
def case(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Forecaster, dict[str, Any]]:
    kind = request.param
    table, roles = table_of(kind), dict(ROLES)
    options: dict[str, Any] = {"season": 4}
    if kind == "two targets":
        roles["target"] = ["departures", "delay"]
    if kind == "irregular":
        options["frequency"] = None
    if kind == "normal":
        options |= {"distribution": "normal", "cell": "gru", "depth": 2}
    directory = tmp_path_factory.mktemp("causality") / "run"
    return drawn(directory, table, HORIZON, roles, **options), table


def said(forecaster: Forecaster, table: Any, steps: Any, horizon: int) -> np.ndarray:
    """What the first series is told at ``steps``: ``[N, horizon, targets, Q]``."""
    panel = panel_of(table, forecaster.run.plan, horizon=FAR)
    asked = Asked(np.array(steps), np.zeros(len(steps), np.int64))
    data = forecaster.run.origins(panel)
    return predicted(forecaster.network, forecaster.spread, data, asked, horizon)


def tolerance(forecaster: Forecaster, table: Any, step: int) -> float:
    data = forecaster.run.origins(panel_of(table, forecaster.run.plan, horizon=FAR))
    return EXACT * float(data.scale[step].max())


NUMBERS = st.one_of(st.just(np.nan), st.floats(-1e6, 1e6))


@pytest.mark.each_value
@pytest.mark.parametrize("horizon", [HORIZON, FAR])
@given(data=st.data())
def test_what_comes_after_an_origin_changes_nothing_that_is_said_there(case, horizon, data) -> None:
    forecaster, table = case
    step = data.draw(st.integers(0, HOURS - 1))
    changed = {name: values.copy() for name, values in table.items()}
    after = slice(step + 1, HOURS)
    size = HOURS - step - 1

    def draw(kind: Any) -> list[Any]:
        return data.draw(st.lists(kind, min_size=size, max_size=size))

    names = [name for name in ("departures", "delay", "temp") if name in changed]
    for name in names:
        changed[name][after] = draw(NUMBERS)
        changed[name][HOURS + FAR :] *= 3  # of the other series, all
    changed["sky"][after] = draw(st.sampled_from([None, "fog", "clear", "snow"]))
    if np.isnan(changed["departures"][: HOURS + FAR]).all():
        return  # a series without a value is refused
    length = panel_of(changed, forecaster.run.plan, horizon=FAR).lengths[0]
    if step >= length:
        return  # an origin after the last value, which does not end the history any more
    before, now = (said(forecaster, t, [step], horizon) for t in (table, changed))
    np.testing.assert_allclose(now, before, rtol=EXACT, atol=tolerance(forecaster, table, step))


def test_what_is_known_ahead_changes_what_is_said_of_its_step(case) -> None:
    forecaster, table = case
    step, ahead = 20, 3
    for name, value in (("holiday", 5.0), ("day", "work")):
        changed = {key: values.copy() for key, values in table.items()}
        assert changed[name][step + ahead] != value
        changed[name][step + ahead] = value
        before, now = (said(forecaster, t, [step], FAR)[0] for t in (table, changed))
        close = tolerance(forecaster, table, step)
        differs = (np.abs(now - before) > 10 * close).any((1, 2))
        assert differs[ahead - 1] and not differs[: ahead - 1].any()
        assert not differs[ahead:HORIZON].any()  # the others are read once they have come
        assert differs[HORIZON:].any()


def test_the_time_of_the_next_row_is_nothing_that_is_known(case) -> None:
    forecaster, table = case
    step = 20
    if forecaster.run.plan.frequency is not None:
        return
    changed = {key: values.copy() for key, values in table.items()}
    changed["time"][step + 1 : HOURS + FAR] += np.timedelta64(
        7, "D"
    )  # the same time of the same day
    before, now = (said(forecaster, t, [step], HORIZON)[0] for t in (table, changed))
    np.testing.assert_allclose(now, before, rtol=EXACT, atol=tolerance(forecaster, table, step))


@pytest.mark.each_value
@pytest.mark.parametrize("horizon", [HORIZON, FAR])
def test_one_pass_says_at_every_origin_what_is_said_when_all_is_read_anew(case, horizon) -> None:
    forecaster, table = case
    plan = forecaster.run.plan
    steps = np.arange(HOURS)
    at_once = said(forecaster, table, steps, horizon)
    tried = 0
    for step in steps:
        known = {key: values.copy() for key, values in table.items()}
        for name in ("departures", "delay", "temp"):
            if name in known:
                known[name][step + 1 : HOURS] = np.nan
        known["sky"][step + 1 : HOURS] = None
        if np.isnan([known[name][step] for name in plan.targets]).all():
            continue  # it is no row with which a history ends
        alone = {key: values[: step + 1 + horizon] for key, values in known.items()}
        told = forecaster.predict(
            alone, horizon=horizon, quantiles=forecaster.network.distribution.levels
        )
        anew = np.stack([told[name] for name in told if name.startswith("q")], axis=1)
        anew = np.moveaxis(anew.reshape(-1, horizon, anew.shape[1]), 0, 1)
        # Beyond the network's horizon what was said is read again, and rounds again, once a horizon.
        close = -(-horizon // HORIZON) * tolerance(forecaster, table, step)
        np.testing.assert_allclose(at_once[step], anew, rtol=EXACT, atol=close, err_msg=str(step))
        tried += 1
    assert tried > HOURS // 2


def test_the_tests_can_fail(case) -> None:
    forecaster, table = case
    changed = {key: values.copy() for key, values in table.items()}
    changed["departures"][21] = 40.0
    before, now = (said(forecaster, t, [21], HORIZON) for t in (table, changed))
    assert np.abs(now - before).max() > 100 * tolerance(forecaster, table, 21)


def test_series_beside_one_change_nothing_of_it(case) -> None:
    forecaster, table = case
    both = forecaster.predict(table, horizon=FAR)
    for origin in ("JFK", "LGA"):
        alone = forecaster.predict(
            {key: values[table["origin"] == origin] for key, values in table.items()}, horizon=FAR
        )
        here = both["origin"] == origin
        for name in (name for name in both if name.startswith("q")):
            np.testing.assert_allclose(both[name][here], alone[name], rtol=1e-5, atol=1e-4)
