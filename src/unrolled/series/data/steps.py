"""Rows as steps: gaps become steps of their own, and the future comes after each history."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unrolled.errors import CallError, DataError
from unrolled.series.data.clock import FRACTION, Clock
from unrolled.series.data.frequency import Frequency, inferred
from unrolled.series.data.plan import Plan
from unrolled.series.data.rows import Groups, Rows

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]

INFER = "infer"
MOST_FILLED = 50  # steps that a row may come to, gaps filled in
FEW = 10_000  # steps that any table may have
OFTEN = 3  # gaps from which on a frequency can be told from chance


def frequency_of(
    given: str | float | Frequency | None, rows: Rows, groups: Groups, clock: Clock, times: Integers
) -> Frequency | None:
    """How often the rows come: as ``given``, or if that is ``"infer"`` from their times.

    Raises:
        CallError: what is given does not fit the clock.
        DataError: it is to be inferred, and each series has one row.
    """
    if clock.kind == "order":
        return Frequency("step")
    if given is None:
        return None
    if given == INFER:
        if len(groups.starts) == len(times) and not rows.roles.targets:
            return None
        if len(groups.starts) == len(times):
            raise DataError(
                f"{rows.table.name}: every series has one row, from which no frequency is seen; "
                f"expected more, or a frequency: 'hour', 'day', …{_advice_for_singles(rows)}"
            )
        return inferred(times, clock.local(times) if clock.is_calendar else None, groups.starts)
    if clock.kind == "fractions" and isinstance(given, int | float) and given > 0:
        return Frequency("step", max(1, round(given * FRACTION)))
    step = Frequency.of(given)
    if clock.is_calendar == (step.unit == "step"):
        expected = "a unit of time, such as 'hour'" if clock.is_calendar else "a whole number"
        raise CallError(f"frequency: got {step} for {clock.described}, expected {expected}")
    return step


def _advice_for_singles(rows: Rows) -> str:
    if not rows.roles.series:
        return ""
    return f"; is {', '.join(map(repr, rows.roles.series))} what names a series?"


def held_frequency(
    plan: Plan, rows: Rows, groups: Groups, clock: Clock, times: Integers
) -> Frequency | None:
    """The plan's frequency, if the rows come as often.

    Raises:
        DataError: they come half as often or less; or the clock is of another kind.
    """
    if not plan.clock.agrees(clock):
        raise DataError(
            f"{rows.table.name}: the column {rows.roles.time!r} (time) holds {clock.described}, expected "
            f"{plan.clock.described} as in training"
        )
    step = plan.frequency
    if step is None or clock.kind == "order" or len(times) - len(groups.starts) < OFTEN:
        return step
    got = inferred(times, clock.local(times) if clock.is_calendar else None, groups.starts)
    if got and got.size >= 2 * step.size:
        raise DataError(
            f"{rows.table.name}: a row every {clock.step(got)}, expected every {clock.step(step)} as in "
            f"training; train on "
            "such a table, or add the rows between, empty where nothing was measured"
        )
    return step


def steps_of(
    rows: Rows, groups: Groups, clock: Clock, times: Integers, step: Frequency | None
) -> Integers:
    """The step of each row, by series, counted from 0 in each.

    Raises:
        DataError: a row lies between steps, or in the same as the row before; or gaps make too many steps.
    """
    if step is None or clock.kind == "order":
        return np.arange(len(times)) - np.repeat(groups.starts, groups.sizes)
    moments = clock.local(times) if step.is_local else times
    steps, between = step.steps(np.repeat(moments[groups.starts], groups.sizes), moments)
    same = np.append(False, groups.is_inner[1:] & (steps[1:] <= steps[:-1]))
    for wrong, why in (
        (between, "lies between two steps"),
        (same, "falls into the step of the row before"),
    ):
        if wrong.any():
            at = int(wrong.argmax())
            series = int(groups.of_row[at])
            first = clock.text(int(times[groups.starts[series]]))
            raise DataError(
                f"{rows.at(int(groups.order[at]))}: {clock.text(int(times[at]))} of "
                f"{groups.name(series)} {why}; expected a row every {clock.step(step)} from {first}; "
                f"for times "
                "without a frequency: frequency=None"
            )
    whole = int((steps[groups.ends] + 1).sum())
    if whole > MOST_FILLED * len(times) + FEW:
        raise DataError(
            f"{rows.table.name}: {len(times):,} rows would be {whole:,} steps, one every "
            f"{clock.step(step)}; "
            f"expected at most {MOST_FILLED} a row; take a longer frequency, or None for times without one"
        )
    return steps


def usual_gap(groups: Groups, times: Integers, step: Frequency | None) -> int:
    """From one step to the next, in nanoseconds or a counter's numbers; of irregular times the median."""
    if step is not None:
        return step.size
    gaps = np.diff(times)[groups.is_inner[1:]]
    return max(1, int(np.median(gaps))) if len(gaps) else 1


@dataclass(frozen=True)
class Layout:
    """Where rows stand among the steps of all series, T of history and F of future each.

    ``lengths`` ``[N]``: T. ``offsets`` ``[N + 1]``: where each series begins. ``rows``: those that stay,
    of the rows by series; ``places``: the step of each.
    """

    lengths: Integers
    future: int
    offsets: Integers
    rows: Integers
    places: Integers

    @classmethod
    def of(cls, groups: Groups, steps: Integers, lengths: Integers, future: int) -> "Layout":
        """That of rows at ``steps``; those after the future are left out."""
        sizes = lengths + future
        offsets = np.append(0, np.cumsum(sizes))
        rows = np.flatnonzero(steps < sizes[groups.of_row])
        return cls(lengths, future, offsets, rows, offsets[groups.of_row[rows]] + steps[rows])

    @property
    def count(self) -> int:
        """The steps of all series."""
        return int(self.offsets[-1])

    @property
    def sizes(self) -> Integers:
        """The steps T + F of each."""
        return np.diff(self.offsets)

    @property
    def is_future(self) -> NDArray[np.bool_]:
        """Whether a step is after its history."""
        return np.arange(self.count) >= np.repeat(self.offsets[:-1] + self.lengths, self.sizes)

    def scattered(self, values: Any, missing: float) -> Any:
        """Values of rows, by series, as those of all steps, ``missing`` where there is no row."""
        if len(self.rows) == len(values) == self.count:
            return values
        found = np.full((self.count, *values.shape[1:]), missing, dtype=values.dtype)
        found[self.places] = values[self.rows]
        return found

    def times(
        self, groups: Groups, clock: Clock, times: Integers, step: Frequency | None, unit: int
    ) -> Integers:
        """The time of each step: its row's own, or as the frequency goes on from the first.

        Without a frequency there are steps without a row in the future alone, a usual gap from
        one to the next.
        """
        if len(self.rows) == len(times) == self.count:
            return times
        counted = np.arange(self.count) - np.repeat(self.offsets[:-1], self.sizes)
        if step is None:
            last = np.minimum(groups.sizes, self.sizes) - 1
            begins = np.repeat(times[groups.starts + last], self.sizes)
            filled = begins + (counted - np.repeat(last, self.sizes)) * unit
        elif step.is_local:
            begins = np.repeat(clock.local(times[groups.starts]), self.sizes)
            filled = clock.utc(step.times(begins, counted))
        else:
            filled = step.times(np.repeat(times[groups.starts], self.sizes), counted)
        filled[self.places] = times[self.rows]
        return np.asarray(filled, dtype=np.int64)

    def gaps(self, times: Integers, step: Frequency | None, unit: int) -> Floats:
        """The time since the step before, in usual gaps; 0 at the first of a series."""
        gaps = np.ones(self.count)
        if step is None:
            gaps[1:] = np.diff(times) / unit
        gaps[self.offsets[:-1]] = 0.0
        return gaps

    def require_future(self, rows: Rows, groups: Groups, clock: Clock, times: Integers) -> None:
        """Refuse a future without the rows that hold what is known of it."""
        if not self.future or not rows.roles.known:
            return
        empty = self.is_future
        empty[self.places] = False
        lacking = np.flatnonzero(np.add.reduceat(empty.astype(np.int64), self.offsets[:-1]))
        if not len(lacking):
            return
        series = int(lacking[0])
        begin = int(self.offsets[series] + self.lengths[series])
        wanted = np.flatnonzero(empty[begin : begin + self.future]) + begin
        first, last = (clock.text(int(times[k])) for k in (wanted[0], wanted[-1]))
        more = f" (and of {len(lacking) - 1:,} more series)" if len(lacking) > 1 else ""
        raise DataError(
            f"{rows.table.name}: {len(wanted)} of the {self.future} rows after the last target of "
            f"{groups.name(series)} are missing{more}, from {first} to {last}; expected them, with "
            f"the target empty and what is known ahead: {', '.join(rows.roles.known)}"
        )
