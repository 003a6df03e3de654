"""The forecaster's network: one pass over a series, and at each step all horizons at once."""

from collections.abc import Sequence
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unrolled import cells
from unrolled.cells import Cell, State
from unrolled.layers import Recurrent
from unrolled.layers.result import Result
from unrolled.remedies import sensible_weights_
from unrolled.series.data.origins import Ahead
from unrolled.series.models.distributions import DISTRIBUTIONS, Around, Distribution
from unrolled.shapes import check_fraction, check_size
from unrolled.training.model import Model

CELLS: dict[str, type[Cell]] = {
    "elman": cells.Elman,
    "lstm": cells.LSTM,
    "gru": cells.GRU,
    "continuous-time-lstm": cells.ContinuousTimeLSTM,
}
WIDEST, DEEPEST, FURTHEST = 1 << 14, 64, 1 << 12
Levels = Sequence[Sequence[int]]


class ForecastNetwork(Model):
    """Recurrent layers that read a series once; their state after step t is the origin of a forecast.

        a_t = f(x_t, a_{t-1})                              the state, from all up to t
        e_{t,h} = relu(C_h a_t + K k_{t+h} + L l_{t,h})    for h = 1 … H
        p_{t,h} = P (e_{t,h} + relu(E e_{t,h}))            the parameters of a distribution
        b_{t,h} = β_h · l_{t,h}                            what it lies about

    k_{t+h} is what is known ahead of step t + h. l_{t,h} are values that are known at t: the last one, and
    for each season those that are whole seasons before t + h; at first β picks the seasonal naive
    forecast. All values are scaled by what was seen up to t. So every step of a series is an
    origin to learn from, and a back-test is one pass.

    Source: Wen, Torkkola, Narayanaswamy & Madeka, "A Multi-Horizon Quantile Recurrent Forecaster",
    2017 (forking sequences).

    Args:
        hidden_size: H of each layer.
        horizon: how many steps ahead.
        targets: Y, how many values are forecast.
        inputs: D, the numbers of x_t.
        known: K, the numbers of k_t.
        lags: of each target, the values in l.
        input_levels: the categories of x_t: of each how many codes, and the size of their embedding.
        known_levels: the same of k_t.
        levels: of the quantiles, ascending.
        distribution: one of ``DISTRIBUTIONS``.
        cell: "lstm", "gru", "elman", or "continuous-time-lstm", whose state decays between rows.
        depth: L, how many layers.
        dropout: the share of features dropped, of what enters and leaves the layers.
        width: the units of e.
    """

    kind: ClassVar[str] = "forecast"

    def __init__(
        self,
        hidden_size: int,
        *,
        horizon: int,
        targets: int,
        inputs: int,
        known: int,
        lags: int,
        input_levels: Levels = (),
        known_levels: Levels = (),
        levels: Sequence[float],
        distribution: str = "quantiles",
        cell: str = "lstm",
        depth: int = 1,
        dropout: float = 0.1,
        width: int = 32,
    ) -> None:
        super().__init__()
        for name, size, least, most in (
            ("hidden_size", hidden_size, 1, WIDEST), ("horizon", horizon, 1, FURTHEST),
            ("targets", targets, 1, WIDEST), ("inputs", inputs, 1, WIDEST), ("known", known, 0, WIDEST),
            ("lags", lags, 1, WIDEST), ("depth", depth, 1, DEEPEST), ("width", width, 1, WIDEST),
        ):  # fmt: skip
            check_size(name, size, least=least, most=most)
        if cell not in CELLS:
            raise ValueError(f"cell: got {cell!r}, expected one of {', '.join(CELLS)}")
        if distribution not in DISTRIBUTIONS:
            raise ValueError(
                f"distribution: got {distribution!r}, expected one of {', '.join(DISTRIBUTIONS)}"
            )
        self.config: dict[str, Any] = {
            "hidden_size": hidden_size, "horizon": horizon, "targets": targets, "inputs": inputs,
            "known": known, "lags": lags, "input_levels": [list(pair) for pair in input_levels],
            "known_levels": [list(pair) for pair in known_levels], "levels": list(levels),
            "distribution": distribution, "cell": cell, "depth": depth,
            "dropout": check_fraction("dropout", dropout), "width": width,
        }  # fmt: skip
        self.horizon, self.targets, self.lags = horizon, targets, lags
        self.distribution: Distribution = DISTRIBUTIONS[distribution](levels)
        self.input_embeddings = nn.ModuleList(nn.Embedding(n, size) for n, size in input_levels)
        self.known_embeddings = nn.ModuleList(nn.Embedding(n, size) for n, size in known_levels)
        read = inputs + sum(size for _, size in input_levels)
        ahead = known + sum(size for _, size in known_levels)
        layers = Recurrent(CELLS[cell], read, hidden_size, depth=depth, dropout=dropout)
        self.layers = sensible_weights_(layers)
        self.context = nn.Linear(hidden_size, horizon * width)
        self.ahead = nn.Linear(ahead, width, bias=False) if ahead else None
        self.lagged = nn.Linear(targets * lags, width, bias=False)
        self.inner = nn.Linear(width, width)
        self.output = nn.Linear(width, targets * self.distribution.size)
        self.base = nn.Parameter(torch.zeros(horizon, targets, lags))
        self.drop = nn.Dropout(dropout)
        with torch.no_grad():
            self.base[..., min(1, lags - 1)] = 1.0  # the first season; without one, the last value
            self.output.weight.mul_(0.1)

    def read(
        self, inputs: Tensor, codes: Tensor, state: State | None = None
    ) -> tuple[Tensor, State]:
        """The states after each step.

        Args:
            inputs: ``[T, B, D]``; the last two are the time since the row before, and whether there is
                a value in the row.
            codes: ``[T, B, categories]``, int64.
            state: that of the layers before the first step.

        Returns:
            ``[T, B, H]``, and the layers' state after the last.
        """
        y, final = self.result(inputs, codes, state)
        return cast(Tensor, y), final

    def result(
        self, inputs: Tensor, codes: Tensor, state: State | None = None, *, states: bool = False
    ) -> Result:
        """The same as the layers give it; with ``states`` their state after every step."""
        own, gap_and_seen = inputs[..., :-2], inputs[..., -2:]  # the last two, as a cell may ask
        read = torch.cat([_with(own, codes, self.input_embeddings), gap_and_seen], -1)
        result: Result = self.layers(read, state, states=states)
        return result

    def parameters_of(self, states: Tensor, ahead: Ahead) -> tuple[Tensor, Around]:
        """The parameters of the distributions at N origins, and what the values are taken to be near.

        Args:
            states: ``[N, H]``, at the origins.
            ahead: what is known there.

        Returns:
            ``[N, horizon, targets, size]``, and of each value ``[N, horizon, targets]``.
        """
        hidden = self.context(self.drop(states)).unflatten(-1, (self.horizon, -1))
        if self.ahead is not None:
            known = _with(ahead.known, ahead.known_codes, self.known_embeddings)
            hidden = hidden + self.ahead(known)
        hidden = F.relu(hidden + self.lagged(ahead.lags.flatten(-2)))
        hidden = hidden + F.relu(self.inner(hidden))
        given = self.output(hidden).unflatten(-1, (self.targets, -1))
        base = (self.base * ahead.lags).sum(-1)
        location, scale = (u.unsqueeze(1).expand_as(base) for u in (ahead.location, ahead.scale))
        return given, Around(base, location, scale)

    def quantiles(self, states: Tensor, ahead: Ahead) -> Tensor:
        """``[N, horizon, targets, Q]``: the quantiles in scaled units, from the states ``[N, H]``."""
        return self.distribution.quantiles(*self.parameters_of(states, ahead))


def _with(numbers: Tensor, codes: Tensor, embeddings: nn.ModuleList) -> Tensor:
    """``numbers`` ``[..., D]`` and the embeddings of ``codes`` ``[..., categories]``, side by side."""
    if not len(embeddings):
        return numbers
    return torch.cat([numbers, *(e(codes[..., k]) for k, e in enumerate(embeddings))], -1)
