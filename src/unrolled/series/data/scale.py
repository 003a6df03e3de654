"""Location and scale of a series at each step, from what came up to that step alone."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

MOST_AT_ONCE = 1 << 22  # values of series side by side
PRIOR = 0.5  # of the mean magnitude: the scale that the first value alone gives
FLOOR = 1e-5  # of the mean magnitude: the least scale, that of a constant series


class Scaling(NamedTuple):
    """``location`` and ``scale``, both ``[T, Y]``; the scale is positive."""

    location: Floats
    scale: Floats


def running_scale(values: ArrayLike) -> Scaling:
    """The location and scale at each step of ``values`` ``[T, Y]``, from the steps up to it and itself.

    Of the n values x that are not NaN, with m their mean and a the mean of their magnitudes:

        location = m        scale = max(sqrt(M2 / n + (PRIOR a / n)²), FLOOR a)

    M2 is the sum of (x - m before x) (x - m with x): Welford's sum of squared deviations ("Note on a method
    for calculating corrected sums of squares and products", 1962), whose terms are never negative. So a
    large mean takes nothing from a small deviation. A step without a value keeps what
    was; before the first one, and where all are zero, the scale is 1.

    >>> location, scale = running_scale([[np.nan], [4.0], [8.0]])
    >>> location.ravel().tolist(), scale.ravel().round(2).tolist()
    ([0.0, 4.0, 6.0], [1.0, 2.0, 2.5])
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 2:
        raise ValueError(f"values: got shape {list(values.shape)}, expected [T, Y]")
    if not len(values):
        return Scaling(values.copy(), values.copy())
    sums = _sums(values)
    n = np.maximum(sums.counts, 1.0)
    magnitude = sums.magnitudes / n
    prior = PRIOR * magnitude / n
    scale = np.maximum(np.sqrt(sums.squares / n + prior * prior), FLOOR * magnitude)
    location = np.where(sums.counts > 0, sums.first + sums.deviations / n, 0.0)
    return Scaling(location, np.where(scale > 0, scale, 1.0))


class _Sums(NamedTuple):
    """Up to each step, ``[T, Y]`` each: how many values, the first, and sums of deviations from it, of
    squares and of magnitudes.
    """

    counts: Floats
    first: Floats
    deviations: Floats
    squares: Floats
    magnitudes: Floats


def _sums(values: Floats) -> _Sums:
    """Those of ``values`` ``[T, Y]``, T > 0."""
    observed = ~np.isnan(values)
    count = np.cumsum(observed, axis=0).astype(np.float64)
    first = values[observed.argmax(axis=0), np.arange(values.shape[1])]
    first = np.where(np.isnan(first), 0.0, first)
    deviation = np.where(observed, values - first, 0.0)
    deviations = np.cumsum(deviation, axis=0)
    mean = deviations / np.maximum(count, 1.0)
    before = np.vstack([np.zeros((1, values.shape[1])), mean[:-1]])
    terms = np.maximum((deviation - before) * (deviation - mean), 0.0)
    squares = np.cumsum(np.where(observed, terms, 0.0), axis=0)
    magnitudes = np.cumsum(np.where(observed, np.abs(values), 0.0), axis=0)
    return _Sums(count, np.broadcast_to(first, values.shape), deviations, squares, magnitudes)


def running_scales(values: Floats, offsets: NDArray[np.int64]) -> Scaling:
    """``running_scale`` of many series, which stand one after the other in ``values`` ``[S, Y]``.

    Series of like lengths are taken side by side, the shorter ones with steps without a value at their end,
    which change nothing; so each gets the same to the bit as alone.

    Args:
        values: of all steps of all series.
        offsets: ``[N + 1]``, where each series begins, and the last one ends.
    """
    location, scale = np.zeros_like(values), np.ones_like(values)
    lengths = np.diff(offsets)
    order = np.argsort(-lengths, kind="stable")
    begin = 0
    while begin < len(order) and lengths[order[begin]]:
        longest = int(lengths[order[begin]])
        like = int((2 * lengths[order] > longest).sum()) - begin
        count = min(like, max(1, MOST_AT_ONCE // (longest * max(1, values.shape[1]))))
        series = order[begin : begin + count]
        steps = np.arange(longest)[:, None]
        rows = (offsets[series] + steps)[steps < lengths[series]]
        block = np.full((longest, count, values.shape[1]), np.nan)
        block[steps < lengths[series]] = values[rows]
        for whole, of_block in zip(
            (location, scale), running_scale(block.reshape(longest, -1)), strict=True
        ):
            whole[rows] = of_block.reshape(block.shape)[steps < lengths[series]]
        begin += count
    return Scaling(location, scale)


class RunningScale:
    """``running_scale`` a step at a time; what it gives is the same to the bit.

    Args:
        width: how many values Y a step has.

    >>> running = RunningScale(1)
    >>> [running.step([x]) for x in (math.nan, 4.0, 8.0)][1]
    ([4.0], [2.0])
    """

    def __init__(self, width: int) -> None:
        self.width = width
        # Of each value: n, the first, the sums of deviations from it, of squares and of magnitudes.
        self._sums = [[0.0, 0.0, 0.0, 0.0, 0.0] for _ in range(width)]
        self._now = [(0.0, 1.0)] * width

    @classmethod
    def after(cls, values: ArrayLike) -> "RunningScale":
        """One that has taken all steps of ``values`` ``[T, Y]``, at once."""
        location, scale = running_scale(values)
        values = np.asarray(values, dtype=np.float64)
        running = cls(values.shape[1])
        if len(values):
            running._sums = np.stack([part[-1] for part in _sums(values)], axis=1).tolist()
            running._now = list(zip(location[-1].tolist(), scale[-1].tolist(), strict=True))
        return running

    def step(self, values: ArrayLike) -> tuple[list[float], list[float]]:
        """Take the values of one step, NaN where there is none; the location and the scale with it."""
        row = values if isinstance(values, list) else np.asarray(values, dtype=np.float64).tolist()
        if len(row) != self.width:
            raise ValueError(f"values: got {len(row)}, expected {self.width}")
        for k, (value, sums) in enumerate(zip(row, self._sums, strict=True)):
            if not math.isnan(value):
                self._now[k] = _taken(value, sums)
        return [location for location, _ in self._now], [scale for _, scale in self._now]

    def state_dict(self) -> dict[str, list[list[float]]]:
        """All that it has seen, as numbers."""
        return {
            "sums": [list(sums) for sums in self._sums],
            "now": [list(now) for now in self._now],
        }

    def load_state_dict(self, saved: Mapping[str, list[list[float]]]) -> None:
        """Go on from what ``state_dict`` gave."""
        sums, now = saved["sums"], saved["now"]
        if len(sums) != self.width or len(now) != self.width:
            raise ValueError(f"saved: got {len(sums)} values a step, expected {self.width}")
        self._sums = [[float(number) for number in row] for row in sums]
        self._now = [(float(location), float(scale)) for location, scale in now]


def _taken(value: float, sums: list[float]) -> tuple[float, float]:
    """Add ``value`` to ``sums``, in the order of operations of ``running_scale``."""
    n, first, deviations, squares, magnitudes = sums
    if n == 0.0:
        first = value
    before = deviations / max(n, 1.0)
    n += 1.0
    deviation = value - first
    deviations += deviation
    mean = deviations / n
    squares += max((deviation - before) * (deviation - mean), 0.0)
    magnitudes += abs(value)
    magnitude = magnitudes / n
    sums[:] = n, first, deviations, squares, magnitudes
    prior = PRIOR * magnitude / n
    scale = max(math.sqrt(squares / n + prior * prior), FLOOR * magnitude)
    return first + mean, scale if scale > 0 else 1.0
