"""What streams know of the steps to come: from the calendar, and from rows that were given ahead."""

from bisect import bisect_left
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from unrolled.errors import DataError
from unrolled.series.data import Plan, calendar
from unrolled.series.data.frequency import Frequency
from unrolled.series.data.origins import Statistics, filled, standardized
from unrolled.series.head import Head

Float32 = NDArray[np.float32]
Integers = NDArray[np.int64]

BLOCK = 512  # steps that are looked up together
BLOCKS = 64  # that are kept
TRIMMED = 1024  # rows that are past before they are forgotten


class Known(NamedTuple):
    """What is known at n steps: ``inputs`` ``[n, K]``, standardized; ``codes`` ``[n, categories]``.

    ``parts``: ``[n, width]``, of ``Head.of_known``; ``None`` if the network knows nothing ahead.
    """

    inputs: Float32
    codes: Integers
    parts: Float32 | None

    def rows(self, chosen: slice | Integers) -> "Known":
        """Some of the steps."""
        parts = None if self.parts is None else self.parts[chosen]
        return Known(self.inputs[chosen], self.codes[chosen], parts)


class Block(NamedTuple):
    """Steps that follow each other, from ``begin``: their ``times``, and what the calendar says of them.

    The steps of the horizon after the last of them are there too.
    """

    begin: int
    times: list[int]
    known: Known


class Calendar:
    """The features of the calendar at any times, and the steps of a regular frequency, block by block.

    Args:
        plan: of the table.
        statistics: of its columns in training; those of ``known`` end with the calendar's.
        head: which reads them.
    """

    def __init__(self, plan: Plan, statistics: Statistics, head: Head) -> None:
        self.plan, self.head = plan, head
        self.size = 2 * len(plan.cycles)
        columns = len(statistics.known)
        self._statistics = statistics.known[columns - self.size :]
        self._is_alone = columns == self.size and not plan.categories("known")
        self._blocks: dict[tuple[int, int], Block] = {}

    def features(self, times: Integers) -> Float32:
        """``[n, K]``, standardized."""
        plan = self.plan
        values = calendar.features(
            times, plan.clock, plan.cycles, step=plan.unit, season=plan.season
        )
        return filled(standardized(values, self._statistics)).astype(np.float32)

    def known(self, times: Integers) -> Known:
        """All that is known at ``times`` where the calendar is all."""
        inputs, codes = self.features(times), np.zeros((len(times), 0), np.int64)
        return Known(inputs, codes, self.head.of_known(inputs, codes) if self._is_alone else None)

    def start(self, time: int) -> tuple[int, int]:
        """Of a series that begins at ``time``: from when its steps are counted, and its first step.

        That is in local time if the frequency is. Series whose steps are at the same times share it.
        """
        frequency = self._frequency
        if self.plan.clock.kind == "order":
            return 0, 0
        if not frequency.is_local:
            step, first = divmod(time, frequency.size)
            return first, step
        moment = self.plan.clock.local(np.array([time], dtype=np.int64))
        origin = frequency.origin(moment)
        steps, between = frequency.steps(origin, moment)
        return (int(moment[0]), 0) if between[0] else (int(origin[0]), int(steps[0]))

    def block(self, first: int, step: int) -> Block:
        """The block of a step, counted from ``first``; the same for all series that share that."""
        begin = step // BLOCK * BLOCK
        found = self._blocks.get((first, begin))
        if found is None:
            times = self._times(first, begin + np.arange(BLOCK + self.head.horizon + 1))
            found = Block(begin, times.tolist(), self.known(times))
            if len(self._blocks) >= BLOCKS:
                del self._blocks[next(iter(self._blocks))]
            self._blocks[first, begin] = found
        return found

    def step(self, first: int, time: int) -> int:
        """The step of ``time``, counted from ``first``.

        Raises:
            DataError: it lies between two.
        """
        clock, frequency = self.plan.clock, self._frequency
        moment = np.array([time], dtype=np.int64)
        if frequency.is_local:
            moment = clock.local(moment)
        steps, between = frequency.steps(np.array([first], dtype=np.int64), moment)
        if between[0]:
            raise DataError(
                f"the row: {clock.text(time)} lies between two steps; expected a row "
                f"{clock.every(frequency)}"
            )
        return int(steps[0])

    def _times(self, first: int, steps: Integers) -> Integers:
        clock, frequency, begin = self.plan.clock, self._frequency, np.array([first], np.int64)
        if frequency.is_local:
            return clock.utc(frequency.times(begin, steps))
        return frequency.times(begin, steps)

    @property
    def _frequency(self) -> Frequency:
        frequency = self.plan.frequency
        assert frequency is not None  # whoever has none counts no steps
        return frequency


class Given:
    """Rows that were given of the steps of one series to come, by their times."""

    def __init__(self) -> None:
        self.times: list[int] = []
        self.known: Known | None = None

    def add(self, times: Integers, known: Known) -> None:
        """More rows; one of a time that is there takes its place."""
        every, both = times, known
        if self.known is not None:
            every = np.concatenate([np.array(self.times, np.int64), times])
            both = joined([self.known, known])
        # the last of each time, in order
        kept, last = np.unique(every[::-1], return_index=True)
        self.times, self.known = kept.tolist(), both.rows(len(every) - 1 - last)

    def at(self, time: int) -> Known | None:
        """The row of a time, if it was given."""
        k = bisect_left(self.times, time)
        if self.known is None or k == len(self.times) or self.times[k] != time:
            return None
        return self.known.rows(slice(k, k + 1))

    def after(self, time: int, count: int) -> tuple[list[int], Known | None]:
        """The next ``count`` rows after a time, or as many as there are; what is past is forgotten."""
        k = bisect_left(self.times, time + 1)
        if k > TRIMMED and self.known is not None:
            self.times, self.known = self.times[k - 1 :], self.known.rows(slice(k - 1, None))
            k = 1
        chosen = slice(k, k + count)
        return self.times[chosen], self.known and self.known.rows(chosen)


def joined(parts: list[Known]) -> Known:
    """The steps of several, one after the other."""
    inputs, codes, of_head = zip(*parts, strict=True)
    shared = None if of_head[0] is None else np.concatenate(of_head)
    return Known(np.concatenate(inputs), np.concatenate(codes), shared)
