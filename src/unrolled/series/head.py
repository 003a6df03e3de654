"""The head of a forecaster's network at one origin, in NumPy: for streams, where a microsecond counts."""

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from unrolled.series.calibration import stretched
from unrolled.series.models import ForecastNetwork
from unrolled.series.models.distributions import Around, Quantiles
from unrolled.series.predicting import at_levels

Float32 = NDArray[np.float32]
Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

ZERO, ONE = np.zeros((), np.float32), np.ones((), np.float32)


class Head:
    """What ``ForecastNetwork.parameters_of`` and its distribution say, of one origin, but for rounding.

    The same weights and inputs give the same to the bit, however many are asked for before. The weights
    are copied: later changes of the network are not seen.

    Args:
        network: in eval mode.
        spread: ``[Q]``, by what quantiles are stretched.
        wanted: the levels that are told.
    """

    lags: Float32
    """``[horizon, targets, lags]``: scaled values that are known at the origin, to be filled in."""

    def __init__(self, network: ForecastNetwork, spread: Tensor, wanted: Sequence[float]) -> None:
        self.horizon, self.targets = network.horizon, network.targets
        self.distribution, self.spread = network.distribution, spread
        self.width, horizon = network.inner.in_features, self.horizon
        levels = self.distribution.levels
        self._wanted = at_levels(np.eye(len(levels)), levels, wanted)  # [Q, wanted]
        self._context, bias = _transposed(network.context)
        self._bias = bias.reshape(horizon, self.width)
        self._lagged = _numbers(network.lagged.weight.T)
        self._inner, inner_bias = _transposed(network.inner)
        self._output, output_bias = _transposed(network.output)
        self._inner_bias, self._output_bias = (
            np.tile(row, (horizon, 1))
            for row in (inner_bias, output_bias)  # quicker to add
        )
        self._base = _numbers(network.base)
        self._ahead = None if network.ahead is None else _numbers(network.ahead.weight.T)
        self._embeddings = [_numbers(cast(Tensor, e.weight)) for e in network.known_embeddings]
        self._set_memory(network.lags)
        self._is_fast = isinstance(self.distribution, Quantiles)
        if self._is_fast:
            self._set_gaps(spread.numpy())

    def _set_memory(self, lags: int) -> None:
        """What is written at every call, and the same in other shapes."""
        horizon, targets, count = self.horizon, self.targets, len(self.spread)

        def empty(*shape: int) -> Float32:
            return np.empty(shape, np.float32)

        self.lags = empty(horizon, targets, lags)
        self._lags = self.lags.reshape(horizon, -1)
        self._hidden, self._more = empty(horizon, self.width), empty(horizon, self.width)
        self._flat = self._hidden.reshape(-1)
        self._given = empty(horizon, self._output.shape[1])
        self._products, self._near = empty(horizon, targets, lags), empty(horizon * targets)
        self._each_product = self._products.reshape(-1, lags)
        self._ones = np.ones(lags, np.float32)
        self._told, self._gaps_told = (
            empty(horizon * targets, count),
            empty(horizon * targets, count),
        )
        self._read = empty(horizon * targets, self._wanted.shape[1])
        self._read_by_target = self._read.reshape(horizon, targets, -1)

    def _set_gaps(self, spread: Float32) -> None:
        """The matrix that makes stretched quantiles of the middle one and the gaps between neighbours."""
        count = len(spread)
        middle = self.distribution.middle  # type: ignore[attr-defined]
        gaps = np.zeros((count, count), np.float32)
        for q in range(count):
            between = slice(q, middle) if q < middle else slice(middle + 1, q + 1)
            gaps[between, q] = -1.0 if q < middle else 1.0
        gaps = gaps * spread
        gaps[middle] = 1.0
        self._each_given = self._given.reshape(-1, count)
        self._given_middle, self._gaps_middle = (
            self._each_given[:, middle],
            self._gaps_told[:, middle],
        )
        steps = np.diff(spread)
        is_ordered = bool((steps[middle:] >= 0).all() and (steps[:middle] <= 0).all())
        self._wanted_32 = self._wanted.astype(np.float32)
        self._gaps = gaps @ self._wanted_32 if is_ordered else gaps
        self._is_ordered = is_ordered

    def of_known(self, known: Float32, codes: Integers) -> Float32 | None:
        """``[n, width]``, the part in e of what is known ahead, ``[n, K]`` and ``[n, categories]``.

        A row is the same to the bit whatever rows are beside it.
        """
        if self._ahead is None:
            return None
        columns = [known, *(e[codes[:, k]] for k, e in enumerate(self._embeddings))]
        numbers = np.concatenate(columns, axis=1)
        part = np.zeros((len(numbers), self.width), np.float32)
        for k, weight in enumerate(self._ahead):
            part += numbers[:, k, None] * weight
        return part

    def __call__(
        self, state: NDArray[Any], ahead: Float32 | None, location: Floats, scale: Floats
    ) -> Floats:
        """The quantiles ``[horizon, targets, wanted]`` in the table's units, with ``lags`` as they are.

        Args:
            state: ``[H]``.
            ahead: ``[horizon, width]``, from ``of_known``.
            location: ``[targets, 1]``.
            scale: ``[targets, 1]``.
        """
        hidden, more, given = self._hidden, self._more, self._given
        np.dot(state, self._context, out=self._flat)
        np.add(hidden, self._bias, out=hidden)
        if ahead is not None:
            np.add(hidden, ahead, out=hidden)
        np.dot(self._lags, self._lagged, out=more)
        np.add(hidden, more, out=hidden)
        np.maximum(hidden, ZERO, out=hidden)
        np.dot(hidden, self._inner, out=more)
        np.add(more, self._inner_bias, out=more)
        np.maximum(more, ZERO, out=more)
        np.add(hidden, more, out=hidden)
        np.dot(hidden, self._output, out=given)
        np.add(given, self._output_bias, out=given)
        np.multiply(self._base, self.lags, out=self._products)
        np.dot(self._each_product, self._ones, out=self._near)
        if self._is_fast:
            self._read_quantiles()
            told: Floats = np.multiply(self._read_by_target, scale)
            return np.add(told, location, out=told)
        each = location + scale * self._by_torch(location, scale)
        if self.distribution.is_of_counts:
            np.maximum(np.rint(each, out=each), 0.0, out=each)
        read: Floats = each @ self._wanted
        return read

    def _read_quantiles(self) -> None:
        """Those of ``Quantiles``, stretched, at the levels that are wanted."""
        given, part = self._each_given, self._gaps_told
        np.negative(
            np.abs(given, out=part), out=part
        )  # softplus, by functions that are quick in float32
        np.log(np.add(np.exp(part, out=part), ONE, out=part), out=part)
        np.add(np.maximum(given, ZERO, out=self._told), part, out=part)
        np.add(self._given_middle, self._near, out=self._gaps_middle)
        if self._is_ordered:
            np.dot(part, self._gaps, out=self._read)
            return
        told = np.dot(part, self._gaps, out=self._told)
        told.sort(axis=1)
        np.dot(told, self._wanted_32, out=self._read)

    @torch.no_grad()
    def _by_torch(self, location: Floats, scale: Floats) -> Float32:
        """``[horizon, targets, Q]``: those of any distribution, stretched, scaled."""
        given = torch.from_numpy(self._given.reshape(self.horizon, self.targets, -1))
        near = torch.from_numpy(self._near.reshape(self.horizon, self.targets))
        places = (
            torch.from_numpy(u[:, 0].astype(np.float32)).expand_as(near) for u in (location, scale)
        )
        told: Float32 = stretched(
            self.distribution.quantiles(given, Around(near, *places)), self.spread
        ).numpy()
        return told


def _numbers(weight: Tensor) -> Float32:
    return np.array(weight.detach().numpy(), np.float32, order="C")


def _transposed(linear: nn.Linear) -> tuple[Float32, Float32]:
    return _numbers(linear.weight.T), _numbers(linear.bias)
