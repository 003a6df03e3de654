"""The rows of a table, and of the future beside it, by series."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from unrolled.errors import DataError
from unrolled.series.data.clock import Clock
from unrolled.series.data.frames import Table, extra
from unrolled.series.data.roles import Roles
from unrolled.series.data.times import times_of

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]


class Rows:
    """The rows of a table, followed by those of its future, of which known columns are read alone.

    Raises:
        DataError: there is no row, or a column is missing.
    """

    def __init__(self, table: Table, future: Table | None, roles: Roles) -> None:
        future = future if future is not None and future.rows else None
        self.table, self.future, self.roles = table, future, roles
        for name, role in roles.of_columns():
            table.check_names([name], role)
            if future is not None and role in ("time", "series", "known"):
                future.check_names([name], role)
        if not table.rows:
            raise DataError(f"{table.name}: no rows, expected one for each time of each series")
        self.count = table.rows + (future.rows if future is not None else 0)

    def at(self, index: int) -> str:
        """Table and row, for a message."""
        if self.future is None or index < self.table.rows:
            return f"{self.table.name}: {self.table.row(index)}"
        return f"{self.future.name}: {self.future.row(index - self.table.rows)}"

    def numbers(self, name: str, role: str) -> Floats:
        """A column as numbers ``[N]``, NaN where one is missing."""
        values = self.table.numbers(name, role)
        if self.future is None:
            return values
        is_known = role == "known"
        more = self.future.numbers(name, role) if is_known else np.full(self.future.rows, np.nan)
        return np.concatenate([values, more])

    def levels(self, name: str) -> tuple[Integers, list[str]]:
        """A column as codes ``[N]``, -1 where it is missing, and the text of each code."""
        codes, texts = self.table.levels(name)
        if self.future is None:
            return codes, texts
        if name not in (*self.roles.series, *self.roles.known):
            return np.append(codes, np.full(self.future.rows, -1)), texts
        more, others = self.future.levels(name)
        texts = list(dict.fromkeys([*texts, *others]))
        place = {text: k for k, text in enumerate(texts)}
        moved = np.array([*(place[text] for text in others), -1], dtype=np.int64)
        return np.append(codes, moved[more]), texts


class Groups(NamedTuple):
    """Rows by series: ``order`` puts them so, and keeps their order within each.

    ``keys``: the texts of each series' key columns. ``starts``, ``sizes``: of each, in that order.
    ``firsts``: its first row in the table. ``of_row``: the series of each row in that order.
    """

    keys: list[tuple[str, ...]]
    order: Integers
    starts: Integers
    sizes: Integers
    firsts: Integers
    of_row: Integers

    @property
    def ends(self) -> Integers:
        """The last row of each, in that order."""
        return self.starts + self.sizes - 1

    @property
    def is_inner(self) -> NDArray[np.bool_]:
        """Whether a row follows one of the same series."""
        inner = np.ones(len(self.order), dtype=bool)
        inner[self.starts] = False
        return inner

    def name(self, series: int) -> str:
        """What messages call a series."""
        key = self.keys[series]
        return f"the series {' / '.join(key)}" if key else "the series"

    def spread(self, values: NDArray[np.generic]) -> NDArray[np.generic]:
        """A value a series as one a row."""
        return np.repeat(values, self.sizes)

    def kept(self, keep: NDArray[np.bool_]) -> "Groups":
        """Those of some series alone; ``order`` still counts the table's rows."""
        sizes = self.sizes[keep]
        return Groups(
            keys=[key for key, stays in zip(self.keys, keep.tolist(), strict=True) if stays],
            order=self.order[keep[self.of_row]],
            starts=np.cumsum(sizes) - sizes,
            sizes=sizes,
            firsts=self.firsts[keep],
            of_row=np.repeat(np.arange(len(sizes)), sizes),
        )


def grouped(rows: Rows) -> Groups:
    """The rows by series, in the order in which these appear.

    Raises:
        DataError: a row names no series, or a series is in the future alone.
    """
    codes = np.zeros(rows.count, dtype=np.int64)
    parts: list[tuple[Integers, list[str]]] = []
    for name in rows.roles.series:
        part, texts = rows.levels(name)
        if (part < 0).any():
            raise DataError(
                f"{rows.at(int((part < 0).argmax()))}: the column {name!r} (series) is empty, "
                "expected the name of a series"
            )
        codes = codes * len(texts) + part
        parts.append((part, texts))
    arrow, compute = extra("pyarrow"), extra("pyarrow.compute")
    indices = compute.dictionary_encode(arrow.array(codes)).indices
    group = indices.to_numpy(zero_copy_only=False).astype(np.int64)
    is_sorted = bool((group[1:] >= group[:-1]).all())
    order = np.arange(rows.count) if is_sorted else np.argsort(group, kind="stable")
    of_row = group[order]
    starts = np.flatnonzero(np.append(True, of_row[1:] != of_row[:-1]))
    firsts = order[starts]
    keys = [tuple(key) for key in zip(*([t[k] for k in p[firsts]] for p, t in parts), strict=True)]
    groups = Groups(
        keys or [()], order, starts, np.diff(np.append(starts, rows.count)), firsts, of_row
    )
    if firsts.max() >= rows.table.rows:
        series = int(firsts.argmax())
        raise DataError(
            f"{rows.at(int(firsts[series]))}: {groups.name(series)} has no history, expected rows of "
            f"it in {rows.table.name}"
        )
    return groups


def timed(rows: Rows, groups: Groups, zone: str | None) -> tuple[Clock, Integers]:
    """The clock of the table, and the time of each row, by series.

    Raises:
        DataError: a time cannot be read, or does not come after that of the row before.
    """
    name = rows.roles.time
    if name is None:
        return Clock("order"), np.arange(rows.count) - np.repeat(groups.starts, groups.sizes)
    series = np.empty(rows.count, dtype=np.int64)
    series[groups.order] = groups.of_row
    times, clock = times_of(rows.table, name, zone=zone, series=series[: rows.table.rows])
    if rows.future is not None:
        more, other = times_of(rows.future, name, zone=zone, series=series[rows.table.rows :])
        if not clock.agrees(other):
            raise DataError(
                f"{rows.future.name}: the column {name!r} (time) holds {other.described}, expected "
                f"{clock.described} as in {rows.table.name}"
            )
        times = np.append(times, more)
    times = times[groups.order]
    _refuse_disorder(rows, groups, clock, times)
    return clock, times


def _refuse_disorder(rows: Rows, groups: Groups, clock: Clock, times: Integers) -> None:
    wrong = groups.is_inner[1:] & (times[1:] <= times[:-1])
    if not wrong.any():
        return
    at = int(wrong.argmax())
    before, now = int(groups.order[at]), int(groups.order[at + 1])
    name = groups.name(int(groups.of_row[at]))
    first, second = clock.text(int(times[at])), clock.text(int(times[at + 1]))
    if first == second:
        raise DataError(
            f"{rows.at(now)}: {name} has {first} a second time, after {rows.table.row(before)}; "
            f"expected each time once{_advice_for_twice(rows, clock)}"
        )
    columns = [*rows.roles.series, str(rows.roles.time)]
    raise DataError(
        f"{rows.at(now)}: {name} goes back from {first} to {second}; expected times that rise within "
        f"a series; sort it, {rows.table.sorting(columns)}"
    )


def _advice_for_twice(rows: Rows, clock: Clock) -> str:
    taken = {name for name, _ in rows.roles.of_columns()}
    others = [
        name for name in rows.table.names if name not in taken and rows.table.kind(name) == "text"
    ]
    others = [name for name in others if not rows.table.is_numbers(name)]
    if not rows.roles.series and others:
        return f"; if there are several series, say which column tells them apart: series={others[0]!r}"
    if clock.kind == "datetime" and clock.zone is None:
        return "; if a clock was set back there, say where: zone='Europe/Berlin'"
    return "; drop one of the two, or take their mean"
