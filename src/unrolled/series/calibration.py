"""Quantiles that hold what they say: each is stretched until it is right on the validation split."""

import numpy as np
import torch
from torch import Tensor

from unrolled.series.data.origins import Origins
from unrolled.series.feeds import ForecastFeed
from unrolled.series.models import ForecastNetwork
from unrolled.series.passes import forecasts
from unrolled.training.settings import Settings

LEAST, MOST = 0.5, 4.0  # of a stretch
FEWEST = 50  # values on the validation split, below which nothing is stretched


def stretched(quantiles: Tensor, spread: Tensor) -> Tensor:
    """``quantiles`` ``[..., Q]``, their distances from the middle times ``spread`` ``[Q]``."""
    middle = quantiles[..., quantiles.shape[-1] // 2, None]
    return (middle + (quantiles - middle) * spread).sort(-1).values


@torch.no_grad()
def calibrated(model: ForecastNetwork, data: Origins, settings: Settings) -> Tensor:
    """By what to stretch each quantile, so that as many values lie below it as it says.

    With r = (y - middle) / (quantile - middle) the stretch is the value of r below which a share of them
    lies; so it is a split-conformal quantile, of errors in units of the predicted spread. Forecasts that
    overlap err alike: the share is raised by 1/n, as for n that do not, taken to be as many as steps
    over the root of the horizon.

    Source: Romano, Patterson & Candès, "Conformalized Quantile Regression", NeurIPS 2019.
    """
    levels = model.distribution.levels
    middle = len(levels) // 2
    feed = ForecastFeed(model, data, settings)
    asked = feed.asked()
    ratios: list[list[np.ndarray]] = [[] for _ in levels]
    for part in forecasts(model, data, asked):
        quantiles = part.quantiles(model)
        left = torch.from_numpy(feed.splits[part.series, 1] - 1 - part.steps)
        inside = torch.arange(data.horizon) < left.unsqueeze(1)
        there = inside.unsqueeze(-1) & ~part.ahead.values.isnan()
        error = (part.ahead.values - quantiles[..., middle])[there]
        for k in range(len(levels)):
            if k != middle:
                distance = (quantiles[..., k] - quantiles[..., middle])[there]
                known = distance.abs() > 1e-9
                ratios[k].append((error[known] / distance[known]).numpy())
    spread = torch.ones(len(levels))
    apart = max(1.0, float((feed.splits[:, 1] - feed.splits[:, 0]).sum()) / data.horizon**0.5)
    for k, level in enumerate(levels):
        seen = np.concatenate(ratios[k]) if ratios[k] else np.zeros(0)
        if k == middle or len(seen) < FEWEST:
            continue
        share = min(1.0, (level if k > middle else 1 - level) * (1 + 1 / apart))
        spread[k] = float(np.clip(np.quantile(seen, share), LEAST, MOST))
    return spread
