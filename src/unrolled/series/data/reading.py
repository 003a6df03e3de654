"""From a table to a panel: the rows grouped by series, held to their order and frequency, and filled in."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from unrolled.errors import CallError, DataError
from unrolled.series.data import calendar
from unrolled.series.data.frames import Table, extra, table_of
from unrolled.series.data.frequency import Frequency, inferred
from unrolled.series.data.panel import Panel, split_bounds
from unrolled.series.data.plan import Column, Plan, Roles
from unrolled.series.data.times import Clock, times_of

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]
Infer = Literal["infer"]

MOST_FILLED = 50  # steps that a row may come to, gaps filled in
OFTEN = 3  # equal gaps from which on they are a frequency of their own


def panel_of(
    frame: Any,
    roles: Roles | Plan,
    *,
    future: Any = None,
    horizon: int = 0,
    frequency: str | int | Frequency | None | Infer = "infer",
    season: int | None = None,
    zone: str | None = None,
    shares: tuple[float, float] = (0.1, 0.1),
    least: int = 1,
) -> Panel:
    """The series of a table as arrays, with the plan that they follow, ``Panel.plan``.

    A history ends with the last value of any target. Rows after it hold what is known of the future.

    Args:
        frame: a frame, a mapping from names to arrays, or a ``Table``.
        roles: which column is what, and a plan is made; or a plan, to which the table is held: its
            columns, types and frequency. Series and levels may be new.
        future: more rows, with known columns and without targets.
        horizon: the steps F after each history; their known columns have to be there.
        frequency: "hour", "30 minutes", …; ``"infer"``: from the times; ``None``: irregular.
        season: the steps of a season, if not the usual one of the frequency.
        zone: where times without a zone are local, and in which the calendar is read.
        shares: of each series' steps, held out for validation and test.
        least: the steps that a held-out part has at least.

    Raises:
        DataError: the table cannot be used as it is; the text names row and series.
        CallError: an argument cannot be served.
    """
    table = table_of(frame)
    plan = roles if isinstance(roles, Plan) else None
    if plan is not None:
        roles = plan.roles
    assert isinstance(roles, Roles)
    rows = _Rows(table, None if future is None else table_of(future, "the future frame"), roles)
    groups = _grouped(rows, roles)
    clock, times = _timed(rows, groups, roles, plan.clock.zone if plan else zone)
    if plan is not None:
        _hold_clock(rows, plan, clock)
    _refuse_disorder(rows, groups, roles, clock, times)
    local = clock.local(times)
    step = _frequency(plan, frequency, clock, times, local, groups)
    steps = _stepped(rows, groups, clock, times, local, step)
    unit = plan.unit if plan else _unit(times, groups, step)
    targets = np.stack([rows.numbers(name, "target", groups.order) for name in roles.targets], axis=1)
    observed = ~np.isnan(targets).all(axis=1)
    lengths = np.maximum.reduceat(np.where(observed, steps + 1, 0), groups.starts)
    notes = list(rows.notes)
    keep = lengths > 0
    if not keep.all():
        groups, steps, times, targets, lengths = _without(rows, groups, steps, times, targets, lengths, plan, roles, notes)
    layout = _laid_out(groups, lengths, steps, horizon)
    filled_times = _times(layout, groups, clock, times, steps, step, unit)
    columns = _Columns(rows, groups, layout, plan, roles)
    _require_future(rows, groups, layout, steps, filled_times, clock, roles, horizon, step)
    values: dict[str, Any] = {"targets": layout.scattered(targets)}
    for role in ("past", "known"):
        values[role], values[f"{role}_codes"] = columns.stepped(role)
    values["static"], values["static_codes"] = columns.static()
    if plan is None:
        plan = _plan(
            rows, groups, roles, clock, step, unit, season, times, layout, values, columns, shares, least, notes
        )
    known = calendar.features(filled_times, clock, plan.cycles, step=plan.unit, season=plan.season)
    values["known"] = np.concatenate([values["known"], known], axis=1)
    if horizon:
        for name in ("targets", "past"):
            values[name][layout.is_future] = np.nan
        values["past_codes"][layout.is_future] = 0
    return Panel(
        plan=plan,
        keys=groups.keys,
        lengths=lengths,
        future=horizon,
        offsets=layout.offsets,
        times=filled_times,
        gaps=_gaps(layout, filled_times, step, unit),
        key_columns={name: rows.table.arrow(name).take(groups.firsts) for name in roles.series},
        **values,
    )


class _Rows:
    """The rows of a table and of its future, as one."""

    def __init__(self, table: Table, future: Table | None, roles: Roles) -> None:
        self.table, self.future, self.notes = table, future, list[str]()
        for name, role in roles.of_columns():
            table.check_names([name], role)
            if future is not None and role in ("time", "series", "known"):
                future.check_names([name], role)
        self.count = table.rows + (future.rows if future is not None else 0)
        if not table.rows:
            raise DataError(f"{table.name}: no rows, expected a row for each time of each series")

    def row(self, index: int) -> str:
        """How messages call a row."""
        if self.future is None or index < self.table.rows:
            return self.table.row(index)
        return f"{self.future.name}, {self.future.row(index - self.table.rows)}"

    def numbers(self, name: str, role: str, order: Integers | slice = slice(None)) -> Floats:
        """A column as numbers; NaN in the future if it is not there."""
        values = self.table.numbers(name, role)
        if self.future is not None:
            more = (
                self.future.numbers(name, role)
                if name in self.future and role == "known"
                else np.full(self.future.rows, np.nan)
            )
            values = np.concatenate([values, more])
        return values[order]

    def levels(self, name: str) -> tuple[Integers, list[str]]:
        """A column as codes and their texts; -1 in the future if it is not there."""
        codes, texts = self.table.levels(name)
        if self.future is None:
            return codes, texts
        if name not in self.future:
            return np.concatenate([codes, np.full(self.future.rows, -1)]), texts
        more, others = self.future.levels(name)
        place = {text: k for k, text in enumerate(texts)}
        texts = texts + [text for text in others if text not in place]
        place = {text: k for k, text in enumerate(texts)}
        moved = np.array([place[text] for text in others] + [-1], dtype=np.int64)
        return np.concatenate([codes, moved[more]]), texts


class _Groups(NamedTuple):
    """Rows by series: ``order`` sorts them so, ``starts`` and ``sizes`` are of each series, in that order.

    ``firsts``: the first row of each, as the table has it; ``of_row``: the series of each sorted row.
    """

    keys: list[tuple[str, ...]]
    order: Integers
    starts: Integers
    sizes: Integers
    firsts: Integers
    of_row: Integers

    def name(self, series: int) -> str:
        """What messages call a series."""
        key = self.keys[series]
        return f"the series {' / '.join(key)}" if key else "the series"


def _grouped(rows: _Rows, roles: Roles) -> _Groups:
    compute, arrow = extra("pyarrow.compute"), extra("pyarrow")
    if not roles.series:
        order = np.arange(rows.count)
        zero = np.zeros(1, dtype=np.int64)
        return _Groups([()], order, zero, np.array([rows.count]), zero, np.zeros(rows.count, dtype=np.int64))
    codes, texts = np.zeros(rows.count, dtype=np.int64), list[list[str]]()
    parts = []
    for name in roles.series:
        part, levels = rows.levels(name)
        if (part < 0).any():
            raise DataError(
                f"{rows.table.name}: {rows.row(int((part < 0).argmax()))}: the column {name!r} (series) is empty, "
                "expected the name of a series"
            )
        codes = codes * len(levels) + part
        parts.append(part)
        texts.append(levels)
    encoded = compute.dictionary_encode(arrow.array(codes))
    group = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    is_sorted = bool((group[1:] >= group[:-1]).all())
    order = np.arange(rows.count) if is_sorted else np.argsort(group, kind="stable")
    of_row = group[order]
    starts = np.flatnonzero(np.append(True, of_row[1:] != of_row[:-1]))
    firsts = order[starts]
    if (firsts >= rows.table.rows).any():
        at = int(firsts[firsts >= rows.table.rows][0])
        name = " / ".join(levels[part[at]] for levels, part in zip(texts, parts, strict=True))
        raise DataError(f"{rows.row(at)}: the series {name} has no history in {rows.table.name}")
    keys = list(
        zip(*([levels[k] for k in part[firsts]] for levels, part in zip(texts, parts, strict=True)), strict=True)
    )
    return _Groups(keys, order, starts, np.diff(np.append(starts, rows.count)), firsts, of_row)


def _timed(rows: _Rows, groups: _Groups, roles: Roles, zone: str | None) -> tuple[Clock, Integers]:
    """The clock, and the time of each sorted row."""
    if roles.time is None:
        return Clock("order"), np.arange(rows.count) - np.repeat(groups.starts, groups.sizes)
    times, clock = times_of(rows.table, roles.time, zone=zone)
    if rows.future is not None:
        more, other = times_of(rows.future, roles.time, zone=zone)
        if other.is_calendar != clock.is_calendar or (other.zone is None) != (clock.zone is None):
            raise DataError(
                f"{rows.future.name}: the column {roles.time!r} (time) holds {described(other)}, "
                f"expected {described(clock)} as in {rows.table.name}"
            )
        times = np.concatenate([times, more])
    return clock, times[groups.order]


def described(clock: Clock) -> str:
    """A clock in words."""
    if clock.is_calendar:
        zone = f"in the zone {clock.zone}" if clock.zone else "without a zone"
        return f"{'dates' if clock.kind == 'date' else f'times {zone}'}"
    return {"counter": "whole numbers", "fractions": "numbers"}.get(clock.kind, "no times")


def _hold_clock(rows: _Rows, plan: Plan, clock: Clock) -> None:
    was = plan.clock
    if clock.is_calendar == was.is_calendar and (clock.zone is None) == (was.zone is None):
        return
    (column,) = plan.of_role("time")
    raise DataError(
        f"{rows.table.name}: the column {column.name!r} (time) holds {described(clock)}, "
        f"expected {described(was)} as in training"
    )


def _refuse_disorder(rows: _Rows, groups: _Groups, roles: Roles, clock: Clock, times: Integers) -> None:
    gaps = np.diff(times)
    inner = np.ones(len(times), dtype=bool)
    inner[groups.starts] = False
    wrong = inner[1:] & (gaps <= 0)
    if not wrong.any():
        return
    at = int(wrong.argmax())
    before, now = groups.order[at], groups.order[at + 1]
    name = groups.name(int(groups.of_row[at]))
    where = f"{rows.table.name}: {rows.row(int(now))}"
    if gaps[at] == 0:
        raise DataError(
            f"{where}: {name} has {clock.text(int(times[at]))} twice, first in {rows.row(int(before))}; "
            f"expected each time once{_advice_for_twice(rows, roles, clock)}"
        )
    raise DataError(
        f"{where}: {name} goes back from {clock.text(int(times[at]))} to {clock.text(int(times[at + 1]))}, expected "
        f"times that rise within a series; sort it, {rows.table.sorting([*roles.series, str(roles.time)])}"
    )


def _advice_for_twice(rows: _Rows, roles: Roles, clock: Clock) -> str:
    others = [
        name
        for name in rows.table.names
        if name not in dict(roles.of_columns()) and rows.table.kind(name) == "text"
    ]
    if not roles.series and others:
        return f"; if the table has several series, name the column that tells them apart: series={others[0]!r}"
    if clock.kind == "datetime" and clock.zone is None:
        return "; if a clock was set back, give times in UTC or with their offset"
    return "; drop one of the rows, or take their mean"


def _frequency(
    plan: Plan | None,
    given: str | int | Frequency | None,
    clock: Clock,
    times: Integers,
    local: Integers,
    groups: _Groups,
) -> Frequency | None:
    if clock.kind == "order":
        return Frequency("step")
    calendar_times = local if clock.is_calendar else None
    if plan is not None:
        step = plan.frequency
        if step is None:
            return None
        got = inferred(times, calendar_times, groups.starts)
        gaps = len(times) - len(groups.starts)
        if got and got != step and got.size >= 2 * step.size and gaps >= OFTEN:
            raise DataError(f"the times come every {got}, expected every {step} as in training")
        return step
    if given is None:
        return None
    if given == "infer":
        return inferred(times, calendar_times, groups.starts)
    step = Frequency.of(given)
    if clock.is_calendar == (step.unit == "step"):
        raise CallError(
            f"frequency: got {step}, but the times are {described(clock)}; expected "
            f"{'a unit of time' if clock.is_calendar else 'a number of steps'}"
        )
    return step


def _stepped(
    rows: _Rows, groups: _Groups, clock: Clock, times: Integers, local: Integers, step: Frequency | None
) -> Integers:
    """The step of each sorted row in its series."""
    if step is None:
        return np.arange(rows.count) - np.repeat(groups.starts, groups.sizes)
    moments = local if step.is_local else times
    if step.unit == "step" and clock.kind == "fractions":
        pass
    firsts = np.repeat(moments[groups.starts], groups.sizes)
    steps, between = step.steps(firsts, moments)
    inner = np.ones(len(steps), dtype=bool)
    inner[groups.starts] = False
    same = np.append(False, inner[1:] & (np.diff(steps) <= 0))
    for wrong, why in ((between, "lies between the steps"), (same, "falls into the step of the row before")):
        if wrong.any():
            at = int(wrong.argmax())
            raise DataError(
                f"{rows.table.name}: {rows.row(int(groups.order[at]))}: {clock.text(int(times[at]))} of "
                f"{groups.name(int(groups.of_row[at]))} {why}, with a step every {step} from "
                f"{clock.text(int(times[groups.starts[groups.of_row[at]]]))}; expected times of that frequency"
            )
    whole = int((steps[groups.starts + groups.sizes - 1] + 1).sum())
    if whole > MOST_FILLED * rows.count + 10_000:
        raise DataError(
            f"{rows.table.name}: {rows.count:,} rows make {whole:,} steps with one every {step}; expected at most "
            f"{MOST_FILLED} steps a row; give a longer frequency, or None for irregular times"
        )
    return steps


def _unit(times: Integers, groups: _Groups, step: Frequency | None) -> int:
    """The usual step: of irregular times the median gap."""
    if step is not None:
        return step.size
    inner = np.ones(len(times), dtype=bool)
    inner[groups.starts] = False
    gaps = np.diff(times)[inner[1:]]
    return max(1, int(np.median(gaps))) if len(gaps) else 1


def _without(
    rows: _Rows,
    groups: _Groups,
    steps: Integers,
    times: Integers,
    targets: Floats,
    lengths: Integers,
    plan: Plan | None,
    roles: Roles,
    notes: list[str],
) -> tuple[_Groups, Integers, Integers, Floats, Integers]:
    """All but the series that have no target at all."""
    empty = np.flatnonzero(lengths == 0)
    named = ", ".join(repr(name) for name in roles.targets)
    if len(empty) == len(lengths):
        raise DataError(f"{rows.table.name}: the target {named} has no value, expected numbers to learn from")
    some = ", ".join(" / ".join(groups.keys[k]) for k in empty[:3]) + (", …" if len(empty) > 3 else "")
    if plan is not None:
        raise DataError(
            f"{rows.table.name}: {len(empty):,} series without any value of {named}: {some}; "
            "expected a history to forecast from; leave them out"
        )
    notes.append(f"left out: {len(empty):,} series without any value of {named}: {some}")
    keep = lengths > 0
    mask = keep[groups.of_row]
    sizes = groups.sizes[keep]
    kept = _Groups(
        [key for key, kept in zip(groups.keys, keep, strict=True) if kept],
        groups.order[mask],
        np.cumsum(sizes) - sizes,
        sizes,
        groups.firsts[keep],
        np.repeat(np.arange(len(sizes)), sizes),
    )
    return kept, steps[mask], times[mask], targets[mask], lengths[keep]


class _Layout(NamedTuple):
    """Where each sorted row goes: ``rows`` that stay, and their ``places`` among all steps."""

    lengths: Integers
    offsets: Integers
    rows: Integers
    places: Integers
    is_future: NDArray[np.bool_]
    is_whole: bool

    @property
    def steps(self) -> int:
        """Steps of all series."""
        return int(self.offsets[-1])

    def scattered(self, values: Floats, missing: float = np.nan) -> Floats:
        """The values of sorted rows ``[N, …]`` as those of all steps."""
        if self.is_whole:
            return values
        found = np.full((self.steps, *values.shape[1:]), missing, dtype=values.dtype)
        found[self.places] = values[self.rows]
        return found


def _laid_out(groups: _Groups, lengths: Integers, steps: Integers, horizon: int) -> _Layout:
    whole = lengths + horizon
    offsets = np.append(0, np.cumsum(whole))
    stays = np.flatnonzero(steps < whole[groups.of_row])
    places = offsets[groups.of_row[stays]] + steps[stays]
    is_future = np.zeros(int(offsets[-1]), dtype=bool)
    if horizon:
        is_future = np.arange(int(offsets[-1])) >= np.repeat(offsets[:-1] + lengths, whole)
    is_whole = len(stays) == len(steps) == int(offsets[-1])
    return _Layout(lengths, offsets, stays, places, is_future, is_whole)


def _times(
    layout: _Layout,
    groups: _Groups,
    clock: Clock,
    times: Integers,
    steps: Integers,
    step: Frequency | None,
    unit: int,
) -> Integers:
    """The time of each step; those of rows are the rows' own."""
    if layout.is_whole:
        return times
    sizes = np.diff(layout.offsets)
    counted = np.arange(layout.steps) - np.repeat(layout.offsets[:-1], sizes)
    if step is not None:
        moments = clock.local(times[groups.starts]) if step.is_local else times[groups.starts]
        filled = step.times(np.repeat(moments, sizes), counted)
        filled = clock.utc(filled) if step.is_local else filled
    else:  # after the last row of each, usual steps
        ends = np.minimum(groups.sizes, sizes)
        last = times[groups.starts + ends - 1]
        filled = np.repeat(last, sizes) + (counted - np.repeat(ends - 1, sizes)) * unit
    filled[layout.places] = times[layout.rows]
    return filled


def _gaps(layout: _Layout, times: Integers, step: Frequency | None, unit: int) -> Floats:
    gaps = np.ones(len(times))
    if step is None:
        gaps[1:] = np.diff(times) / unit
    gaps[layout.offsets[:-1]] = 0.0
    return gaps


def _require_future(
    rows: _Rows,
    groups: _Groups,
    layout: _Layout,
    steps: Integers,
    times: Integers,
    clock: Clock,
    roles: Roles,
    horizon: int,
    step: Frequency | None,
) -> None:
    """Refuse a series whose known columns end before its horizon."""
    if not horizon or not roles.known:
        return
    there = np.zeros(layout.steps, dtype=bool)
    there[layout.places] = True
    wanting = np.flatnonzero(np.add.reduceat((layout.is_future & ~there).astype(np.int64), layout.offsets[:-1]))
    if not len(wanting):
        return
    series = int(wanting[0])
    begin = int(layout.offsets[series] + layout.lengths[series])
    span = slice(begin, begin + horizon)
    missing = int((~there[span]).sum())
    first, last = clock.text(int(times[begin])), clock.text(int(times[begin + horizon - 1]))
    when = f"from {first} to {last}" if step is not None else f"after {clock.text(int(times[begin - 1]))}"
    more = f" ({len(wanting):,} series lack rows)" if len(wanting) > 1 else ""
    raise DataError(
        f"{rows.table.name}: {missing} of the {horizon} rows of {groups.name(series)} {when} are missing{more}; they "
        f"are to hold what is known ahead: {', '.join(roles.known)}. Add them with the target empty"
    )


class _Columns:
    """The covariates of a table as arrays of all steps, and what kind each is."""

    def __init__(
        self, rows: _Rows, groups: _Groups, layout: _Layout, plan: Plan | None, roles: Roles
    ) -> None:
        self.rows, self.groups, self.layout, self.plan, self.roles = rows, groups, layout, plan, roles
        self.levels: dict[str, tuple[str, ...]] = {}

    def is_category(self, name: str) -> bool:
        """Whether a column is of categories: as the plan says, as the user does, or by its type."""
        if self.plan is not None:
            return self.plan.column(name).type == "category"
        if name in self.roles.categories:
            return True
        return self.rows.table.kind(name) == "text" and not self.rows.table.is_numbers(name)

    def stepped(self, role: str) -> tuple[Floats, Integers]:
        """The numbers and the codes of a role's columns, of all steps."""
        names = getattr(self.roles, role)
        numbers = [name for name in names if not self.is_category(name)]
        steps, order = self.layout.steps, self.groups.order
        values, codes = np.empty((steps, len(numbers))), np.zeros((steps, len(names) - len(numbers)), dtype=np.int64)
        for k, name in enumerate(numbers):
            values[:, k] = self.layout.scattered(self.rows.numbers(name, role, order))
        for k, name in enumerate(name for name in names if name not in numbers):
            codes[:, k] = self.layout.scattered(self._coded(name)[order], 0)
        return values, codes

    def _coded(self, name: str) -> Integers:
        found, texts = self.rows.levels(name)
        if self.plan is not None:
            levels = self.plan.column(name).levels
        else:
            used = np.unique(found)
            levels = tuple(sorted(texts[k] for k in used if k >= 0))
        self.levels[name] = levels
        place = {level: k for k, level in enumerate(levels, start=1)}
        return np.array([place.get(text, 0) for text in texts] + [0], dtype=np.int64)[found]

    def static(self) -> tuple[Floats, Integers]:
        """The numbers and codes that each series has once: ``[N, S]`` and ``[N, …]``."""
        names, count = self.roles.static, len(self.groups.keys)
        numbers = [name for name in names if not self.is_category(name)]
        values, codes = np.empty((count, len(numbers))), np.zeros((count, len(names) - len(numbers)), dtype=np.int64)
        for k, name in enumerate(numbers):
            found = self.rows.numbers(name, "static", self.groups.order)
            values[:, k] = self._constant(name, found, ~np.isnan(found))
        for k, name in enumerate(name for name in names if name not in numbers):
            raw, _ = self.rows.levels(name)
            raw = raw[self.groups.order]
            self._constant(name, raw, raw >= 0)
            coded = self._coded(name)[self.groups.order]
            codes[:, k] = self._constant(name, np.where(raw >= 0, coded, 0), raw >= 0)
        return values, codes

    def _constant(self, name: str, values: Any, there: NDArray[np.bool_]) -> Any:
        """The value of each series; one that has two is refused."""
        groups, last = self.groups, len(values) - 1
        at = np.minimum.reduceat(np.where(there, np.arange(len(values)), last), groups.starts)
        found = np.where(there[at] & (groups.of_row[at] == np.arange(len(at))), values[at], 0 if values.dtype.kind == "i" else np.nan)
        wrong = there & (values != np.repeat(found, groups.sizes))
        if wrong.any():
            row = int(wrong.argmax())
            first = int(at[groups.of_row[row]])
            raise DataError(
                f"{self.rows.table.name}: {self.rows.row(int(groups.order[row]))}: the column {name!r} (static) changes "
                f"within {groups.name(int(groups.of_row[row]))} (another value in {self.rows.row(int(groups.order[first]))}); "
                "expected one value for a series; make it past or known"
            )
        return found


def _plan(
    rows: _Rows,
    groups: _Groups,
    roles: Roles,
    clock: Clock,
    step: Frequency | None,
    unit: int,
    season: int | None,
    times: Integers,
    layout: _Layout,
    values: dict[str, Any],
    columns: _Columns,
    shares: tuple[float, float],
    least: int,
    notes: list[str],
) -> Plan:
    lengths = layout.lengths
    if season is None:
        season = step.season if step is not None else 1
    ends = times[groups.starts + groups.sizes - 1] - times[groups.starts]
    bounds = split_bounds(lengths, shares, least)
    singles = int((lengths == 1).sum())
    if singles:
        notes.append(f"{singles:,} series of a single step, from which nothing is learned")
    splits = (bounds[:, 0].sum(), (bounds[:, 1] - bounds[:, 0]).sum(), (lengths - bounds[:, 1]).sum())
    return Plan(
        columns=tuple(_described(roles, values, columns)),
        clock=clock,
        frequency=step,
        unit=unit,
        season=int(season),
        cycles=calendar.cycles(clock, unit, int(ends.max()), int(season)),
        series=len(groups.keys),
        rows=len(layout.rows),
        steps=layout.steps,
        first=int(times.min()),
        last=int(times.max()),
        shares=shares,
        least=least,
        splits=tuple(int(n) for n in splits),  # type: ignore[arg-type]
        notes=tuple(notes),
    )


def _described(roles: Roles, values: dict[str, Any], columns: _Columns) -> Sequence[Column]:
    """What was seen in each column."""
    found, number, code = [], {"target": 0, "past": 0, "known": 0, "static": 0}, {"past": 0, "known": 0, "static": 0}
    for name, role in roles.of_columns():
        if role in ("time", "series"):
            found.append(Column(name, role, "time" if role == "time" else "key"))
            continue
        if role != "target" and columns.is_category(name):
            codes = values[f"{role}_codes"][:, code[role]]
            code[role] += 1
            found.append(Column(name, role, "category", float((codes == 0).mean()), columns.levels[name]))
            continue
        column = values["targets" if role == "target" else role][:, number[role]]
        number[role] += 1
        there = column[~np.isnan(column)]
        found.append(
            Column(
                name,
                role,
                "number",
                1.0 - len(there) / max(1, len(column)),
                (),
                float(there.min()) if len(there) else None,
                float(there.max()) if len(there) else None,
                bool(len(there)) and bool((there == np.rint(there)).all()),
            )
        )
    return found
