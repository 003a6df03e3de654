"""A table as arrays: each series with its steps, gaps filled in, and its future."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from unrolled.errors import DataError
from unrolled.series.data import calendar
from unrolled.series.data.clock import Clock
from unrolled.series.data.covariates import UNKNOWN, Covariates
from unrolled.series.data.frames import listed, table_of
from unrolled.series.data.frequency import Frequency
from unrolled.series.data.plan import Column, Plan
from unrolled.series.data.roles import Roles
from unrolled.series.data.rows import Groups, Rows, grouped
from unrolled.series.data.steps import INFER, Layout, Timeline, timeline_of
from unrolled.shapes import check_size

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]

MOST_AHEAD = 1_000_000  # steps after a history


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
    ``clock``: what its times are, and how they are written; the table's own, which may write them
    otherwise than that of the plan. ``key_columns``: the values of each key column, ``[N]``, as Arrow
    arrays of the table's types. ``labels`` ``[N]``: as the table has them, if it has a label.
    """

    plan: Plan
    clock: Clock
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
    key_columns: dict[str, Any]
    labels: NDArray[Any] | None = None

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
        Of series with a label each is for one of the three as a whole, by the hash of its key.
        """
        if not self.plan.has_label:
            return split_bounds(self.lengths, self.plan.shares, self.plan.least)
        part = split_of_keys(self.keys, self.plan.shares)
        return np.stack([self.lengths * (part == 0), self.lengths * (part < 2)], axis=1)


def panel_of(
    frame: Any,
    roles: Roles | Plan,
    *,
    future: Any = None,
    horizon: int = 0,
    frequency: str | float | Frequency | None = INFER,
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
        frequency: "hour", "30 minutes", …; ``"infer"``: from the times; ``None`` or ``"irregular"``: they
            have none. A plan has its own.
        season: the steps of a season, if not the usual one of the frequency.
        zone: where times without a zone are local, and in which the calendar is read.
        shares: of each series' steps, held out for validation and test.
        least: the steps that a held-out part has at least.

    Raises:
        DataError: the table cannot be used as it is; the text names row and series.
        CallError: roles or a frequency cannot be served.
        ValueError: a number is out of its range.
    """
    check_size("horizon", horizon, least=0, most=MOST_AHEAD)
    check_size("least", least)
    if season is not None:
        check_size("season", season)
    _check_shares(shares)
    table = table_of(frame)
    if isinstance(roles, Roles) and horizon:
        options: dict[str, Any] = {"frequency": frequency, "season": season, "zone": zone}
        roles = panel_of(table, roles, shares=shares, least=least, **options).plan
    plan = roles if isinstance(roles, Plan) else None
    roles = roles.roles if isinstance(roles, Plan) else roles
    rows = Rows(table, None if future is None else table_of(future, "the future"), roles)
    groups = grouped(rows)
    line = timeline_of(rows, groups, plan, frequency, zone)
    targets, lengths = _targets(rows, groups, line.steps)
    notes = _left_out(rows, groups, lengths, plan)
    if notes:
        keep = lengths > 0
        stays = keep[groups.of_row]
        groups, lengths = groups.kept(keep), lengths[keep]
        line, targets = line.kept(stays), targets[stays]
    layout = Layout.of(groups, line.steps, lengths, horizon)
    times = layout.times(groups, line)
    layout.require_future(rows, groups, line.clock, times)
    covariates = Covariates(rows, groups, layout, plan)
    values: dict[str, Any] = {"targets": layout.scattered(targets, np.nan)}
    for role in ("past", "known"):
        values[role], values[f"{role}_codes"] = covariates.stepped(role)
    values["static"], values["static_codes"] = covariates.static()
    values["labels"] = covariates.labels()
    if plan is None:
        plan = _plan(
            rows, groups, line, layout, covariates.described(values), season, shares, least
        )
        plan = replace(plan, notes=(*notes, *_notes(rows, plan, lengths)))
    features = calendar.features(times, line.clock, plan.cycles, step=plan.unit, season=plan.season)
    values["known"] = np.concatenate([values["known"], features], axis=1)
    if horizon:
        is_future = layout.is_future
        values["past"][is_future] = np.nan
        values["past_codes"][is_future] = UNKNOWN
    return Panel(
        plan=plan,
        clock=line.clock,
        keys=groups.keys,
        lengths=lengths,
        future=horizon,
        offsets=layout.offsets,
        times=times,
        gaps=layout.gaps(times, line),
        key_columns={name: table.arrow(name).take(groups.firsts) for name in roles.series},
        **values,
    )


def _check_shares(shares: tuple[float, float]) -> None:
    if len(shares) != 2 or min(shares) < 0 or not sum(shares) < 1:
        raise ValueError(f"shares: got {shares}, expected two numbers from 0 on, below 1 together")


def _targets(rows: Rows, groups: Groups, steps: Integers) -> tuple[Floats, Integers]:
    """The targets of each row, by series, and the steps of each history: up to its last target."""
    if not rows.roles.targets:
        return np.empty((len(steps), 0)), steps[groups.ends] + 1
    columns = [rows.numbers(name, "target")[groups.order] for name in rows.roles.targets]
    targets = np.stack(columns, axis=1)
    is_there = ~np.isnan(targets).all(axis=1)
    return targets, np.maximum.reduceat(np.where(is_there, steps + 1, 0), groups.starts)


def _left_out(rows: Rows, groups: Groups, lengths: Integers, plan: Plan | None) -> list[str]:
    """A note on the series that have no target at all; at prediction, or if all are, an error."""
    empty = np.flatnonzero(lengths == 0)
    if not len(empty):
        return []
    targets = ", ".join(map(repr, rows.roles.targets))
    if len(empty) == len(lengths):
        raise DataError(
            f"{rows.table.name}: the column {targets} (target) has no value, expected numbers"
        )
    some = ", ".join(" / ".join(groups.keys[k]) for k in empty[:3]) + ", …" * (len(empty) > 3)
    if plan is not None:
        raise DataError(
            f"{rows.table.name}: {len(empty):,} series without a value of {targets}: {some}; "
            "expected a history to forecast from; leave them out"
        )
    return [f"left out: {len(empty):,} series without a value of {targets}: {some}"]


def _plan(
    rows: Rows,
    groups: Groups,
    line: Timeline,
    layout: Layout,
    columns: tuple[Column, ...],
    season: int | None,
    shares: tuple[float, float],
    least: int,
) -> Plan:
    """What was understood of a table, but for notes."""
    lengths, step, times = layout.lengths, line.frequency, line.times
    if season is None:
        season = 1 if step is None else step.season
    if rows.roles.label:
        parts = np.bincount(split_of_keys(groups.keys, shares), minlength=3)
    else:
        ends = split_bounds(lengths, shares, least).sum(axis=0)
        parts = np.diff(ends, prepend=0, append=lengths.sum())
    train, validation, test = parts.tolist()
    span = int((times[groups.ends] - times[groups.starts]).max())
    return Plan(
        columns=columns,
        clock=line.clock,
        frequency=step,
        unit=line.unit,
        season=season,
        cycles=calendar.cycles(line.clock, line.unit, span, season),
        series=len(groups.keys),
        rows=len(layout.rows),
        steps=layout.count,
        first=int(times.min()),
        last=int(times.max()),
        shares=shares,
        least=least,
        splits=(train, validation, test),
    )


def _notes(rows: Rows, plan: Plan, lengths: Integers) -> list[str]:
    """What a reader should know of a table that is used as it is."""
    notes = list(rows.table.notes)
    singles = int((lengths == 1).sum())
    if singles and rows.roles.targets:
        notes.append(f"{singles:,} series of one step, of which nothing is learned")
    counts = [column.name for column in plan.of_role("target") if column.is_count]
    if counts and plan.steps > plan.rows:
        notes.append(
            f"at missing steps {', '.join(counts)} is unknown; if it is 0 there, add rows that say so"
        )
    taken = {name for name, _ in rows.roles.of_columns()}
    unused = [name for name in rows.table.names if name not in taken]
    if unused:
        notes.append(f"not used: {listed(unused)}")
    return notes


def split_bounds(lengths: Integers, shares: tuple[float, float], least: int) -> Integers:
    """Where training and validation end in series of so many steps: ``[N, 2]``.

    Validation and test are the last ``shares`` of a series, of at least ``least`` steps each. A series
    of which less than three times as many would be left for training is for training as a whole.

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


def split_of_keys(keys: Sequence[tuple[str, ...]], shares: tuple[float, float]) -> Integers:
    """The part that each series is for, ``[N]``: 0 training, 1 validation, 2 test.

    By the hash of its key, so that it stays where it is when others come. Of three series or more none
    of the parts is empty, if it has a share: one goes over from training.

    >>> split_of_keys([("a",), ("b",), ("c",), ("d",)], (0.25, 0.25)).tolist()
    [2, 1, 0, 1]
    """
    places = np.array([_place(key) for key in keys])
    bounds = np.cumsum([1 - sum(shares), shares[0]])
    parts = np.searchsorted(bounds, places, side="right")
    for part, share in enumerate(shares, start=1):
        rest = np.flatnonzero(parts == 0)
        if share > 0 and not (parts == part).any() and len(rest) > 1 and len(keys) > 2:
            parts[rest[np.argmax(places[rest])]] = part
    return parts.astype(np.int64)


def _place(key: tuple[str, ...]) -> float:
    """From 0 to 1, by the hash of a key."""
    digest = hashlib.blake2b("\x1f".join(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
