"""How good forecasts are, beside the seasonal naive forecast."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ForecastFigures:
    """Means over all forecasts; NaN where there is none.

    ``mase``: the mean absolute error of the median, over that of the seasonal naive forecast one season
    ahead on the series' past (Hyndman & Koehler, "Another look at measures of forecast accuracy", 2006);
    ``rmsse``: the same of the root mean squared error. ``crps``: twice the mean pinball loss of all
    quantiles over the mean magnitude of the values, the weighted quantile loss. ``coverage``: of each
    central interval, by what it should be, the share of the values within.
    """

    mase: float
    rmsse: float
    crps: float
    coverage: dict[str, float]
    forecasts: int

    def record(self) -> dict[str, object]:
        """As JSON."""
        return asdict(self)


def seasonal_errors(values: Floats, season: int) -> tuple[float, float]:
    """Mean absolute and mean squared error of the seasonal naive forecast on ``values`` ``[T]``.

    >>> seasonal_errors(np.array([1.0, 2.0, 2.0, 5.0]), 2)
    (2.0, 5.0)
    """
    season = season if len(values) > season else 1
    errors = values[season:] - values[:-season] if len(values) > season else np.zeros(0)
    errors = errors[np.isfinite(errors)]
    if not len(errors):
        return np.nan, np.nan
    return float(np.abs(errors).mean()), float(np.square(errors).mean())


def figures(
    values: Floats, quantiles: Floats, levels: Sequence[float], errors: Floats
) -> ForecastFigures:
    """The figures of N forecasts.

    Args:
        values: ``[N]``, what came; NaN: it is not known.
        quantiles: ``[N, Q]``.
        levels: ``[Q]``, ascending and symmetric.
        errors: ``[N, 2]``, ``seasonal_errors`` of each one's series; where they are 0 or not known, the
            forecast does not count for MASE and RMSSE.
    """
    there = np.isfinite(values)
    values, quantiles, errors = values[there], quantiles[there], errors[there]
    if not len(values):
        return ForecastFigures(np.nan, np.nan, np.nan, {}, 0)
    levels_ = np.asarray(levels)
    median = quantiles[:, int(np.abs(levels_ - 0.5).argmin())]
    scaled = np.isfinite(errors).all(1) & (errors > 0).all(1)
    error = (values - median)[scaled]
    mase = float((np.abs(error) / errors[scaled, 0]).mean()) if scaled.any() else np.nan
    rmsse = (
        float(np.sqrt((np.square(error) / errors[scaled, 1]).mean())) if scaled.any() else np.nan
    )
    off = values[:, None] - quantiles
    pinball = np.maximum(levels_ * off, (levels_ - 1) * off).mean()
    magnitude = np.abs(values).mean()
    crps = float(2 * pinball / magnitude) if magnitude > 0 else np.nan
    coverage = {}
    for low in range(len(levels) // 2):
        share = levels[-1 - low] - levels[low]
        if abs(levels[low] + levels[-1 - low] - 1) < 1e-9:
            inside = (quantiles[:, low] <= values) & (values <= quantiles[:, -1 - low])
            coverage[f"{share:.3g}"] = float(inside.mean())
    return ForecastFigures(mase, rmsse, crps, coverage, len(values))


def seasonal_naive(
    values: Floats,
    origins: NDArray[np.int64],
    steps: int,
    season: int,
    before: Floats,
    levels: Sequence[float],
) -> Floats:
    """``[N, steps, targets, Q]``: the value of the last season that is known, and quantiles of its errors.

    Where no season is known it is the last value that is, and without one the mean of ``before``.

    Args:
        values: ``[T, targets]``, one series.
        origins: ``[N]``.
        steps: how many ahead.
        season: its steps.
        before: ``[t, targets]``, what is known before the first origin; its seasonal errors give the
            quantiles, wider by the root of the seasons ahead.
        levels: ``[Q]``.
    """
    ahead = np.arange(1, steps + 1)
    cycles = -(-ahead // season)
    rows = origins[:, None] + ahead - season * cycles
    point = np.where((rows >= 0)[..., None], _latest(values, season)[np.maximum(rows, 0)], np.nan)
    point = np.where(np.isnan(point), _latest(values, 1)[origins][:, None], point)
    apart = season if len(before) > season else 1
    result = np.empty((*point.shape, len(levels)))
    for target in range(values.shape[1]):
        seen = before[np.isfinite(before[:, target]), target]
        lacks = np.isnan(point[..., target])
        point[lacks, target] = seen.mean() if len(seen) else 0.0
        errors = before[apart:, target] - before[:-apart, target]
        errors = errors[np.isfinite(errors)]
        spread = np.quantile(errors, levels) if len(errors) else np.zeros(len(levels))
        spread = spread - spread[len(levels) // 2]
        result[:, :, target] = point[..., target, None] + spread * np.sqrt(cycles)[:, None]
    return result


def _latest(values: Floats, season: int) -> Floats:
    """Each missing value of ``[T, targets]`` by that of the last season in which it is not; or NaN."""
    count = -(-len(values) // season) * season
    rows = np.full((count, values.shape[1]), -1)
    rows[: len(values)] = np.where(np.isnan(values), -1, np.arange(len(values))[:, None])
    by_season = rows.reshape(-1, season, values.shape[1])
    last = np.maximum.accumulate(by_season, axis=0).reshape(rows.shape)[: len(values)]
    return np.where(last < 0, np.nan, np.take_along_axis(values, np.maximum(last, 0), axis=0))
