"""One row of a table at a time, as a panel's arrays would have it."""

import contextlib
import datetime
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from unrolled.errors import DataError
from unrolled.series.data import calendar
from unrolled.series.data.clock import FRACTION
from unrolled.series.data.covariates import UNKNOWN
from unrolled.series.data.frames import LARGEST, MISSING, level_of, table_of
from unrolled.series.data.plan import Plan
from unrolled.series.data.times import times_of

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]

BLOCK = 512  # steps whose calendar is looked up together
MOST_KEPT = 64  # such blocks
PRECISE = len("2020-03-29T14:30:00.123456") + 1  # from here on a text may have nanoseconds
EPOCHS = (
    datetime.datetime(1970, 1, 1),
    datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC),
)


class Row(NamedTuple):
    """One step of one series: numbers, NaN where one is missing, and codes, in the plan's order.

    ``time``: as in ``Series.times``. ``known``: with the features of the calendar.
    """

    key: tuple[str, ...]
    time: int
    targets: list[float]
    past: list[float]
    known: list[float]
    past_codes: list[int]
    known_codes: list[int]


class RowReader:
    """Reads rows as ``panel_of`` reads a table that is held to ``plan``, in microseconds each.

    What it gives for a row is to the bit what the panel has for it.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan, roles = plan, plan.roles
        self._keys, self._targets = roles.series, roles.targets
        self._time = roles.time
        self._numbers = {
            role: [c.name for c in plan.of_role(role, "number")]
            for role in ("past", "known", "static")
        }
        self._codes = {
            role: [
                (c.name, {level: k for k, level in enumerate(c.levels, UNKNOWN + 1)})
                for c in plan.categories(role)
            ]
            for role in ("past", "known", "static")
        }
        self._blocks: dict[int, tuple[Integers, Floats, int]] = {}

    def read(self, row: Mapping[str, Any], time: int | None = None) -> Row:
        """A row; a target, or any other value, that is not in it is missing.

        Args:
            row: values by their columns' names.
            time: that of the row, where the plan has no column of times.

        Raises:
            DataError: the row has no time or key, or a value is of another kind.
        """
        if self._time is not None:
            time = self._time_of(self._given(row, self._time, "time"))
        elif time is None:
            raise DataError("the row: no time, expected its step: time=")
        known = [self._number(row, name, "known") for name in self._numbers["known"]]
        if self.plan.cycles:
            known += self.calendar(time)
        return Row(
            key=tuple([level_of(self._given(row, name, "series")) for name in self._keys]),
            time=time,
            targets=[self._number(row, name, "target") for name in self._targets],
            past=[self._number(row, name, "past") for name in self._numbers["past"]],
            known=known,
            past_codes=[self._code(row, name, codes) for name, codes in self._codes["past"]],
            known_codes=[self._code(row, name, codes) for name, codes in self._codes["known"]],
        )

    def static(self, row: Mapping[str, Any]) -> tuple[list[float], list[int]]:
        """What a row has of its series: numbers and codes as ``Series.static`` and ``static_codes``.

        Raises:
            DataError: a value is of another kind.
        """
        return (
            [self._number(row, name, "static") for name in self._numbers["static"]],
            [self._code(row, name, codes) for name, codes in self._codes["static"]],
        )

    def calendar(self, time: int) -> list[float]:
        """The features of the calendar at ``time``."""
        _, features, at = self._block(time, 1)
        values: list[float] = features[at].tolist()
        return values

    def ahead(self, time: int, horizon: int) -> tuple[Integers, Floats]:
        """The times of the steps after ``time`` ``[H]``, and the calendar's features there ``[H, K]``."""
        times, features, at = self._block(time, horizon + 1)
        return times[at + 1 : at + 1 + horizon], features[at + 1 : at + 1 + horizon]

    def _block(self, time: int, steps: int) -> tuple[Integers, Floats, int]:
        """Times that follow each other, their features, and where ``time`` is, before so many."""
        found = self._blocks.get(time)
        if found is None or found[2] + steps > len(found[0]):
            plan, count = self.plan, max(BLOCK, 2 * steps)
            if plan.frequency is None:
                times = time + plan.unit * np.arange(count)
            else:
                times = np.append(time, plan.clock.following(time, plan.frequency, count - 1))
            features = calendar.features(
                times, plan.clock, plan.cycles, step=plan.unit, season=plan.season
            )
            if len(self._blocks) > MOST_KEPT * BLOCK:
                self._blocks.clear()
            found = times, features, 0
            for at, each in enumerate(times.tolist()):
                self._blocks[each] = times, features, at
        return found

    def _given(self, row: Mapping[str, Any], name: str, role: str) -> Any:
        value = row.get(name)
        try:
            is_missing = value is None or value == "" or bool(value != value)
        except TypeError:  # pandas's own NA is neither
            is_missing = True
        if is_missing:
            raise DataError(f"the row: the column {name!r} ({role}) is missing, expected a value")
        return value

    def _number(self, row: Mapping[str, Any], name: str, role: str) -> float:
        value = row.get(name)
        if value is None:
            return math.nan
        if isinstance(value, str):
            value = value.strip()
            if value in MISSING:
                return math.nan
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = math.nan if str(value) in MISSING else math.inf  # pandas's own NA
        if abs(number) > LARGEST:
            raise DataError(
                f"the row: the column {name!r} ({role}) has {value!r}, expected a number of at most "
                f"{LARGEST:g}"
            )
        return number

    def _code(self, row: Mapping[str, Any], name: str, codes: Mapping[str, int]) -> int:
        value = row.get(name)
        return UNKNOWN if value is None else codes.get(level_of(value), UNKNOWN)

    def _time_of(self, value: Any) -> int:
        clock = self.plan.clock
        if clock.kind == "counter" and isinstance(value, int | np.integer):
            return int(value)
        if clock.kind == "fractions" and isinstance(value, float | int | np.number):
            return round(float(value) * FRACTION)  # of which one may be whole
        if clock.kind == "datetime":
            if isinstance(value, str) and len(value) < PRECISE:
                with contextlib.suppress(ValueError):  # it may be written in another way
                    value = datetime.datetime.fromisoformat(value)
            if isinstance(value, np.datetime64):
                value = value.astype("datetime64[ns]")
                if clock.zone is None and not np.isnat(value):
                    return int(value.astype(np.int64))
            if isinstance(value, datetime.datetime):
                is_zoned = value.tzinfo is not None
                if is_zoned == (clock.zone is not None):
                    if hasattr(value, "nanosecond"):  # of pandas
                        return int(getattr(value, "value"))  # noqa: B009
                    since = value - EPOCHS[is_zoned]
                    return (
                        (since.days * 86_400 + since.seconds) * 10**6 + since.microseconds
                    ) * 1000
        return self._time_by_table(value)

    def _time_by_table(self, value: Any) -> int:
        """A time in any other way of writing it, as of a table of one row."""
        name, clock = str(self._time), self.plan.clock
        times, other = times_of(table_of({name: [value]}, "the row"), name, zone=clock.zone)
        if not clock.agrees(other):
            raise DataError(
                f"the row: the column {name!r} (time) holds {other.described}, expected "
                f"{clock.described} as in training"
            )
        return int(times[0])
