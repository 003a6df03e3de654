"""What a forecaster's training reads: windows of series, of which every step is an origin."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unrolled.errors import DataError
from unrolled.series.data.origins import Origins
from unrolled.series.models.distributions import Around
from unrolled.series.models.forecast import ForecastNetwork
from unrolled.series.passes import Asked, forecasts
from unrolled.training.feed import Feed
from unrolled.training.scores import Scores
from unrolled.training.settings import Settings

Integers = NDArray[np.int64]

LONGEST, SHORTEST = 512, 32  # steps of a window
FORECASTS = (
    1 << 14
)  # values that a step learns from at most: origins beside each other say the same
VALIDATION_ORIGINS = 2000  # at most, at every evaluation


class Window(NamedTuple):
    """B windows: rows of the panel's arrays ``[T, B]``, of one series each ``[B]``; how many are real."""

    rows: Integers
    series: Integers
    lengths: Integers


@dataclass(frozen=True)
class ForecastScores(Scores):
    """Means over forecasts: the loss, in scaled units, and how many values lie under the median."""

    measure, unit = "forecast_loss", "forecasts"

    forecast_loss: float
    below_median: float
    forecasts: int


class ForecastFeed(Feed[Window]):
    """Windows of all series, in an order of chance; each begins somewhere else in every epoch."""

    unit = "steps"
    model: ForecastNetwork
    data: Origins

    def __init__(self, model: ForecastNetwork, data: Origins, settings: Settings) -> None:
        super().__init__(model, data, settings)
        self.splits = data.panel.splits()
        trains = self.splits[:, 0]
        if not (trains > 1).any():
            raise DataError(
                "no series has two steps for training, expected more rows: the first is an origin, "
                "the second what comes"
            )
        long = max([*data.seasons, 0]) + model.horizon
        self.steps = int(min(LONGEST, max(SHORTEST, 2 * long), trains.max()))
        self.rows = max(1, settings.batch_steps // self.steps)
        self.tiles = np.maximum(1, -(-trains // self.steps)) * (trains > 1)

    def __len__(self) -> int:
        return int(-(-self.tiles.sum() // self.rows))

    def epoch(self, number: int, first: int) -> Iterator[Window]:
        chance = np.random.default_rng((self.settings.seed, number))
        series = chance.permutation(np.repeat(np.arange(len(self.tiles)), self.tiles))
        last = np.maximum(self.splits[series, 0] - self.steps, 0)
        begins = (chance.random(len(series)) * (last + 1)).astype(np.int64)
        for k in range(first * self.rows, len(series), self.rows):
            yield self.window(series[k : k + self.rows], begins[k : k + self.rows])

    def window(self, series: Integers, begins: Integers) -> Window:
        """Windows that begin at the steps ``begins`` of ``series``."""
        lengths = np.minimum(self.splits[series, 0] - begins, self.steps)
        steps = np.minimum(np.arange(int(lengths.max()))[:, None], lengths - 1)
        return Window(self.data.begins[series] + begins + steps, series, lengths)

    def loss(self, item: Window) -> Tensor:
        windows = self.data.read(item.rows)
        states, _ = self.model.read(windows.inputs, windows.codes)
        origins = item.rows.ravel()
        series = np.broadcast_to(item.series, item.rows.shape).ravel()
        steps = np.arange(len(item.rows))[:, None]
        real = (steps < item.lengths).ravel()
        real &= (
            origins < (self.data.begins + self.splits[:, 0])[series] - 1
        )  # one comes in training
        chosen = np.flatnonzero(real)
        most = max(1, FORECASTS // self.data.horizon)
        if len(chosen) > most:
            chosen = chosen[torch.randperm(len(chosen))[:most].sort().values.numpy()]
        ahead = self.data.ahead(origins[chosen], series[chosen])
        left = (self.data.begins + self.splits[:, 0])[series[chosen]] - 1 - origins[chosen]
        trains = torch.from_numpy(np.arange(self.data.horizon) < left[:, None]).unsqueeze(-1)
        values = torch.where(trains, ahead.values, torch.nan)
        known = states.flatten(0, 1)[torch.from_numpy(chosen)]
        return mean_loss(self.model, *self.model.parameters_of(known, ahead), values)

    def count(self, item: Window) -> int:
        return int(item.lengths.sum())

    def asked(self) -> Asked:
        """The origins whose forecasts are for validation, evenly of all."""
        train, validation = self.splits.T
        counts = np.maximum(validation - train, 0)
        series = np.repeat(np.arange(len(counts)), counts)
        within = np.arange(len(series)) - np.repeat(np.cumsum(counts) - counts, counts)
        steps = train[series] - 1 + within
        keep = np.linspace(0, len(steps) - 1, min(len(steps), VALIDATION_ORIGINS)).astype(np.int64)
        return Asked(steps[keep], series[keep])

    @torch.no_grad()
    def scores(self, most: int | None = None) -> ForecastScores:
        asked = self.asked()
        was_training = self.model.training
        self.model.eval()
        total, below, count = 0.0, 0, 0
        try:
            for part in islice(forecasts(self.model, self.data, asked), most):
                ends = self.splits[part.series, 1] - 1 - part.steps
                inside = torch.from_numpy(np.arange(self.data.horizon) < ends[:, None]).unsqueeze(
                    -1
                )
                values = torch.where(inside, part.ahead.values, torch.nan)
                loss = mean_loss(self.model, part.given, part.around, values)
                known = int((~values.isnan()).sum())
                middle = len(self.model.distribution.levels) // 2
                below += int((values <= part.quantiles(self.model)[..., middle]).sum())
                total += float(loss) * known
                count += known
        finally:
            self.model.train(was_training)
        if not count:
            return ForecastScores(float("nan"), float("nan"), 0)
        return ForecastScores(total / count, below / count, count)

    def evaluations(self) -> int:
        return 1 if len(self.asked().steps) else 0


def mean_loss(model: ForecastNetwork, given: Tensor, around: Around, values: Tensor) -> Tensor:
    """The mean loss of the values that are not missing; 0 where all are."""
    there = ~values.isnan()
    filled = torch.where(there, values, 0.0)
    losses = model.distribution.loss(given, around, filled)
    return torch.where(there, losses, 0.0).sum() / there.sum().clamp(min=1)
