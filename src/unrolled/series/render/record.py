"""What a page of forecasts shows, as data: of some series all, of the others their scores.

Lists in it are columns, an entry a step; NaN is ``None``, a number has six digits.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from unrolled.series.backtest import Backtest
from unrolled.series.data import Panel
from unrolled.series.data.clock import FRACTION
from unrolled.series.forecast import Forecast
from unrolled.series.scores import seasonal_errors, seasonal_naive

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Record = dict[str, Any]

SERIES = 24  # of which a back-test shows all
ORIGINS = 1000  # of each of these, the last ones
FANS = 40  # of these, whose whole forecasts are shown
FORECASTS = 200  # series of a forecast
ROOM = 1_500_000  # numbers on a page
SHARES = (0.5, 0.8, 0.95)  # of the central intervals
JUDGED = (0.8, 0.95)  # those whose coverage is shown
LAGS = 72  # of an autocorrelation, at most
BINS = 8, 40  # of a histogram
DIGITS = 6
MILLISECOND = 10**6  # nanoseconds


def short(values: Any) -> Any:
    """Numbers as lists, to six digits, ``None`` for what is not finite.

    >>> short(np.array([[1 / 3, np.nan], [123456789.0, 0.0]]))
    [[0.333333, None], [123457000.0, 0.0]]
    """
    values = np.asarray(values, np.float64)
    finite = np.isfinite(values)
    size = np.abs(np.where(finite & (values != 0), values, 1.0))
    power = DIGITS - 1 - np.floor(np.log10(size))
    up, down = 10.0 ** np.clip(power, 0, 300), 10.0 ** np.clip(-power, 0, 300)
    rounded = np.rint(np.where(finite, values, 0.0) / down * up) / up * down
    found: Any = np.where(finite, rounded.astype(object), None)
    return found.tolist()


def evenly(count: int, most: int) -> Integers:
    """``most`` of ``count`` places at most, evenly chosen, the first and the last among them."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.int64))


def times_of(panel: Panel, times: Integers) -> Record:
    """Times as a page has them: local ones in milliseconds; the first and the step if it is always one."""
    clock = panel.clock
    if clock.is_calendar:
        numbers: Any = clock.local(times) // MILLISECOND
    else:
        numbers = times / FRACTION if clock.kind == "fractions" else times
    steps = np.diff(numbers)
    if len(steps) and (steps == steps[0]).all():
        return {"first": numbers[0].item(), "step": steps[0].item(), "count": len(numbers)}
    return {"each": numbers.tolist()}


def axis_of(panel: Panel) -> Record:
    """What stands on the axis of times: whether a calendar's, and the name of the column."""
    return {"is_calendar": panel.clock.is_calendar, "name": panel.plan.roles.time or "step"}


def name_of(panel: Panel, series: int, target: int) -> str:
    """A series and a target, as far as there are several."""
    targets = panel.plan.targets
    parts = [" / ".join(panel.keys[series])] if panel.keys[series] else []
    parts += [targets[target]] if len(targets) > 1 or not parts else []
    return ", ".join(parts)


class Bounds(NamedTuple):
    """Which columns of quantiles are the median and the ends of each central interval."""

    median: int
    intervals: dict[float, tuple[int, int]]

    @classmethod
    def of(cls, levels: Sequence[float], shares: Sequence[float] = SHARES) -> "Bounds":
        """Those among ``levels``; shares without both ends are left out."""
        place = {round(level, 6): k for k, level in enumerate(levels)}
        ends = {
            share: (place.get(round((1 - share) / 2, 6)), place.get(round((1 + share) / 2, 6)))
            for share in shares
        }
        return cls(
            place[0.5],
            {s: (low, up) for s, (low, up) in ends.items() if low is not None and up is not None},
        )

    def columns(self, told: Floats) -> Record:
        """Columns of quantiles ``[T, Q]``: the median, and of each interval "low80" and "high80"."""
        found = {"median": short(told[:, self.median])}
        for share, (low, high) in self.intervals.items():
            found[f"low{share * 100:g}"] = short(told[:, low])
            found[f"high{share * 100:g}"] = short(told[:, high])
        return found


# --- A back-test ---------------------------------------------------------------------------------


def backtest_record(test: Backtest) -> Record:
    """What the page of a back-test shows."""
    panel, bounds = test.data.panel, Bounds.of(test.levels)
    horizon, targets = test.told.shape[1:3]
    sums = {name: np.zeros(horizon) for name in ("network", "naive", "counted")}
    covered = {share: np.zeros(horizon) for share in JUDGED}
    came = np.zeros(horizon)
    lines = []
    for one in _each_series(test):
        off, of_naive = (np.abs(one.values - u) for u in (one.told[..., bounds.median], one.naive))
        there = np.isfinite(one.values)
        came += there.sum((0, 2))
        for share in JUDGED:
            low, high = (one.told[..., k] for k in bounds.intervals[share])
            covered[share] += (there & (low <= one.values) & (one.values <= high)).sum((0, 2))
        for target in range(targets):
            unit = one.unit[target]
            if not unit > 0:
                lines.append((one.series, target, np.nan, np.nan))
                continue
            scaled = [np.where(there, u, 0.0)[..., target] / unit for u in (off, of_naive)]
            counted = there[..., target]
            for name, values in zip(sums, (*scaled, counted), strict=True):
                sums[name] += values.sum(0)
            means = [float(u.sum() / counted.sum()) if counted.any() else np.nan for u in scaled]
            lines.append((one.series, target, *means))
    with np.errstate(invalid="ignore", divide="ignore"):
        by_horizon = {name: short(sums[name] / sums["counted"]) for name in ("network", "naive")}
        coverage = {f"{share * 100:g}": short(n / came) for share, n in covered.items()}
    chosen = _chosen(lines)
    aheads = sorted({1, -(-horizon // 4), -(-horizon // 2), horizon})
    return {
        "verdict": test.verdict(),
        "loses": bool(test.naive.mase <= test.scores.mase),
        "scores": {"network": test.scores, "naive": test.naive},
        "facts": {
            "panels": len(lines),
            "series": len({line[0] for line in lines}),
            "targets": panel.plan.targets,
            "origins": int(np.bincount(test.asked.series).max()),
            "horizon": horizon,
            "season": panel.plan.season,
            "frequency": _frequency(panel),
            "ends": _ends(test),
        },
        "time": axis_of(panel),
        "by_horizon": by_horizon,
        "coverage": coverage,
        "aheads": aheads,
        "series": _panels(test, bounds, aheads, [lines[k] for k in chosen]),
        "typical": _typical([lines[k] for k in chosen]),
    }


def _frequency(panel: Panel) -> str:
    frequency = panel.plan.frequency
    return "" if frequency is None else panel.clock.every(frequency)


def _ends(test: Backtest) -> list[str]:
    """The first and the last origin, in words."""
    panel = test.data.panel
    times = panel.times[panel.offsets[:-1][test.asked.series] + test.asked.steps]
    texts = panel.clock.texts(np.array([times.min(), times.max()]))
    is_whole = panel.clock.is_calendar and all(text.endswith(":00") for text in texts)
    return [text[:-3] for text in texts] if is_whole else texts


class _One(NamedTuple):
    """The origins of one series, in order; ``values`` and ``naive`` ``[n, horizon, targets]``."""

    series: int
    steps: Integers
    values: Floats
    told: Floats
    naive: Floats
    unit: list[float]


def _each_series(test: Backtest) -> Any:
    wanted, counts = np.unique(test.asked.series, return_counts=True)
    places = np.split(np.argsort(test.asked.series, kind="stable"), np.cumsum(counts)[:-1])
    for series, mine in zip(wanted.tolist(), places, strict=True):
        yield _of_series(test, series, mine)


def _of_series(test: Backtest, series: int, places: Integers) -> _One:
    places = places[np.argsort(test.asked.steps[places], kind="stable")]
    data, steps, horizon = test.data, test.asked.steps[places], test.told.shape[1]
    season = max(1, data.panel.plan.season)
    begin = int(data.begins[series])
    history = data.values[begin : begin + int(data.lengths[series])]
    before = history[: int(steps.min()) + 1]
    naive = seasonal_naive(history, steps, horizon, season, before, (0.5,))[..., 0]
    said = np.isfinite(test.told[places][..., 0])
    values = np.where(said, history[steps[:, None] + np.arange(1, horizon + 1)], np.nan)
    unit = [seasonal_errors(column, season)[0] for column in before.T]
    return _One(series, steps, values, test.told[places], naive, unit)


def _chosen(lines: Sequence[tuple[int, int, float, float]]) -> Integers:
    """``SERIES`` of all at most, from the worst to the best, in the order of the table."""
    order = np.argsort([-np.nan_to_num(line[2], nan=-1.0) for line in lines], kind="stable")
    return np.sort(order[evenly(len(lines), SERIES)])


def _typical(lines: Sequence[tuple[int, int, float, float]]) -> int:
    """The place of the one of median error."""
    order = np.argsort([np.nan_to_num(line[2], nan=np.inf) for line in lines], kind="stable")
    return int(order[(len(lines) - 1) // 2])


def _panels(
    test: Backtest,
    bounds: Bounds,
    aheads: Sequence[int],
    lines: Sequence[tuple[int, int, float, float]],
) -> list[Record]:
    """All that is shown of each of ``lines``, which are series and target with their errors."""
    horizon = test.told.shape[1]
    columns = 2 + 2 * len(bounds.intervals)
    fans = int(np.clip(ROOM / 2 / (len(lines) * horizon * columns), 5, FANS))
    most = int(np.clip(ROOM / 2 / (len(lines) * len(aheads) * (columns + 2)), 50, ORIGINS))
    found = []
    for series, target, mase, naive in lines:
        places = np.flatnonzero(test.asked.series == series)
        one = _of_series(test, series, places)
        found.append(
            {
                "name": name_of(test.data.panel, series, target),
                "mase": short(mase),
                "naive": short(naive),
                **_panel(test, bounds, aheads, one, target, fans, most),
            }
        )
    return found


def _panel(
    test: Backtest,
    bounds: Bounds,
    aheads: Sequence[int],
    one: _One,
    target: int,
    fans: int,
    most: int,
) -> Record:
    panel, season, horizon = test.data.panel, test.data.panel.plan.season, test.told.shape[1]
    window = behind(horizon, season)
    last = slice(max(0, len(one.steps) - most), None)
    steps, told, naive = one.steps[last], one.told[last, :, target], one.naive[last, :, target]
    first = max(0, int(steps[0]) - window + 1)
    begin = int(test.data.begins[one.series])
    rows = slice(begin + first, begin + int(steps[-1]) + horizon + 1)
    chosen = evenly(len(steps), fans)
    smooth = max(season, len(one.steps) // 60)
    errors = one.values[..., target] - one.told[..., target, bounds.median]
    of_naive = one.values[..., target] - one.naive[..., target]
    return {
        "times": times_of(panel, panel.times[rows]),
        "seen": short(test.data.values[rows, target]),
        "window": window,
        "ends": _ends_of_values(test.data.values[rows, target], told, bounds),
        "smooth": smooth,
        "fans": [
            {
                "origin": int(steps[k]) - first,
                **bounds.columns(told[k]),
                "naive": short(naive[k]),
            }
            for k in chosen
        ],
        "ahead": {
            str(ahead): {
                "at": (steps - first + ahead).tolist(),
                **bounds.columns(told[:, ahead - 1]),
                "error": short(running_mean(np.abs(errors[:, ahead - 1]), smooth)[last]),
                "naive_error": short(running_mean(np.abs(of_naive[:, ahead - 1]), smooth)[last]),
            }
            for ahead in aheads
        },
        "residuals": {str(a): residuals(errors[:, a - 1], one.steps, season) for a in aheads},
    }


def behind(horizon: int, season: int) -> int:
    """How many steps of history stand before a forecast."""
    return int(np.clip(max(3 * horizon, 2 * season), 24, 400))


def _ends_of_values(values: Floats, told: Floats, bounds: Bounds) -> list[float]:
    """Where the axis of values begins and ends: all that came, and nearly all that was said."""
    low, high = bounds.intervals.get(0.95, (bounds.median, bounds.median))
    ends = (u[np.isfinite(u)] for u in (told[..., low], told[..., high]))
    parts = [np.quantile(u, (0.01, 0.99)) for u in ends if len(u)]
    every = np.concatenate([values[np.isfinite(values)], *parts])
    if not len(every):
        return [0.0, 1.0]
    least, most = float(every.min()), float(every.max())
    room = 0.03 * (most - least) or max(1.0, abs(most)) * 0.1
    least = 0.0 if least == 0.0 else least - room
    return [float(u) for u in short([least, most + room])]


def running_mean(values: Floats, window: int) -> Floats:
    """The mean of the ``window`` values around each, of those that are there.

    >>> running_mean(np.array([1.0, 3.0, np.nan, 5.0]), 3).tolist()
    [2.0, 2.0, 4.0, 5.0]
    """
    there = np.isfinite(values)
    sums, counts = (
        np.concatenate([[0.0], np.cumsum(u)]) for u in (np.where(there, values, 0.0), there)
    )
    places = np.arange(len(values))
    low = np.maximum(places - (window - 1) // 2, 0)
    high = np.minimum(places + window // 2 + 1, len(values))
    with np.errstate(invalid="ignore"):
        mean: Floats = (sums[high] - sums[low]) / (counts[high] - counts[low])
    return mean


def residuals(errors: Floats, steps: Integers, season: int) -> Record:
    """The distribution of errors, and how those k steps apart go together.

    ``errors`` ``[n]`` at ``steps``; the outermost bins have what is beyond. ``bound``: within which 95 % of
    the correlations of chance are.
    """
    there = np.isfinite(errors)
    known = errors[there]
    if not len(known):
        return {
            "edges": [],
            "counts": [],
            "correlation": [],
            "bound": None,
            "mean": None,
            "count": 0,
        }
    low, high = np.quantile(known, (0.003, 0.997))
    if not high > low:
        low, high = float(low) - 0.5, float(high) + 0.5
    bins = np.clip(len(np.histogram_bin_edges(known, "fd", (low, high))) - 1, *BINS)
    counts, edges = np.histogram(np.clip(known, low, high), int(bins), (low, high))
    return {
        "edges": short(edges),
        "counts": counts.tolist(),
        "correlation": short(correlation(errors, steps, season)),
        "bound": short(1.96 / len(known) ** 0.5),
        "mean": short(known.mean()),
        "count": len(known),
    }


def correlation(errors: Floats, steps: Integers, season: int) -> Floats:
    """The autocorrelation at the lags 1, 2, … of errors, of the pairs that are both known.

    >>> correlation(np.array([1.0, -1.0] * 8), np.arange(16), 1).round(2).tolist()[:2]
    [-1.0, 1.0]
    """
    span = int(steps[-1] - steps[0]) + 1
    line = np.full(span, np.nan)
    line[steps - steps[0]] = errors
    line = line - np.nanmean(line)
    variance = float(np.nanmean(np.square(line)))
    most = min(LAGS, max(24, 2 * season + 1), span // 4)
    if not variance > 0:
        return np.zeros(0)
    found = []
    for lag in range(1, most + 1):
        products = line[lag:] * line[:-lag]
        products = products[np.isfinite(products)]
        found.append(products.mean() / variance if len(products) else np.nan)
    return np.array(found)


# --- A forecast ----------------------------------------------------------------------------------


def forecast_record(forecast: Forecast) -> Record:
    """What the page of a forecast shows."""
    panel, bounds = forecast.panel, Bounds.of(forecast.levels)
    count, horizon, targets, _ = forecast.told.shape
    window = behind(horizon, panel.plan.season)
    size = (horizon * (3 + 2 * len(bounds.intervals)) + 2 * window) * targets
    chosen = evenly(count, int(np.clip(ROOM / size, 1, FORECASTS)))
    found = []
    for series in chosen.tolist():
        begin, length = int(panel.offsets[series]), int(panel.lengths[series])
        rows = slice(begin + max(0, length - window), begin + length + horizon)
        for target in range(targets):
            told = forecast.told[series, :, target]
            seen = panel.targets[rows, target][: rows.stop - rows.start - horizon]
            found.append(
                {
                    "name": name_of(panel, series, target),
                    "times": times_of(panel, panel.times[rows]),
                    "seen": short(seen),
                    "window": window,
                    "ends": _ends_of_values(seen, told, bounds),
                    "fans": [{"origin": len(seen) - 1, **bounds.columns(told)}],
                    "columns": short(forecast.at(forecast.quantiles)[series, :, target].T),
                }
            )
    return {
        "facts": {
            "panels": count * targets,
            "series": count,
            "targets": panel.plan.targets,
            "horizon": horizon,
            "frequency": _frequency(panel),
        },
        "time": axis_of(panel),
        "quantiles": [f"q{level:g}" for level in forecast.quantiles],
        "series": found,
    }
