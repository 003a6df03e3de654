"""What was understood of a table: its columns and their roles, its times, its gaps and splits."""

import difflib
import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from unrolled.errors import CallError
from unrolled.series.data import calendar
from unrolled.series.data.clock import Clock
from unrolled.series.data.frequency import Frequency
from unrolled.series.data.roles import Roles

ROLES = ("time", "series", "target", "known", "past", "static", "label")


@dataclass(frozen=True)
class Column:
    """A column: its role, its type ("number", "category", "time", "key"), and what was seen in it.

    ``levels``: of a category, in the order of their codes, from 1. ``missing``: the share of the steps
    without a value. ``least`` and ``most``: of numbers. ``is_whole``: whether all of them are.
    """

    name: str
    role: str
    type: str
    missing: float = 0.0
    levels: tuple[str, ...] = ()
    least: float | None = None
    most: float | None = None
    is_whole: bool = False

    @property
    def is_count(self) -> bool:
        """Whether it counts: whole numbers from 0."""
        return self.is_whole and self.least is not None and self.least >= 0

    @property
    def embedding(self) -> int:
        """The size of an embedding of its levels, after fastai: 1.6 n^0.56, at most 50."""
        return min(50, round(1.6 * math.pow(len(self.levels) + 1, 0.56)))

    @property
    def told(self) -> str:
        """What was seen in it, in words."""
        if self.type == "category":
            shown = ", ".join(self.levels[:4]) + (", …" if len(self.levels) > 4 else "")
            return f"{len(self.levels):,} levels: {shown}"
        if self.least is None or self.most is None:
            return "no value" if self.type == "number" else ""
        if self.least == self.most:
            return f"always {self.least:g}"
        counts = ", counts" if self.is_count and self.role == "target" else ""
        return f"{self.least:g} to {self.most:g}{counts}"


@dataclass(frozen=True)
class Plan:
    """What was understood of a table, and what new tables are held to.

    ``columns``: all that have a role. ``clock``: the kind of its times. ``frequency``: ``None`` if they are
    irregular. ``unit``: nanoseconds of a usual step, or steps of a counter. ``season``: steps of one.
    ``cycles``: of the calendar, as features. ``series``, ``rows``, ``steps``: how many; steps are rows and
    gaps. ``first``, ``last``: times. ``shares``: of each series' steps that are held out, for validation
    and test. ``least``: the steps that each held-out part has at least. ``splits``: steps of
    training, validation, test. ``notes``: what a reader should know.
    """

    columns: tuple[Column, ...]
    clock: Clock
    frequency: Frequency | None
    unit: int
    season: int
    cycles: tuple[str, ...]
    series: int
    rows: int
    steps: int
    first: int
    last: int
    shares: tuple[float, float]
    least: int
    splits: tuple[int, int, int]
    notes: tuple[str, ...] = ()

    def of_role(self, role: str, kind: str | None = None) -> list[Column]:
        """The columns of a role, and of a type."""
        return [c for c in self.columns if c.role == role and kind in (None, c.type)]

    def column(self, name: str) -> Column:
        """The column of a name; of one with two roles, that which is not the key."""
        found = [c for c in self.columns if c.name == name]
        if not found:
            near = difflib.get_close_matches(name, [c.name for c in self.columns], 1)
            raise CallError(
                f"column: got {name!r}, expected one of the plan{near and f'; did you mean {near[0]!r}?'}"
            )
        return found[-1]

    @property
    def roles(self) -> Roles:
        """The roles of its columns."""
        names = {role: tuple(c.name for c in self.of_role(role)) for role in ROLES}
        return Roles(
            time=next(iter(names["time"]), None),
            targets=names["target"],
            series=names["series"],
            known=names["known"],
            past=names["past"],
            static=names["static"],
            categories=tuple(c.name for c in self.columns if c.type == "category"),
            label=next(iter(names["label"]), None),
        )

    @property
    def has_label(self) -> bool:
        """Whether something is to be told of each series."""
        return bool(self.of_role("label"))

    @property
    def targets(self) -> list[str]:
        """The names of the targets, in the order of their columns in ``Series.targets``."""
        return [c.name for c in self.of_role("target")]

    @property
    def past(self) -> list[str]:
        """The names of the columns of ``Series.past``."""
        return [c.name for c in self.of_role("past", "number")]

    @property
    def known(self) -> list[str]:
        """The names of the columns of ``Series.known``: of the table, then of the calendar."""
        return [c.name for c in self.of_role("known", "number")] + calendar.names(self.cycles)

    @property
    def static(self) -> list[str]:
        """The names of the columns of ``Series.static``."""
        return [c.name for c in self.of_role("static", "number")]

    def categories(self, role: str) -> list[Column]:
        """The categories of "past", "known" or "static", in the order of their codes' columns."""
        return self.of_role(role, "category")

    def record(self) -> dict[str, Any]:
        """As JSON."""
        record = asdict(self)
        record["frequency"] = None if self.frequency is None else str(self.frequency)
        record["clock"] = self.clock.record()
        return record

    @classmethod
    def of_record(cls, record: dict[str, Any]) -> "Plan":
        """That which ``record`` gave, also by way of JSON."""
        record = dict(record)
        columns = tuple(
            Column(**{**c, "levels": tuple(c["levels"])}) for c in record.pop("columns")
        )
        frequency = record.pop("frequency")
        tuples: dict[str, Any] = {
            name: tuple(record.pop(name)) for name in ("cycles", "shares", "splits", "notes")
        }
        return cls(
            columns=columns,
            clock=Clock.of_record(record.pop("clock")),
            frequency=None if frequency is None else Frequency.of(frequency),
            **tuples,
            **record,
        )

    HEAD = ("column", "role", "type", "missing", "values")

    def rows_of_columns(self) -> list[tuple[str, str, str, str, str]]:
        """A row of ``HEAD`` for each column."""
        return [(c.name, c.role, c.type, _share(c.missing), c.told) for c in self.columns]

    def facts(self) -> list[str]:
        """What is said of the whole table, a line each."""
        gaps = self.steps - self.rows
        often = f"irregular, usually every {self.clock.duration(self.unit)}"
        if self.frequency is not None:
            often = self.clock.every(self.frequency)
        first, last = self.clock.texts(np.array([self.first, self.last]))
        zone = f" ({self.clock.zone})" if self.clock.zone else ""
        parts = zip(self.splits, ("training", "validation", "test"), strict=True)
        lines = [
            f"{self.series:,} series of {self.rows:,} rows"
            + (f", and {gaps:,} missing step{'s' * (gaps > 1)} between them" if gaps else ""),
            f"{often}, from {first} to {last}{zone}"
            + (f"; a season of {self.season:,} steps" if self.season > 1 else ""),
            f"features of the calendar: {', '.join(self.cycles) or 'none'}",
            f"{'series' if self.has_label else 'steps'}: "
            + ", ".join(f"{count:,} for {part}" for count, part in parts),
        ]
        return [*lines, *self.notes]

    def __str__(self) -> str:
        rows = [self.HEAD, *self.rows_of_columns()]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        table = [
            "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip()
            for row in rows
        ]
        return "\n".join([*table, *self.facts()])


def _share(share: float) -> str:
    if share == 0:
        return "none"
    return f"{share:.1%}" if share >= 0.001 else "<0.1%"
