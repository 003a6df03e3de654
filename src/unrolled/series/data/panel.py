"""A table as arrays: each series with its steps, gaps filled in, and its future."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from unrolled.series.data.plan import Plan

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]


class Series(NamedTuple):
    """One series: T steps of history, then F of the future, of which the known columns are known.

    Numbers are float64, NaN where one is missing; codes int64, 0 where one is missing or unknown.

    ``key``: the texts of its key columns. ``times`` ``[T + F]``: UTC in nanoseconds, or a counter.
    ``gaps`` ``[T + F]``: the time since the step before, in usual steps; 0 at the first.
    ``targets`` ``[T, Y]``, ``past`` ``[T, P]``, ``known`` ``[T + F, K]`` with the features of the calendar,
    ``past_codes`` ``[T, …]``, ``known_codes`` ``[T + F, …]``, ``static`` ``[S]``, ``static_codes`` ``[…]``:
    columns as ``Plan.targets``, ``past``, ``known``, ``static`` and ``categories(role)`` name them.
    """

    key: tuple[str, ...]
    times: Integers
    gaps: Floats
    targets: Floats
    past: Floats
    known: Floats
    past_codes: Integers
    known_codes: Integers
    static: Floats
    static_codes: Integers


@dataclass(frozen=True)
class Panel(Sequence[Series]):
    """All series of a table, one after the other in the same arrays; ``panel[i]`` is a view of one.

    ``lengths`` ``[N]``: the steps T of each history; ``future``: the steps F after each. ``offsets``
    ``[N + 1]``: where each series begins in the arrays, whose first dimension is all steps,
    T + F of each series; those of targets and past are NaN, or 0, in the future.
    ``key_columns``: the values of each key column, ``[N]``, as Arrow arrays of the table's types.
    """

    plan: Plan
    keys: list[tuple[str, ...]]
    lengths: Integers
    future: int
    offsets: Integers
    times: Integers
    gaps: Floats
    targets: Floats
    past: Floats
    known: Floats
    past_codes: Integers
    known_codes: Integers
    static: Floats
    static_codes: Integers
    key_columns: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.keys)

    @overload
    def __getitem__(self, index: int) -> Series: ...
    @overload
    def __getitem__(self, index: slice) -> list[Series]: ...
    def __getitem__(self, index: int | slice) -> Series | list[Series]:
        if isinstance(index, slice):
            return [self[k] for k in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        begin, length = int(self.offsets[index]), int(self.lengths[index])
        past, whole = slice(begin, begin + length), slice(begin, begin + length + self.future)
        return Series(
            self.keys[index],
            self.times[whole],
            self.gaps[whole],
            self.targets[past],
            self.past[past],
            self.known[whole],
            self.past_codes[past],
            self.known_codes[whole],
            self.static[index],
            self.static_codes[index],
        )

    def __iter__(self) -> Iterator[Series]:
        return (self[k] for k in range(len(self)))

    def splits(self) -> Integers:
        """Where training and validation end in each history: ``[N, 2]``; test ends with it.

        The targets at steps before the first number are for training, those from the second on for test.
        """
        return split_bounds(self.lengths, self.plan.shares, self.plan.least)


def split_bounds(lengths: Integers, shares: tuple[float, float], least: int) -> Integers:
    """Where training and validation end in series of so many steps: ``[N, 2]``.

    Validation and test are the last ``shares`` of a series, of at least ``least`` steps each. A series of which
    less than three times as many would be left for training is for training as a whole.

    >>> split_bounds(np.array([100, 5]), (0.1, 0.1), 4).tolist()
    [[80, 90], [5, 5]]
    """
    lengths = np.asarray(lengths, dtype=np.int64)
    parts = [
        np.where(share > 0, np.maximum(np.rint(share * lengths).astype(np.int64), least), 0)
        for share in shares
    ]
    is_short = lengths - parts[0] - parts[1] < 3 * least
    validation, test = (np.where(is_short, 0, part) for part in parts)
    return np.stack([lengths - validation - test, lengths - test], axis=1)
