"""Forecasts in the units of the table, from any origin and of any horizon."""

from collections.abc import Container, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unrolled.series.calibration import stretched
from unrolled.series.data import Panel
from unrolled.series.data.origins import Origins
from unrolled.series.models import ForecastNetwork
from unrolled.series.passes import Asked, Part, forecasts

Floats = NDArray[np.float64]

PATHS = 64  # of one forecast: ways on which a forecast goes on beyond the network's horizon
TOGETHER = 16  # forecasts that continue at once
CHANCE = 0  # the seed of which way meets which


def at_levels(quantiles: Floats, known: Sequence[float], wanted: Sequence[float]) -> Floats:
    """Quantiles ``[..., Q]`` of the levels ``known``, read at those ``wanted``.

    Between two they are linear in the normal distribution's own quantiles; beyond the outermost they are
    these.
    """
    index = {level: k for k, level in enumerate(known)}
    if all(level in index for level in wanted):
        return quantiles[..., [index[level] for level in wanted]]
    z = torch.special.ndtri(torch.tensor([*known, *wanted], dtype=torch.float64)).numpy()
    nodes, places = z[: len(known)], np.clip(z[len(known) :], z[0], z[len(known) - 1])
    left = np.clip(np.searchsorted(nodes, places, side="right") - 1, 0, len(nodes) - 2)
    share = (places - nodes[left]) / (nodes[left + 1] - nodes[left])
    result: Floats = quantiles[..., left] * (1 - share) + quantiles[..., left + 1] * share
    return result


@torch.no_grad()
def predicted(
    model: ForecastNetwork, spread: Tensor, data: Origins, asked: Asked, horizon: int
) -> Floats:
    """``[N, horizon, targets, Q]``: the quantiles at the levels of the model, in the table's units.

    NaN of a target that had no value up to the origin.

    Beyond the network's own horizon a forecast continues from what it said: on ``PATHS`` ways, each at
    another level of the first part, the network reads on as if that had come, with the scale of the
    origin. Of what it then says, at other levels on each way, there are again quantiles.

    Args:
        model: in eval mode.
        spread: by what quantiles are stretched; see ``calibrated``.
        data: whose future has as many steps as are asked for, as far as columns are known ahead.
        asked: the origins.
        horizon: how many steps ahead.
    """
    result = np.empty((len(asked.steps), horizon, model.targets, len(model.distribution.levels)))
    is_far = horizon > model.horizon
    for part in forecasts(model, data, asked, together=TOGETHER if is_far else None):
        told = stretched(part.quantiles(model), spread)
        if is_far:
            told = _beyond(model, spread, data, part, told, horizon)
        origins = data.begins[part.series] + part.steps
        location, scale = (u[origins][:, None, :, None] for u in (data.location, data.scale))
        result[part.places] = location + scale * told.double().numpy()[:, :horizon]
    rows, targets = np.nonzero(~data.is_known[data.begins[asked.series] + asked.steps])
    result[rows, :, targets] = np.nan
    if model.distribution.is_of_counts:
        np.maximum(np.rint(result, out=result), 0.0, out=result)
    return result


def _beyond(
    model: ForecastNetwork,
    spread: Tensor,
    data: Origins,
    part: Part,
    quantiles: Tensor,
    horizon: int,
) -> Tensor:
    """The scaled quantiles ``[n, horizon, targets, Q]``, from those of the first part of the horizon."""
    levels = model.distribution.levels
    count, targets = len(part.places), model.targets
    chance = np.random.default_rng(CHANCE)
    ways = [(k + 0.5) / PATHS for k in range(PATHS)]
    origins = data.begins[part.series] + part.steps
    location, scale = (np.repeat(data_[origins], PATHS, 0) for data_ in (data.location, data.scale))
    rows, series = np.repeat(origins, PATHS), np.repeat(part.series, PATHS)
    state = tuple(s.repeat_interleave(PATHS, 1) for s in part.whole)
    behind = max([1, *data.seasons])
    seen = data.scaled_before(origins, part.series, behind)  # [n, behind, targets]
    values = np.repeat(seen, PATHS, 0)
    told, done = [quantiles], model.horizon
    path = at_levels(quantiles.double().numpy(), levels, ways)  # [n, steps, targets, ways]
    while done < horizon:
        path = np.moveaxis(path, -1, 1).reshape(count * PATHS, model.horizon, targets)
        values = np.concatenate([values, path], 1)
        steps = rows[:, None] + np.arange(done - model.horizon + 1, done + 1)
        inputs, codes = data.imagined(steps.T, series, path.swapaxes(0, 1), rows)
        states, state = model.read(inputs, codes, state)
        ahead = data.ahead_of(rows, series, done, values, location, scale)
        each = stretched(model.quantiles(states[-1], ahead), spread).double().numpy()
        order = np.tile(chance.permutation(PATHS), count)  # no forecast depends on those beside it
        path = at_levels(each, levels, ways)[np.arange(len(order)), ..., order]
        path = path.reshape(count, PATHS, model.horizon, targets)
        told.append(torch.from_numpy(np.moveaxis(np.quantile(path, levels, axis=1), 0, -1)).float())
        path = np.moveaxis(path, 1, -1)
        done += model.horizon
    return torch.cat(told, 1)[:, :horizon]


def columns_of(
    panel: Panel,
    asked: Asked,
    told: Floats,
    levels: Sequence[float],
    wanted: Sequence[float],
    *,
    with_origin: bool = False,
) -> dict[str, Any]:
    """Columns of forecasts ``[N, horizon, targets, Q]``: a row for each origin, target and step.

    Beside those that the table has: "step" where it has no times, "cutoff" and "target", with a "_" where
    the table has a column of that name.

    Args:
        panel: of which series they are.
        asked: the origins.
        told: what ``predicted`` gave.
        levels: ``[Q]``, of its quantiles.
        wanted: those of which a column is made.
        with_origin: whether there is a column of the origins' times, "cutoff".
    """
    plan, (count, steps, targets, _) = panel.plan, told.shape
    rows = np.repeat(np.arange(count), targets * steps)
    ahead = np.tile(np.arange(1, steps + 1), count * targets)
    columns: dict[str, Any] = {
        name: values.take(asked.series[rows]) for name, values in panel.key_columns.items()
    }
    origins = panel.offsets[:-1][asked.series] + asked.steps
    clock = panel.clock
    taken = {*columns, *(column.name for column in plan.of_role("time"))}
    time = plan.roles.time or _free("step", taken)
    if with_origin:
        columns[_free("cutoff", taken)] = clock.written(panel.times[origins][rows])
    columns[time] = clock.written(panel.times[origins[rows] + ahead])
    if targets > 1:
        names = np.array(plan.targets, dtype=object)
        columns[_free("target", taken)] = np.tile(np.repeat(names, steps), count)
    values = at_levels(told, levels, wanted).swapaxes(1, 2)
    for k, level in enumerate(wanted):
        columns[f"q{level:g}"] = values[..., k].ravel()
    return columns


def _free(name: str, taken: Container[str]) -> str:
    while name in taken:
        name += "_"
    return name
