"""One pass over each series, and the forecasts from as many origins as are asked for."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unrolled.cells import State
from unrolled.series.data.origins import Ahead, Origins
from unrolled.series.models.forecast import ForecastNetwork

Integers = NDArray[np.int64]

BATCH_SIZE, STEPS = 64, 256  # series that are read together, and steps at a time
ORIGINS = 1024  # whose forecasts are made together


class Asked(NamedTuple):
    """Origins: ``steps`` ``[N]``, each of its series ``[N]``, whose steps count from 0."""

    steps: Integers
    series: Integers


class Part(NamedTuple):
    """Some of the origins that were asked for, by their ``places`` among them, and what is forecast there."""

    places: Integers
    steps: Integers
    series: Integers
    ahead: Ahead
    given: Tensor
    base: Tensor
    whole: State = ()
    """The layers' state, each tensor ``[L, N, size]``, where that was asked for."""

    def some(self, which: slice) -> "Part":
        """Some of them."""
        return Part(
            self.places[which],
            self.steps[which],
            self.series[which],
            Ahead(*(one[which] for one in self.ahead)),
            self.given[which],
            self.base[which],
            tuple(s[:, which] for s in self.whole),
        )

    def quantiles(self, model: ForecastNetwork) -> Tensor:
        """``[N, horizon, targets, Q]``, in scaled units."""
        ahead = self.ahead
        location, scale = (
            one.unsqueeze(1).expand_as(self.base) for one in (ahead.location, ahead.scale)
        )
        return model.distribution.quantiles(self.given, self.base, location, scale)


@torch.no_grad()
def states_at(
    model: ForecastNetwork, data: Origins, asked: Asked, *, is_whole: bool = False
) -> Iterator[tuple[Integers, Tensor, State]]:
    """What the network knows at each origin, ``[n, H]``, with the places of these among ``asked``.

    With ``is_whole`` also the state of all layers, from which they can read on, each tensor ``[L, n, size]``.

    Each series is read once, from its first step to its last origin; series of like length together.
    """
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
                yield places[here], result.y.flatten(0, 1)[rows_of], whole


@torch.no_grad()
def forecasts(
    model: ForecastNetwork, data: Origins, asked: Asked, *, is_whole: bool = False
) -> Iterator[Part]:
    """The forecasts from all origins, some at a time, in no order; ``is_whole`` as of ``states_at``."""
    for places, states, whole in states_at(model, data, asked, is_whole=is_whole):
        for k in range(0, len(places), ORIGINS):
            some, known = places[k : k + ORIGINS], states[k : k + ORIGINS]
            rest = tuple(s[:, k : k + ORIGINS] for s in whole)
            steps, series = asked.steps[some], asked.series[some]
            ahead = data.ahead(data.begins[series] + steps, series)
            given, base = model.parameters_of(known, *ahead[:3])
            yield Part(some, steps, series, ahead, given, base, rest)
