"""Rows as steps: gaps become steps of their own, and the future comes after each history."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from unrolled.errors import CallError, DataError
from unrolled.series.data.clock import FRACTION, Clock
from unrolled.series.data.frequency import Frequency, inferred
from unrolled.series.data.plan import Plan
from unrolled.series.data.rows import Groups, Rows, timed

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]

INFER, IRREGULAR = "infer", "irregular"
MOST_FILLED = 50  # steps that a row may come to, gaps filled in
FEW = 5_000_000  # steps that any table may have
OFTEN = 3  # gaps from which on a frequency can be told from chance


class Timeline(NamedTuple):
    """When the rows are, by series.

    ``times`` ``[N]``: of each row. ``frequency``: how often they come; ``None``: irregularly. ``unit``:
    from one to the next, in nanoseconds or a counter's numbers; of irregular ones the median. ``steps``
    ``[N]``: that of each row in its series, from 0.
    """

    clock: Clock
    times: Integers
    frequency: Frequency | None
    unit: int
    steps: Integers

    def kept(self, stays: NDArray[np.bool_]) -> "Timeline":
        """That of some rows alone."""
        return self._replace(times=self.times[stays], steps=self.steps[stays])


def timeline_of(
    rows: Rows,
    groups: Groups,
    plan: Plan | None,
    frequency: str | float | Frequency | None,
    zone: str | None,
) -> Timeline:
    """When the rows are: as the plan says, or where there is none yet as their times do.

    Raises:
        DataError: times do not rise, or do not come as often as they should.
        CallError: the frequency does not fit the times.
    """
    clock, times = timed(rows, groups, plan.clock.zone if plan is not None else zone)
    if plan is None:
        step = _frequency(frequency, rows, groups, clock, times)
        unit = _usual_gap(groups, times) if step is None else step.size
    else:
        step, unit = _held_frequency(plan, rows, groups, clock, times), plan.unit
    return Timeline(clock, times, step, unit, _steps(rows, groups, clock, times, step))


def _frequency(
    given: str | float | Frequency | None, rows: Rows, groups: Groups, clock: Clock, times: Integers
) -> Frequency | None:
    """As ``given``, or if that is ``"infer"`` from the times."""
    if clock.kind == "order":
        return Frequency("step")
    if given is None or given == IRREGULAR:
        return None
    if given == INFER:
        if len(groups.starts) == len(times) and rows.roles.targets:
            keys = ", ".join(map(repr, rows.roles.series))
            raise DataError(
                f"{rows.table.name}: every series has one row, from which no frequency is seen; "
                "expected more, or a frequency: 'hour', 'day', …"
                + (f"; is {keys} what names a series?" if keys else "")
            )
        return _inferred(groups, clock, times)
    if clock.kind == "fractions" and isinstance(given, int | float) and given > 0:
        return Frequency("step", max(1, round(given * FRACTION)))
    step = Frequency.of(given)
    if clock.is_calendar == (step.unit == "step"):
        expected = "a unit of time, such as 'hour'" if clock.is_calendar else "a whole number"
        raise CallError(f"frequency: got {step} for {clock.described}, expected {expected}")
    return step


def _inferred(groups: Groups, clock: Clock, times: Integers) -> Frequency | None:
    return inferred(times, clock.local(times) if clock.is_calendar else None, groups.starts)


def _held_frequency(
    plan: Plan, rows: Rows, groups: Groups, clock: Clock, times: Integers
) -> Frequency | None:
    """The plan's, if the rows come more than half as often."""
    if not plan.clock.agrees(clock):
        raise DataError(
            f"{rows.table.name}: the column {rows.roles.time!r} (time) holds {clock.described}, expected "
            f"{plan.clock.described} as in training"
        )
    step = plan.frequency
    if step is None or clock.kind == "order" or len(times) - len(groups.starts) < OFTEN:
        return step
    got = _inferred(groups, clock, times)
    if got and got.size >= 2 * step.size:
        raise DataError(
            f"{rows.table.name}: rows {clock.every(got)}, expected {clock.every(step)} as in training; "
            "train on such a table, or add the rows between, empty where nothing was measured"
        )
    return step


def _steps(
    rows: Rows, groups: Groups, clock: Clock, times: Integers, step: Frequency | None
) -> Integers:
    """The step of each row, by series, counted from 0 in each."""
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
                f"{groups.name(series)} {why}; expected rows {clock.every(step)} from {first}; for times "
                "without a frequency say so: irregular"
            )
    whole = int((steps[groups.ends] + 1).sum())
    if whole > MOST_FILLED * len(times) + FEW:
        raise DataError(
            f"{rows.table.name}: {len(times):,} rows, {clock.every(step)}, would be {whole:,} steps; "
            f"expected at most {MOST_FILLED} a row; take a longer frequency, or 'irregular' for times "
            "without one"
        )
    return steps


def _usual_gap(groups: Groups, times: Integers) -> int:
    """The median of the gaps within series."""
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

    def times(self, groups: Groups, line: Timeline) -> Integers:
        """The time of each step: its row's own, or as the frequency goes on from the first.

        Without a frequency there are steps without a row in the future alone, a usual gap from
        one to the next.
        """
        clock, times, step = line.clock, line.times, line.frequency
        if len(self.rows) == len(times) == self.count:
            return times
        counted = np.arange(self.count) - np.repeat(self.offsets[:-1], self.sizes)
        if step is None:
            last = np.minimum(groups.sizes, self.sizes) - 1
            begins = np.repeat(times[groups.starts + last], self.sizes)
            filled = begins + (counted - np.repeat(last, self.sizes)) * line.unit
        elif step.is_local:
            begins = np.repeat(clock.local(times[groups.starts]), self.sizes)
            filled = clock.utc(step.times(begins, counted))
        else:
            filled = step.times(np.repeat(times[groups.starts], self.sizes), counted)
        filled[self.places] = times[self.rows]
        return np.asarray(filled, dtype=np.int64)

    def gaps(self, times: Integers, line: Timeline) -> Floats:
        """The time since the step before, in usual gaps; 0 at the first of a series."""
        gaps = np.ones(self.count)
        if line.frequency is None:
            gaps[1:] = np.diff(times) / line.unit
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
