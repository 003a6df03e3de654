"""One pass over each series, and the forecasts from as many origins as are asked for."""

from collections.abc import Iterator
from typing import NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unrolled.cells import State
from unrolled.series.data.origins import Ahead, Origins
from unrolled.series.models.distributions import Around
from unrolled.series.models.forecast import ForecastNetwork

Integers = NDArray[np.int64]

BATCH_SIZE, STEPS = 64, 256  # series that are read together, and steps at a time
ORIGINS = 1024  # whose forecasts are made together


class Asked(NamedTuple):
    """Origins: ``steps`` ``[N]``, each of its series ``[N]``, whose steps count from 0."""

    steps: Integers
    series: Integers


class Part(NamedTuple):
    """Some of the origins that were asked for, and what is forecast there.

    ``places``: where they stand among those asked for. ``given`` and ``around``: as of
    ``ForecastNetwork.parameters_of``. ``whole``: the layers' state, each tensor ``[L, N, size]``, where
    that was asked for.
    """

    places: Integers
    steps: Integers
    series: Integers
    ahead: Ahead
    given: Tensor
    around: Around
    whole: State = ()

    def quantiles(self, model: ForecastNetwork) -> Tensor:
        """``[N, horizon, targets, Q]``, in scaled units."""
        return model.distribution.quantiles(self.given, self.around)


@torch.no_grad()
def states_at(
    model: ForecastNetwork, data: Origins, asked: Asked, *, is_whole: bool = False
) -> Iterator[tuple[Integers, Tensor, State]]:
    """What the network knows at each origin, ``[n, H]``, with the places of these among ``asked``.

    With ``is_whole`` also the state of all layers, from which they can continue, each ``[L, n, size]``.

    Each series is read once, from its first step to its last origin; series of like length together.
    """
    if not len(asked.steps):
        return
    wanted, counts = np.unique(asked.series, return_counts=True)
    by_series = np.split(np.argsort(asked.series, kind="stable"), np.cumsum(counts)[:-1])
    ends = np.array([asked.steps[places].max() + 1 for places in by_series], np.int64)
    order = np.argsort(ends, kind="stable")
    for first in range(0, len(order), BATCH_SIZE):
        group = order[first : first + BATCH_SIZE]
        begins, most = data.begins[wanted[group]], ends[group]
        places = np.concatenate([by_series[k] for k in group])
        column = np.repeat(np.arange(len(group)), counts[group])
        state: State | None = None
        for start in range(0, int(most.max()), STEPS):
            steps = np.arange(start, min(start + STEPS, int(most.max())))
            rows = begins + np.minimum(steps[:, None], most - 1)
            window = data.read(rows)
            result = model.result(window.inputs, window.codes, state, states=is_whole)
            state = result.state
            at = asked.steps[places] - start
            here = (at >= 0) & (at < len(steps))
            if here.any():
                rows_of = torch.from_numpy(at[here] * len(group) + column[here])
                every = result.states or ()
                whole = tuple(s.flatten(1, 2)[:, rows_of] for s in every)
                yield places[here], cast(Tensor, result.y).flatten(0, 1)[rows_of], whole


@torch.no_grad()
def forecasts(
    model: ForecastNetwork, data: Origins, asked: Asked, *, together: int | None = None
) -> Iterator[Part]:
    """The forecasts from all origins, some at a time, in no order.

    With ``together``, so many at a time, and each part has the layers' ``whole`` state.
    """
    size = together or ORIGINS
    for places, states, whole in states_at(model, data, asked, is_whole=together is not None):
        for k in range(0, len(places), size):
            some = places[k : k + size]
            steps, series = asked.steps[some], asked.series[some]
            ahead = data.ahead(data.begins[series] + steps, series)
            parameters = model.parameters_of(states[k : k + size], ahead)
            yield Part(
                some, steps, series, ahead, *parameters, tuple(s[:, k : k + size] for s in whole)
            )
