"""A panel as a forecaster's network reads it: scaled, and with what is known at each origin."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unrolled.series.data.panel import Panel
from unrolled.series.data.plan import Plan
from unrolled.series.data.scale import running_scales

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

FURTHEST = 30.0  # in scales, of a value that is read: one that is further off is no more telling
OF_A_WEEK = 7  # days whose hours differ: within a day there is a season of a week, too
SEEN = 4  # seasons that show that there is one


class Statistics(NamedTuple):
    """Mean and deviation of each column of ``past``, ``known`` and ``static`` in training."""

    past: list[list[float]]
    known: list[list[float]]
    static: list[list[float]]


class Ahead(NamedTuple):
    """What a network is given at N origins beside its state; see ``ForecastNetwork.parameters_of``.

    ``location``, ``scale``: ``[N, targets]``. ``values``: ``[N, horizon, targets]``, what came, in scaled
    units; NaN where it is missing, and of a target that had no value yet, for which there is no scale.
    """

    known: Tensor
    known_codes: Tensor
    lags: Tensor
    location: Tensor
    scale: Tensor
    values: Tensor


def seasons_of(plan: Plan) -> list[int]:
    """The steps of the seasons whose last value tells of the next: of the day and of the week, say.

    A counter has a week of its season, too, if its series are long enough to show it.
    """
    if plan.season <= 1:
        return []
    week, frequency = OF_A_WEEK * plan.season, plan.frequency
    is_within = frequency is not None and frequency.unit in ("second", "minute", "hour")
    is_counter = frequency is None or frequency.unit == "step"
    is_long = plan.steps >= SEEN * week * plan.series
    return [plan.season, week] if is_within or (is_counter and is_long) else [plan.season]


def statistics_of(panel: Panel) -> Statistics:
    """Those of the steps that are for training."""
    splits = panel.splits()
    trains = np.concatenate(
        [np.arange(o, o + n) for o, n in zip(panel.offsets[:-1], splits[:, 0], strict=True)]
    )
    return Statistics(
        _of_columns(panel.past[trains]), _of_columns(panel.known[trains]), _of_columns(panel.static)
    )


def _of_columns(values: Floats) -> list[list[float]]:
    result = []
    for column in values.T:
        seen = column[np.isfinite(column)]
        spread = float(seen.std()) if len(seen) else 0.0
        result.append([float(seen.mean()) if len(seen) else 0.0, spread if spread > 0 else 1.0])
    return result


def standardized(values: Floats, statistics: Sequence[Sequence[float]]) -> Floats:
    """``values`` in deviations from the mean; NaN stays."""
    if not len(statistics):
        return values
    mean, spread = np.asarray(statistics, np.float64).T
    scaled: Floats = np.clip((values - mean) / spread, -FURTHEST, FURTHEST)
    return scaled


def filled(values: Floats) -> Floats:
    """``values`` with 0 where they are NaN."""
    return np.nan_to_num(values, nan=0.0)


@dataclass(frozen=True)
class Windows:
    """Windows of the panel, the same number of steps of each: ``inputs`` ``[T, B, D]`` and ``codes``."""

    inputs: Tensor
    codes: Tensor


class Origins:
    """All steps of a panel as origins of forecasts.

    What stands at a step depends on nothing after it, but for the columns that are known ahead.

    Args:
        panel: the series, with what is known of their future.
        statistics: of the columns in training.
        seasons: the steps of each season; see ``seasons_of``.
        horizon: the steps ahead of an origin.
    """

    def __init__(
        self, panel: Panel, statistics: Statistics, seasons: Sequence[int], horizon: int
    ) -> None:
        self.panel, self.horizon = panel, horizon
        self.begins, self.lengths = panel.offsets[:-1], panel.lengths
        self.ends = panel.offsets[1:]
        self.values = panel.targets
        self.location, self.scale = running_scales(self.values, panel.offsets)
        count = np.vstack([np.zeros((1, self.values.shape[1])), ~np.isnan(self.values)]).cumsum(0)
        self.is_known = count[1:] > np.repeat(count[self.begins], np.diff(panel.offsets), axis=0)
        self.known = filled(standardized(panel.known, statistics.known)).astype(np.float32)
        self.seasons = list(seasons)
        self.inputs = self._inputs(statistics)
        per_series = np.diff(panel.offsets)
        static_codes = np.repeat(panel.static_codes, per_series, axis=0)
        self.codes = np.concatenate([panel.past_codes, panel.known_codes, static_codes], axis=1)

    def _inputs(self, statistics: Statistics) -> NDArray[np.float32]:
        panel = self.panel
        scaled = np.clip((self.values - self.location) / self.scale, -FURTHEST, FURTHEST)
        level = np.arcsinh(self.location / self.scale)
        past = standardized(panel.past, statistics.past)
        static = filled(standardized(panel.static, statistics.static))
        columns = [
            filled(scaled),
            ~np.isnan(scaled),
            level,
            filled(past),
            ~np.isnan(past),
            self.known,
        ]
        columns.append(np.repeat(static, np.diff(panel.offsets), axis=0))
        seen = np.isfinite(np.concatenate([scaled, past], axis=1)).any(1)
        columns += [panel.gaps[:, None], seen[:, None]]  # last: as ContinuousTimeLSTM reads them
        return np.concatenate(columns, axis=1, dtype=np.float32, casting="unsafe")

    @property
    def lags(self) -> int:
        """How many values that are known at an origin stand beside each value ahead."""
        return 1 + len(self.seasons)

    def read(self, rows: Integers) -> Windows:
        """What is read at ``rows`` ``[T, B]`` of the panel's arrays."""
        return Windows(torch.from_numpy(self.inputs[rows]), torch.from_numpy(self.codes[rows]))

    def ahead(self, origins: Integers, series: Integers) -> Ahead:
        """What is given at origins, rows ``[N]`` of the panel's arrays, each in its ``series`` ``[N]``."""
        begin, end = self.begins[series][:, None], self.ends[series][:, None]
        steps = origins[:, None] + np.arange(1, self.horizon + 1)
        inside = np.minimum(steps, end - 1)
        location, scale = self.location[origins][:, None], self.scale[origins][:, None]

        def scaled(rows: Integers, there: NDArray[np.bool_]) -> Floats:
            values = (self.values[np.clip(rows, 0, len(self.values) - 1)] - location) / scale
            return np.where(there[..., None], np.clip(values, -FURTHEST, FURTHEST), np.nan)

        last = np.broadcast_to(origins[:, None], steps.shape)
        lags = [scaled(last, last >= begin)]
        for season in self.seasons:
            ahead = np.arange(1, self.horizon + 1)
            rows = steps - season * -(-ahead // season)
            lags.append(scaled(rows, rows >= begin))
        known = np.where((steps < end)[..., None], self.known[inside], 0.0)
        codes = np.where((steps < end)[..., None], self.panel.known_codes[inside], 0)
        return Ahead(
            torch.from_numpy(known.astype(np.float32)),
            torch.from_numpy(codes),
            torch.from_numpy(filled(np.stack(lags, -1)).astype(np.float32)),
            torch.from_numpy(self.location[origins].astype(np.float32)),
            torch.from_numpy(self.scale[origins].astype(np.float32)),
            torch.from_numpy(
                np.where(
                    self.is_known[origins][:, None], scaled(steps, steps < end), np.nan
                ).astype(np.float32)
            ),
        )

    def scaled_before(self, origins: Integers, series: Integers, count: int) -> Floats:
        """The last ``count`` values up to origins, ``[N, count, targets]``, scaled there; NaN for none."""
        rows = origins[:, None] + np.arange(1 - count, 1)
        values = (self.values[np.maximum(rows, 0)] - self.location[origins][:, None]) / self.scale[
            origins
        ][:, None]
        there = rows >= self.begins[series][:, None]
        return np.where(there[..., None], np.clip(values, -FURTHEST, FURTHEST), np.nan)

    def imagined(
        self, rows: Integers, series: Integers, values: Floats, origins: Integers
    ) -> tuple[Tensor, Tensor]:
        """What would be read at ``rows`` ``[T, B]`` if ``values`` ``[T, B, targets]`` had come.

        They are in the scale of the ``origins`` ``[B]``, which stays. Of the other columns those that are
        known ahead are read; of the past ones nothing is known.
        """
        end = self.ends[series]
        inside = np.minimum(rows, end - 1)
        inputs, codes = self.inputs[inside], self.codes[inside]
        targets, past = self.values.shape[1], self.panel.past.shape[1]
        first = 3 * targets
        inputs[..., :targets], inputs[..., targets : 2 * targets] = values, 1.0
        inputs[..., 2 * targets : first] = self.inputs[origins, 2 * targets : first]
        inputs[..., first : first + 2 * past] = 0.0
        codes[..., : self.panel.past_codes.shape[1]] = 0
        beyond = rows >= end
        inputs[beyond, first + 2 * past : first + 2 * past + self.known.shape[1]] = 0.0
        inputs[..., -1] = 1.0
        return torch.from_numpy(inputs), torch.from_numpy(codes)

    def ahead_of(
        self,
        origins: Integers,
        series: Integers,
        done: int,
        values: Floats,
        location: Floats,
        scale: Floats,
    ) -> Ahead:
        """As ``ahead``, ``done`` steps after ``origins``, if ``values`` had come since.

        ``values`` ``[N, before + done, targets]`` are scaled, with a season's before the origins; location
        and scale ``[N, targets]`` are those of the origins.
        """
        end = self.ends[series][:, None]
        steps = origins[:, None] + done + np.arange(1, self.horizon + 1)
        inside, is_there = np.minimum(steps, end - 1), (steps < end)[..., None]
        last = values.shape[1] - 1
        columns = [np.broadcast_to(values[:, -1:], (len(values), self.horizon, values.shape[2]))]
        for season in self.seasons:
            ahead = np.arange(1, self.horizon + 1)
            columns.append(values[:, last + ahead - season * -(-ahead // season)])
        lags = filled(np.stack(columns, -1)).astype(np.float32)
        none = np.full((*steps.shape, values.shape[2]), np.nan, np.float32)
        return Ahead(
            torch.from_numpy(np.where(is_there, self.known[inside], 0.0).astype(np.float32)),
            torch.from_numpy(np.where(is_there, self.panel.known_codes[inside], 0)),
            torch.from_numpy(lags),
            torch.from_numpy(location.astype(np.float32)),
            torch.from_numpy(scale.astype(np.float32)),
            torch.from_numpy(none),
        )


def sizes_of(plan: Plan, horizon: int) -> dict[str, Any]:
    """The sizes of a network that reads such a panel: arguments of ``ForecastNetwork``."""
    targets, past, known = len(plan.targets), len(plan.past), len(plan.known)
    levels = {
        role: [[len(c.levels) + 1, c.embedding] for c in plan.categories(role)]
        for role in ("past", "known", "static")
    }
    inputs = 3 * targets + 2 * past + known + len(plan.static) + 2
    return {
        "horizon": horizon,
        "targets": targets,
        "inputs": inputs,
        "known": known,
        "lags": 1 + len(seasons_of(plan)),
        "input_levels": [*levels["past"], *levels["known"], *levels["static"]],
        "known_levels": levels["known"],
    }
