"""The times of a table: read from texts, dates, datetimes or counters, and written again as they were.

Inside, a datetime is nanoseconds since 1970 in UTC, a counter is itself, and a clock of fractions
(0.1, 0.2 …) is billionths. Local time is asked for where a calendar is.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unrolled.errors import CallError, DataError
from unrolled.series.data.frames import Table, extra

Integers = NDArray[np.int64]

NUMBER_OF_DAY = "%Y%m%d"  # a date as a number, 20200329
FRACTION = 10**9  # the parts of one unit in a clock of fractions

# Texts that are a time: a pattern, what makes it ISO 8601, and how it is written.
TEXTS: tuple[tuple[str, str, str], ...] = (
    (r"^(\d{4}-\d{2}-\d{2})$", r"\1", "%Y-%m-%d"),
    (r"^(\d{4})/(\d{1,2})/(\d{1,2})$", "", "%Y/%m/%d"),
    (r"^(\d{4})\.(\d{1,2})\.(\d{1,2})$", "", "%Y.%m.%d"),
    (r"^(\d{4})-(\d{2})$", r"\1-\2-01", "%Y-%m"),
    (r"^(\d{4})/(\d{2})$", r"\1-\2-01", "%Y/%m"),
    (r"^(\d{4})M(\d{2})$", r"\1-\2-01", "%YM%m"),
    (r"^(\d{4})-?Q([1-4])$", "", "quarter"),
    (r"^([A-Za-z]{3}) (\d{1,2}),? (\d{4})$", "", "%b %d %Y"),
    (r"^(\d{1,2})-([A-Za-z]{3})-(\d{4})$", "", "%d-%b-%Y"),
    (r"^(\d{1,2})\.(\d{1,2})\.(\d{4})$", "", "%d.%m.%Y"),
    (r"^(\d{1,2})/(\d{1,2})/(\d{4})$", "", "slashes"),
)
CLOCK = r"^(\d{4})[-/](\d{2})[-/](\d{2})([T ])(\d{2})(:\d{2})?(:\d{2})?([.,]\d{1,9})?( ?Z| ?[+-]\d{2}:?\d{2}| UTC)?$"
EXPECTED = (
    "a date or a time as ISO 8601 writes it (2020-03-29, 2020-03-29T14:30, 2020-03-29T14:30:00+02:00, 2020-03), "
    "or a number"
)


@dataclass(frozen=True)
class Clock:
    """What kind of time a column holds, and how it is written.

    ``kind``: ``"datetime"``, ``"date"``, ``"counter"``, ``"fractions"``, or ``"order"`` where there is no
    column and the rows of a series are counted. ``zone``: that in which the calendar is read; ``None``:
    local times of a place without a change of the clock. ``form``: of a text, how it is written; of
    Arrow's times, their unit.
    """

    kind: str
    zone: str | None = None
    form: str = ""

    @classmethod
    def of_record(cls, record: dict[str, Any]) -> "Clock":
        """That which ``record`` gave."""
        return cls(**record)

    def record(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)

    @property
    def is_calendar(self) -> bool:
        """Whether its times have days and hours."""
        return self.kind in ("datetime", "date")

    def local(self, times: Integers) -> Integers:
        """Times in UTC as local ones, in nanoseconds; those of a counter stay."""
        if not self.is_calendar or self.zone in (None, "UTC"):
            return times
        compute = extra("pyarrow.compute")
        return _numbers(compute.local_timestamp(_zoned(times, str(self.zone))))

    def utc(self, times: Integers) -> Integers:
        """Local times as UTC. One that the clock jumps over moves with it; of two that it shows twice, the first."""
        if not self.is_calendar or self.zone in (None, "UTC"):
            return times
        found: Integers = _assumed(times, str(self.zone), "earliest", "latest")
        return found

    def texts(self, times: Integers) -> list[str]:
        """Times in words, for messages and tables."""
        if not self.is_calendar:
            return [f"{t / FRACTION:g}" if self.kind == "fractions" else str(t) for t in times.tolist()]
        local = self.local(times).astype("datetime64[ns]")
        unit = "D" if self.kind == "date" else "s" if (times % 10**9 == 0).all() else "ns"
        return [str(text).replace("T", " ") for text in np.datetime_as_string(local, unit=unit)]

    def text(self, time: int) -> str:
        """One time in words."""
        return self.texts(np.array([time], dtype=np.int64))[0]

    def written(self, times: Integers) -> Any:
        """Times as an Arrow array of the kind that the column was."""
        arrow, compute = extra("pyarrow"), extra("pyarrow.compute")
        if self.kind in ("counter", "order"):
            return arrow.array(times)
        if self.kind == "fractions":
            return arrow.array(times / FRACTION)
        if self.form == NUMBER_OF_DAY:
            return compute.cast(self._texts_written(times), arrow.int64())
        if "%" in self.form or self.form == "quarter":
            return self._texts_written(times)
        if self.kind == "date":
            return compute.cast(arrow.array(times.astype("datetime64[ns]")), arrow.date32(), safe=False)
        unit = self.form if self.form in ("s", "ms", "us", "ns") else "ns"
        stamps = _zoned(times, self.zone) if self.zone else arrow.array(times.astype("datetime64[ns]"))
        return compute.cast(stamps, arrow.timestamp(unit, self.zone), safe=False)

    def _texts_written(self, times: Integers) -> Any:
        arrow, compute = extra("pyarrow"), extra("pyarrow.compute")
        local = self.local(times).astype("datetime64[ns]")
        if self.form == "quarter":
            months = local.astype("datetime64[M]").astype(np.int64)
            return arrow.array([f"{1970 + m // 12}Q{m % 12 // 3 + 1}" for m in months.tolist()])
        form = self.form.replace("%:z", "%z")
        if form.endswith(("%z", "Z")):
            zone = self.zone or "UTC" if form.endswith("%z") else "UTC"
            stamps = compute.cast(_zoned(times, zone), arrow.timestamp(_finest(times), zone), safe=False)
        else:
            stamps = compute.cast(arrow.array(local), arrow.timestamp(_finest(times)), safe=False)
        texts = compute.strftime(stamps, form, locale="C")
        if "%:z" in self.form:
            texts = compute.replace_substring_regex(texts, r"(\d{2})$", r":\1")
        return texts


def _finest(times: Integers) -> str:
    """The coarsest of Arrow's units that holds ``times``."""
    for unit, size in (("s", 10**9), ("ms", 10**6), ("us", 10**3)):
        if (times % size == 0).all():
            return unit
    return "ns"


def times_of(table: Table, name: str, *, zone: str | None = None) -> tuple[Integers, Clock]:
    """The times of a column, ``[N]``, and what kind they are.

    Args:
        table: the table.
        name: its column of times.
        zone: where times without a zone are local, and in which the calendar of those with one is
            read: "Europe/Berlin".

    Raises:
        DataError: a cell is missing or no time, or the zone's clock jumps over it or shows it twice.
        CallError: the zone is not known.
    """
    arrow, compute = extra("pyarrow"), extra("pyarrow.compute")
    if zone is not None:
        _assumed(np.zeros(1, dtype=np.int64), zone, "earliest", "latest")
    column, kind = table.arrow(name), table.kind(name)
    if kind == "text":
        cells, text = table._cells(name)
        _refuse_missing(table, name, cells)
        as_numbers = _whole(cells)
        if as_numbers is None:
            return _of_texts(table, name, cells, zone)
        column, kind = as_numbers, "number"
    _refuse_missing(table, name, column)
    if kind == "number":
        return _of_numbers(table, name, column)
    if kind != "time":
        raise DataError(f"{table.name}: the column {name!r} (time) is of type {kind}, expected {EXPECTED}")
    if arrow.types.is_date(column.type):
        return _numbers(compute.cast(column, arrow.timestamp("ns"))), Clock("date", None, "")
    unit, own = column.type.unit, column.type.tz
    try:
        times = _numbers(compute.cast(column, arrow.timestamp("ns", own)))
    except arrow.ArrowInvalid:
        raise DataError(f"{table.name}: the column {name!r} (time) leaves the years 1678 to 2261") from None
    if own is None and zone is not None:
        times = _localised(table, name, times, zone)
    return times, Clock("datetime", zone or own, unit)


def _refuse_missing(table: Table, name: str, column: Any) -> None:
    if column.null_count:
        at = int(np.asarray(column.is_null().to_numpy(zero_copy_only=False)).argmax())
        raise DataError(
            f"{table.name}: {table.row(at)}: the column {name!r} (time) is empty, expected {EXPECTED}"
        )


def _whole(cells: Any) -> Any:
    """Texts as numbers if they are such, else ``None``."""
    arrow, compute = extra("pyarrow"), extra("pyarrow.compute")
    try:
        return compute.cast(cells, arrow.int64())
    except arrow.ArrowInvalid:
        try:
            return compute.cast(cells, arrow.float64())
        except arrow.ArrowInvalid:
            return None


def _of_numbers(table: Table, name: str, column: Any) -> tuple[Integers, Clock]:
    values = column.to_numpy(zero_copy_only=False)
    if values.dtype.kind in "iu":
        times = values.astype(np.int64)
        dates = _as_dates(times)
        return (times, Clock("counter")) if dates is None else dates
    values = values.astype(np.float64)
    bad = ~(np.abs(values) < 2.0**63 / FRACTION)
    if (values == np.rint(values)).all() and (np.abs(values) < 2**53).all():
        return values.astype(np.int64), Clock("counter")
    if bad.any():
        at = int(bad.argmax())
        raise DataError(
            f"{table.name}: {table.row(at)}: the column {name!r} (time) has {values[at]:g}, expected {EXPECTED}"
        )
    return np.rint(values * FRACTION).astype(np.int64), Clock("fractions")


def _as_dates(values: Integers) -> tuple[Integers, Clock] | None:
    """Numbers such as 20200329 as dates, if all of them are."""
    if not len(values) or values.min() < 1700_01_01 or values.max() > 2200_12_31:
        return None
    year, month, day = values // 10_000, values // 100 % 100, values % 100
    if not ((month >= 1) & (month <= 12) & (day >= 1) & (day <= 31)).all():
        return None
    months = ((year - 1970) * 12 + month - 1).astype("datetime64[M]")
    dates = months.astype("datetime64[D]") + (day - 1)
    if (dates.astype("datetime64[M]") != months).any():
        return None
    return dates.astype("datetime64[ns]").astype(np.int64), Clock("date", None, NUMBER_OF_DAY)


def _of_texts(table: Table, name: str, cells: Any, zone: str | None) -> tuple[Integers, Clock]:
    arrow, compute = extra("pyarrow"), extra("pyarrow.compute")
    example = cells[0].as_py()
    if compute.match_substring_regex(cells[:1], CLOCK)[0].as_py():
        return _of_clock_texts(table, name, cells, zone)
    for pattern, iso, form in TEXTS:
        if not compute.match_substring_regex(cells[:1], pattern)[0].as_py():
            continue
        fits = compute.match_substring_regex(cells, pattern)
        if not compute.all(fits).as_py():
            if form == "%Y-%m-%d" and compute.all(compute.or_(fits, compute.match_substring_regex(cells, CLOCK))).as_py():
                return _of_clock_texts(table, name, compute.if_else(fits, compute.binary_join_element_wise(cells, _large("T00:00"), _large("")), cells), zone)
            _refuse_text(table, name, cells, fits, form if "%" in form else repr(example))
        dates, form = _dates(table, name, cells, pattern, iso, form)
        days = _numbers(dates)
        if zone is not None and form.endswith("%S"):
            days = _localised(table, name, days, zone)
        return days, Clock("date", None, form)
    _refuse_text(table, name, cells, arrow.array([False] * min(1, len(cells))), EXPECTED)
    raise AssertionError


def _dates(table: Table, name: str, cells: Any, pattern: str, iso: str, form: str) -> tuple[Any, str]:
    """Texts of one ``form`` as Arrow's times, and the form, which may have been open."""
    arrow, compute = extra("pyarrow"), extra("pyarrow.compute")
    if form == "slashes":
        parts = [
            compute.cast(compute.replace_substring_regex(cells, pattern, rf"\{k}"), arrow.int32()) for k in (1, 2)
        ]
        first, second = (compute.max(part).as_py() for part in parts)
        if max(first, second) <= 12 or min(first, second) > 12:
            raise DataError(
                f"{table.name}: the column {name!r} (time) has {cells[0].as_py()!r}, of which day and month cannot "
                f"be told; expected {EXPECTED}"
            )
        form = "%d/%m/%Y" if first > 12 else "%m/%d/%Y"
    if form == "quarter":
        month = compute.replace_substring_regex(cells, pattern, r"\2")
        year = compute.replace_substring_regex(cells, pattern, r"\1")
        for quarter, begin in zip("1234", ("-01", "-04", "-07", "-10"), strict=True):
            month = compute.if_else(compute.equal(month, _large(quarter)), _large(begin + "-01"), month)
        iso_texts = compute.binary_join_element_wise(year, month, _large(""))
    elif iso:
        iso_texts = compute.replace_substring_regex(cells, pattern, iso)
    else:
        plain = compute.replace_substring(cells, ",", "")
        stamps = compute.strptime(plain, form, "s", error_is_null=True)
        if stamps.null_count:
            _refuse_text(table, name, cells, compute.is_valid(stamps), form)
        return compute.cast(stamps, arrow.timestamp("ns")), form
    try:
        return compute.cast(iso_texts, arrow.timestamp("ns")), form
    except arrow.ArrowInvalid:
        fits = [_is_time(text) for text in iso_texts.to_pylist()]
        _refuse_text(table, name, cells, arrow.array(fits), EXPECTED)
        raise AssertionError from None


def _is_time(text: str) -> bool:
    try:
        np.datetime64(text.replace(" ", "T").removesuffix("Z").partition("+")[0])
    except ValueError:
        return False
    return True


def _refuse_text(table: Table, name: str, cells: Any, fits: Any, expected: str) -> None:
    at = int((~np.asarray(fits.to_numpy(zero_copy_only=False), dtype=bool)).argmax())
    raise DataError(
        f"{table.name}: {table.row(at)}: the column {name!r} (time) has {cells[at].as_py()!r}, expected {expected}"
        + ("" if expected == EXPECTED else " as in the first row")
    )


def _of_clock_texts(table: Table, name: str, cells: Any, zone: str | None) -> tuple[Integers, Clock]:
    """Texts such as "2020-03-29T14:30:00+02:00"."""
    arrow, compute = extra("pyarrow"), extra("pyarrow.compute")
    fits = compute.match_substring_regex(cells, CLOCK)
    if not compute.all(fits).as_py():
        _refuse_text(table, name, cells, fits, EXPECTED)
    iso = compute.replace_substring_regex(cells, CLOCK, r"\1-\2-\3T\5\6\7\8\9")
    iso = compute.replace_substring_regex(iso, r"T(\d{2})($|[Z+-]| )", r"T\1:00\2")
    iso = compute.replace_substring(compute.replace_substring_regex(iso, r" ?(UTC)$", "Z"), " ", "")
    iso = compute.replace_substring(iso, ",", ".")
    offsets = compute.replace_substring_regex(iso, r"^[^T]*T[\d:.]*", "")
    distinct = [text for text in compute.unique(offsets[: 1 << 22]).to_pylist()]
    if "" in distinct and len(distinct) > 1:
        has = compute.equal(offsets, offsets[0])
        _refuse_text(table, name, cells, has, f"{'no' if offsets[0].as_py() == '' else 'a'} zone")
    kind = arrow.timestamp("ns") if distinct == [""] else arrow.timestamp("ns", "UTC")
    try:
        times = _numbers(compute.cast(iso, kind))
    except arrow.ArrowInvalid:
        _refuse_text(table, name, cells, arrow.array([_is_time(t) for t in iso.to_pylist()]), EXPECTED)
    form = _form(cells[0].as_py())
    if distinct == [""]:
        if zone is not None:
            times = _localised(table, name, times, zone)
        return times, Clock("datetime", zone, form)
    is_utc = set(distinct) <= {"Z", "+00:00", "+0000"}
    own = "UTC" if is_utc or len(distinct) > 1 else f"{distinct[0][:3]}:{distinct[0][-2:]}"
    return times, Clock("datetime", zone or own, form)


def _form(text: str) -> str:
    """How a text such as "2020-03-29T14:30" is written."""
    import re

    parts = re.match(CLOCK, text)
    assert parts is not None
    separator, date = parts[4], "%Y-%m-%d" if text[4] == "-" else "%Y/%m/%d"
    end = "" if parts[9] is None else parts[9].strip()
    end = "Z" if end in ("Z", "UTC") else "%:z" if ":" in end else "%z" if end else ""
    minutes = ":%M" if parts[6] else ""
    return f"{date}{separator}%H{minutes}{':%S' if parts[7] else ''}{end}"


def _large(text: str) -> Any:
    arrow = extra("pyarrow")
    return arrow.scalar(text, arrow.large_string())


def _numbers(stamps: Any) -> Integers:
    arrow, compute = extra("pyarrow"), extra("pyarrow.compute")
    numbers: Integers = compute.cast(stamps, arrow.int64()).to_numpy(zero_copy_only=False)
    return numbers


def _zoned(times: Integers, zone: str | None) -> Any:
    arrow, compute = extra("pyarrow"), extra("pyarrow.compute")
    return compute.cast(arrow.array(times.astype("datetime64[ns]")), arrow.timestamp("ns", zone or "UTC"))


def _assumed(times: Integers, zone: str, ambiguous: str, nonexistent: str) -> Integers:
    arrow, compute = extra("pyarrow"), extra("pyarrow.compute")
    stamps = arrow.array(times.astype("datetime64[ns]"))
    try:
        return _numbers(
            compute.assume_timezone(stamps, zone, ambiguous=ambiguous, nonexistent=nonexistent)
        )
    except arrow.ArrowInvalid as error:
        if "locate" in str(error) or "zone" in str(error).lower() and "'" in str(error) and "gap" not in str(error):
            raise CallError(
                f"zone: got {zone!r}, expected a name of the time zone database, such as 'Europe/Berlin' or 'UTC'"
            ) from None
        raise


def _localised(table: Table, name: str, times: Integers, zone: str) -> Integers:
    """Local times as UTC; one that does not exist, or that the clock shows twice, is refused."""
    early, late = (_assumed(times, zone, side, "earliest") for side in ("earliest", "latest"))
    clock = Clock("datetime", zone)
    absent, twice = clock.local(early) != times, early != late
    for wrong, why in ((absent, "which the clock jumps over"), (twice, "which the clock shows twice")):
        if wrong.any():
            at = int(wrong.argmax())
            raise DataError(
                f"{table.name}: {table.row(at)}: the column {name!r} (time) has "
                f"{Clock('datetime').text(times[at])}, {why} in {zone}; give times in UTC or with their offset "
                "(2020-03-29T14:30+02:00), or leave out the zone to take them as they are"
            )
    return early
