"""What a forecaster is trained on: windows of the training split alone, each step an origin."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.series.forecasting import ROLES, drawn, holed
from unrolled.errors import DataError
from unrolled.series.data import Roles, panel_of
from unrolled.series.feeds import ForecastFeed
from unrolled.series.run import ForecastRun

HOURS, HORIZON = 120, 5
TABLE = holed(HOURS, 0)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> ForecastRun:
    directory = tmp_path_factory.mktemp("feeds") / "run"
    return drawn(directory, TABLE, HORIZON, {**ROLES, "known": []}, batch_steps=96, season=4).run


def feed_of(run: ForecastRun, table: dict[str, np.ndarray]) -> ForecastFeed:
    return run.feed(run.model(), run.origins(panel_of(table, run.plan)))


def changed(first: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Other values from a step of each series on."""
    table = {name: values.copy() for name, values in TABLE.items()}
    rng = np.random.default_rng(seed)
    for k in range(2):
        rows = slice(k * HOURS + first, (k + 1) * HOURS)
        table["departures"][rows] = rng.normal(50, 20, HOURS - first)
        table["temp"][rows] = rng.normal(50, 20, HOURS - first)
    return table


def test_the_order_of_an_epoch_is_that_of_seed_and_epoch(run: ForecastRun) -> None:
    feed = feed_of(run, TABLE)
    items = list(feed.epoch(0, 0))
    assert len(items) == len(feed)
    for again, item in zip(feed.epoch(0, 0), items, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(again, item, strict=True))
    rest = list(feed.epoch(0, 2))
    assert all(np.array_equal(a.rows, b.rows) for a, b in zip(rest, items[2:], strict=True))
    other = list(feed.epoch(1, 0))
    assert not all(np.array_equal(a.rows, b.rows) for a, b in zip(other, items, strict=True))


def test_no_window_leaves_its_series_or_its_training_split(run: ForecastRun) -> None:
    feed = feed_of(run, TABLE)
    ends = feed.data.begins + feed.splits[:, 0]
    for item in (item for number in range(5) for item in feed.epoch(number, 0)):
        assert (item.rows >= feed.data.begins[item.series]).all()
        assert (item.rows < ends[item.series]).all()
        assert (np.diff(item.rows, axis=0) >= 0).all() and feed.count(item) == item.lengths.sum()


def test_training_sees_nothing_of_validation_and_test(run: ForecastRun) -> None:
    feeds = [feed_of(run, table) for table in (TABLE, changed(96))]
    assert feeds[0].splits.tolist() == [[96, 108]] * 2
    for number in range(3):
        for one, two in zip(*(feed.epoch(number, 0) for feed in feeds), strict=True):
            losses = []
            for feed, item in ((feeds[0], one), (feeds[1], two)):
                torch.manual_seed(0)
                losses.append(feed.loss(item).item())
            assert losses[0] == losses[1]


def test_validation_sees_nothing_of_the_test_split(run: ForecastRun) -> None:
    scores = [feed_of(run, table).scores() for table in (TABLE, changed(108), changed(107))]
    assert scores[0] == scores[1] and scores[0] != scores[2]
    values = TABLE["departures"].reshape(2, HOURS)
    known = sum(
        np.isfinite(values[:, step + 1 : min(step + 1 + HORIZON, 108)]).sum()
        for step in range(95, 107)
    )
    assert scores[0].forecasts == known and scores[0].count == known


def test_scores_are_those_of_the_same_forecasts_one_by_one(run: ForecastRun) -> None:
    feed = feed_of(run, TABLE)
    asked, data, model = feed.asked(), feed.data, feed.model
    losses, below = [], []
    for step, series in zip(*asked, strict=True):
        rows = data.begins[series] + np.arange(step + 1)
        window = data.read(rows[:, None])
        with torch.no_grad():
            states, _ = model.read(window.inputs, window.codes)
            ahead = data.ahead(rows[-1:], np.array([series]))
            given, around = model.parameters_of(states[-1], ahead)
            loss = model.distribution.loss(given, around, ahead.values)
            median = model.distribution.quantiles(given, around)[..., 4]
        inside = torch.arange(HORIZON)[None, :, None] < feed.splits[series, 1] - 1 - step
        there = inside & ~ahead.values.isnan()
        losses += loss[there].tolist()
        below += (ahead.values <= median)[there].tolist()
    scores = feed.scores()
    assert scores.forecast_loss == pytest.approx(np.mean(losses), rel=1e-5)
    assert scores.below_median == pytest.approx(np.mean(below))


def test_a_series_of_gaps_is_learnt_from(tmp_path: Path) -> None:
    table = {name: values.copy() for name, values in TABLE.items()}
    table["departures"][:] = np.nan
    table["departures"][[3, 40, 118, HOURS + 60]] = [4.0, 9.0, 2.0, 1.0]
    table["temp"][:] = np.nan
    run = drawn(tmp_path / "run", table, HORIZON, {**ROLES, "known": []}).run
    feed = feed_of(run, table)
    learnt = 0
    for item in feed.epoch(0, 0):
        loss = feed.loss(item)
        loss.backward()
        learnt += bool(loss.item())
        gradients = [w.grad for w in feed.model.parameters() if w.grad is not None]
        assert loss.isfinite() and all(g.isfinite().all() for g in gradients)
    assert learnt


def test_without_two_steps_there_is_nothing_to_learn(tmp_path: Path) -> None:
    table = {"key": np.array(["a", "b"]), "y": np.ones(2), "t": np.array([1, 2])}
    panel = panel_of(table, Roles("t", "y", series="key"), frequency=1)
    run = drawn(tmp_path / "run", TABLE, HORIZON, {**ROLES, "known": []}).run
    data = run.origins(panel_of(TABLE, run.plan))
    data.panel = panel
    with pytest.raises(DataError, match="no series has two steps for training, expected more rows"):
        ForecastFeed(run.model(), data, run.settings)
