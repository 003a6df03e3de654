"""The times of a table's column: texts, dates, datetimes or numbers."""

from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from unrolled.errors import DataError
from unrolled.series.data import time_texts
from unrolled.series.data.clock import (
    DAY_NUMBER,
    FRACTION,
    UTC,
    Clock,
    check_zone,
    numbers_of,
    utc_of,
)
from unrolled.series.data.frames import Table, cast, cells_of, extra
from unrolled.series.data.time_texts import EXPECTED, TextError, Texts

Integers = NDArray[np.int64]


def times_of(
    table: Table, name: str, *, zone: str | None = None, series: Integers | None = None
) -> tuple[Integers, Clock]:
    """The times of a column, ``[N]``, and what kind they are.

    Args:
        table: the table.
        name: its column of times.
        zone: where times without a zone are local, and in which the calendar of those with one is
            read: "Europe/Berlin".
        series: the number of each row's series, ``[N]``. Of a local time that the clock shows twice, and
            that a series has twice, the first is the earlier.

    Raises:
        DataError: a cell is missing or no time, or the clock of the zone jumps over it, or shows it twice.
        CallError: the zone is not known.
    """
    if zone is not None:
        check_zone(zone)
    return _Column(table, name, zone, series).read()


class _Column:
    """One column, and what is known of it."""

    def __init__(self, table: Table, name: str, zone: str | None, series: Integers | None) -> None:
        self.table, self.name, self.zone, self.series = table, name, zone, series

    def read(self) -> tuple[Integers, Clock]:
        arrow = extra("pyarrow")
        column, kind = self.table.arrow(self.name), self.table.kind(self.name)
        if kind == "text":
            self._refuse_missing(column)
            texts = time_texts.read_plain(column)
            if texts is not None:
                return self._of_texts(texts)
            cells = cells_of(column)
            self._refuse_missing(cells)
            numbers = _as_numbers(cells)
            if numbers is not None:
                return self._of_numbers(numbers)
            try:
                return self._of_texts(time_texts.read(cells))
            except TextError as error:
                self._refuse(error.index, repr(cells[error.index].as_py()), error.expected)
        self._refuse_missing(column)
        if kind == "number":
            return self._of_numbers(column.to_numpy(zero_copy_only=False))
        if kind != "time":
            raise DataError(
                f"{self.table.name}: the column {self.name!r} (time) is of type {kind}, expected "
                f"{EXPECTED}"
            )
        try:
            if arrow.types.is_date(column.type):
                return numbers_of(column.cast(arrow.timestamp("s"))), Clock("date")
            times = numbers_of(column)
        except OverflowError:
            raise DataError(
                f"{self.table.name}: the column {self.name!r} (time) leaves the years 1678 to 2261, "
                "expected times within them"
            ) from None
        own = column.type.tz
        if own is None:
            times = self._in_utc(times)
        return times, Clock("datetime", self.zone or own, column.type.unit)

    def _of_numbers(self, values: Any) -> tuple[Integers, Clock]:
        is_whole = values.dtype.kind != "f" or (
            (values == np.rint(values)).all() and (np.abs(values) < 2**53).all()
        )
        if not is_whole:
            wrong = ~(np.abs(values) < 2**63 / FRACTION)  # NaN too
            if wrong.any():
                at = int(wrong.argmax())
                self._refuse(at, f"{values[at]:g}", EXPECTED)
            return np.rint(values * FRACTION).astype(np.int64), Clock("fractions")
        times = np.array(values, dtype=np.int64)
        days = _as_days(times)
        return (
            (times, Clock("counter")) if days is None else (days, Clock("date", None, DAY_NUMBER))
        )

    def _of_texts(self, texts: Texts) -> tuple[Integers, Clock]:
        if texts.is_date:
            return texts.times, Clock("date", None, texts.form)
        if texts.offset == "":
            return self._in_utc(texts.times), Clock("datetime", self.zone, texts.form)
        is_utc = texts.offset in ("Z", "+00:00", None)
        if texts.offset is None and self.zone is None:
            self.table.note(
                "the offsets of the times vary, so the calendar is read in UTC; to read it in local time, "
                "say where: zone='Europe/Berlin'"
            )
        return texts.times, Clock(
            "datetime", self.zone or (UTC if is_utc else texts.offset), texts.form
        )

    def _in_utc(self, times: Integers) -> Integers:
        """Times without a zone as UTC, if it is known where they are local."""
        if self.zone is None:
            return times
        early = utc_of(times, self.zone, twice="earliest", absent="earliest")
        late = utc_of(times, self.zone, twice="latest", absent="earliest")
        absent = Clock("datetime", self.zone).local(early) != times
        if absent.any():
            at = int(absent.argmax())
            self._refuse_local(at, times, "does not exist: the clock jumps over it")
        twice = np.flatnonzero(early != late)
        if len(twice):
            series = np.zeros(len(twice)) if self.series is None else self.series[twice]
            pairs = np.stack([series, times[twice]])
            _, first, place, count = np.unique(
                pairs, axis=1, return_index=True, return_inverse=True, return_counts=True
            )
            place = place.ravel()
            once = count[place] != 2
            if once.any():
                self._refuse_local(
                    int(twice[once.argmax()]), times, "is one of two: the clock shows it twice"
                )
            later = twice[np.arange(len(twice)) != first[place]]
            early[later] = late[later]
        return early

    def _refuse_missing(self, column: Any) -> None:
        if column.null_count:
            at = int(np.asarray(column.is_null().to_numpy(zero_copy_only=False)).argmax())
            self._refuse(at, "no value", EXPECTED)

    def _refuse_local(self, at: int, times: Integers, why: str) -> NoReturn:
        self._refuse(
            at,
            f"{Clock('datetime').text(int(times[at]))}, which in {self.zone} {why}",
            "times in UTC, or with their offset (2020-03-29T14:30+02:00)",
        )

    def _refuse(self, at: int, got: str, expected: str) -> NoReturn:
        raise DataError(
            f"{self.table.name}: {self.table.row(at)}: the column {self.name!r} (time) has {got}; expected "
            f"{expected}"
        )


def _as_numbers(cells: Any) -> Any:
    """Texts as numbers if they are such, else ``None``."""
    arrow = extra("pyarrow")
    for kind in (arrow.int64(), arrow.float64()):
        numbers = cast(cells, kind)
        if numbers is not None:
            return numbers.to_numpy(zero_copy_only=False)
    return None


def _as_days(values: Integers) -> Integers | None:
    """Numbers such as 20200329 as the days that they are, in nanoseconds, if all of them are."""
    if not len(values) or values.min() < 1700_01_01 or values.max() > 2200_12_31:
        return None
    year, month, day = values // 10_000, values // 100 % 100, values % 100
    if not ((month >= 1) & (month <= 12) & (day >= 1) & (day <= 31)).all():
        return None
    months = ((year - 1970) * 12 + month - 1).astype("datetime64[M]")
    days = months.astype("datetime64[D]") + (day - 1)
    if (days.astype("datetime64[M]") != months).any():
        return None
    return days.astype("datetime64[ns]").astype(np.int64)
