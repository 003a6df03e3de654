"""Scores against numbers worked out by hand, and the seasonal naive forecast against a slow loop."""

import math

import numpy as np
import pytest

from unrolled.series.scores import figures, seasonal_errors, seasonal_naive

LEVELS = (0.1, 0.25, 0.5, 0.75, 0.9)


def test_seasonal_errors_are_those_of_the_season_before() -> None:
    values = np.array([1.0, 2.0, 4.0, math.nan, 5.0, 8.0])
    # of season 2: 3, none, 1, none
    assert seasonal_errors(values, 2) == (2.0, 5.0)
    # a series shorter than its season: of the step before, 1, 2, none, none, 3
    assert seasonal_errors(values, 6) == (2.0, pytest.approx(14 / 3))
    assert seasonal_errors(np.full(5, 3.0), 1) == (0.0, 0.0)
    for none in (np.zeros(1), np.zeros(0), np.full(4, math.nan)):
        assert np.isnan(seasonal_errors(none, 1)).all()


def test_figures_are_those_worked_out_by_hand() -> None:
    values = np.array([3.0, 5.0, -2.0])
    quantiles = np.array([[0.0, 1, 2, 3, 4], [4, 4.5, 6, 7, 8], [-2, -1.5, -1, 0, 1]])
    errors = np.array([[2.0, 4.0], [2.0, 4.0], [0.5, 1.0]])
    got = figures(values, quantiles, LEVELS, errors)
    # the medians are off by 1, -1, -1
    assert got.mase == pytest.approx((0.5 + 0.5 + 2.0) / 3)
    assert got.rmsse == pytest.approx(math.sqrt((0.25 + 0.25 + 1.0) / 3))
    pinball = [
        [0.3, 0.5, 0.5, 0.0, 0.1],  # off by 3, 2, 1, 0, -1
        [0.1, 0.125, 0.5, 0.5, 0.3],  # by 1, 0.5, -1, -2, -3
        [0.0, 0.375, 0.5, 0.5, 0.3],  # by 0, -0.5, -1, -2, -3
    ]
    assert got.crps == pytest.approx(2 * np.mean(pinball) / (10 / 3))
    assert got.coverage == {"0.8": 1.0, "0.5": pytest.approx(2 / 3)}
    assert got.forecasts == 3 and got.record()["forecasts"] == 3


def test_what_is_not_known_does_not_count() -> None:
    quantiles = np.tile([0.0, 1, 2, 3, 4], (4, 1))
    values = np.array([2.0, math.nan, 4.5, 3.0])
    errors = np.array([[1.0, 1.0], [1.0, 1.0], [math.nan, math.nan], [0.0, 0.0]])
    got = figures(values, quantiles, LEVELS, errors)
    assert got.forecasts == 3 and got.coverage["0.8"] == pytest.approx(2 / 3)
    assert (
        got.mase == 0.0 and got.rmsse == 0.0
    )  # of the first alone: of the others no error is known
    nothing = figures(values[1:2], quantiles[:1], LEVELS, errors[:1])
    assert nothing.forecasts == 0 and math.isnan(nothing.mase) and nothing.coverage == {}
    zeros = figures(np.zeros(2), quantiles[:2], LEVELS, errors[:2])
    assert math.isnan(zeros.crps) and zeros.mase == 2.0


def test_coverage_is_asked_of_levels_that_mirror_each_other_alone() -> None:
    got = figures(np.zeros(3), np.zeros((3, 3)), (0.1, 0.5, 0.8), np.ones((3, 2)))
    assert got.coverage == {}


def slowly(values, origins, steps, season, before, levels):
    """``seasonal_naive``, value by value."""
    told = np.empty((len(origins), steps, values.shape[1], len(levels)))
    for n, origin in enumerate(origins):
        for h in range(1, steps + 1):
            cycles = math.ceil(h / season)
            for k in range(values.shape[1]):
                row = origin + h - season * cycles
                rows = [*range(row, -1, -season), *range(origin, -1, -1)]
                known = [values[r, k] for r in rows if not math.isnan(values[r, k])]
                seen = before[:, k][~np.isnan(before[:, k])]
                point = known[0] if known else seen.mean() if len(seen) else 0.0
                apart = season if len(before) > season else 1
                errors = [before[t, k] - before[t - apart, k] for t in range(apart, len(before))]
                errors = [e for e in errors if not math.isnan(e)]
                spread = np.quantile(errors, levels) if errors else np.zeros(len(levels))
                told[n, h - 1, k] = point + (spread - spread[len(levels) // 2]) * math.sqrt(cycles)
    return told


@pytest.mark.parametrize("season", [1, 3, 7, 50])
def test_seasonal_naive_is_that_of_a_slow_loop(season: int) -> None:
    rng = np.random.default_rng(season)
    values = rng.normal(5, 2, (30, 2))
    values[rng.random((30, 2)) < 0.2] = math.nan
    origins = np.array([0, 4, 11, 25])
    for before in (values[:12], values[:1]):
        given = values, origins, 8, season, before, LEVELS
        np.testing.assert_allclose(seasonal_naive(*given), slowly(*given), rtol=1e-12)


def test_seasonal_naive_of_a_target_without_a_value_is_that_of_the_other_alone() -> None:
    values = np.stack([np.arange(10.0), np.full(10, math.nan)], axis=1)
    told = seasonal_naive(values, np.array([5]), 3, 2, values[:6], LEVELS)
    assert told[0, :, 0, 2].tolist() == [4.0, 5.0, 4.0] and (told[0, :, 1] == 0).all()
