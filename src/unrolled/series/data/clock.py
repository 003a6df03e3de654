"""What kind of time a table has: its zone, its calendar, and how it is written."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from unrolled.errors import CallError
from unrolled.series.data.frames import extra
from unrolled.series.data.frequency import DAY, SIZES, Frequency

Integers = NDArray[np.int64]
Kind = Literal["datetime", "date", "counter", "fractions", "order"]

UTC = "UTC"
LARGEST_FIRST = (("day", DAY), *reversed(SIZES.items()))
FRACTION = 10**9  # the parts of one unit in a clock of fractions
DAY_NUMBER = "%Y%m%d"  # a date as a number, 20200329
QUARTER = "%YQ%q"  # 2020Q1; of these two, %q and %:z, strftime knows nothing
WEEK = "%G-W%V"


@dataclass(frozen=True)
class Clock:
    """What kind of time a table has.

    Inside, a datetime is nanoseconds since 1970 in UTC, a counter is itself, and a clock of fractions
    (0.1, 0.2, …) is billionths.

    Args:
        kind: "datetime", "date", "counter", "fractions", or "order" where there is no column of
            times and the rows of a series are counted.
        zone: that in which the calendar is read; ``None``: as the times are, which say none.
        form: how a text is written, as for strftime; of Arrow's datetimes, their unit.
    """

    kind: Kind
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

    @property
    def described(self) -> str:
        """What it holds, in words."""
        if self.kind == "datetime":
            return f"times in the zone {self.zone}" if self.zone else "times without a zone"
        return {"date": "dates", "fractions": "numbers"}.get(self.kind, "whole numbers")

    def agrees(self, other: "Clock") -> bool:
        """Whether both are of a calendar, with a zone or without one; or neither is."""
        if not self.is_calendar or not other.is_calendar:
            return self.kind == other.kind
        return (self.zone is None) == (other.zone is None)

    def local(self, times: Integers) -> Integers:
        """Times in UTC as local ones; those of a counter stay."""
        if not self.is_calendar or self.zone in (None, UTC):
            return times
        compute = extra("pyarrow.compute")
        return numbers_of(compute.local_timestamp(stamps_of(times, self.zone)))

    def utc(self, times: Integers) -> Integers:
        """Local times as UTC.

        One that the clock jumps over is taken as the moment of the jump; of two that it shows twice,
        the first.
        """
        if not self.is_calendar or self.zone in (None, UTC):
            return times
        return utc_of(times, str(self.zone), twice="earliest", absent="latest")

    def following(self, last: int, frequency: Frequency, count: int) -> Integers:
        """The times of the ``count`` steps after ``last``.

        >>> clock = Clock("date")
        >>> leap = clock.following(1_580_428_800_000_000_000, Frequency("month end"), 2)
        >>> clock.texts(leap)
        ['2020-02-29', '2020-03-31']
        """
        start, steps = np.array([last], dtype=np.int64), np.arange(1, count + 1)
        if not frequency.is_local:
            return frequency.times(start, steps)
        return self.utc(frequency.times(self.local(start), steps))

    def texts(self, times: Integers) -> list[str]:
        """Times in words: local, to the second if all are whole seconds."""
        if self.kind == "fractions":
            return [f"{time / FRACTION:g}" for time in times.tolist()]
        if not self.is_calendar:
            return [str(time) for time in times.tolist()]
        unit: Literal["D", "s", "ns"] = "s" if (times % 10**9 == 0).all() else "ns"
        local = self.local(times).astype("datetime64[ns]")
        written = np.datetime_as_string(local, unit="D" if self.kind == "date" else unit)
        return [text.replace("T", " ") for text in written.tolist()]

    def text(self, time: int) -> str:
        """One time in words."""
        return self.texts(np.array([time], dtype=np.int64))[0]

    def duration(self, time: int) -> str:
        """How long so much time is, in its largest unit.

        >>> Clock("datetime").duration(90 * 10**9), Clock("counter").duration(3)
        ('1.5 minutes', '3')
        """
        if self.kind == "fractions":
            return f"{time / FRACTION:g}"
        if not self.is_calendar:
            return str(time)
        unit, size = next((unit, size) for unit, size in LARGEST_FIRST if time >= size)
        return f"{time / size:.4g} {unit}{'' if time == size else 's'}"

    def every(self, frequency: Frequency) -> str:
        """How often, in words.

        >>> Clock("date").every(Frequency("month")), Clock("counter").every(Frequency("step", 10))
        ('every month', 'in steps of 10')
        """
        if frequency.unit == "step":
            return f"in steps of {self.duration(frequency.count)}"
        return f"every {frequency if frequency.count > 1 else frequency.unit}"

    def written(self, times: Integers) -> Any:
        """Times as an Arrow array of the type that the table's column has, written as they are there."""
        arrow, compute = extra("pyarrow"), extra("pyarrow.compute")
        if self.kind == "fractions":
            return arrow.array(times / FRACTION)
        if not self.is_calendar:
            return arrow.array(times)
        if self.form == DAY_NUMBER:
            return compute.cast(self._texts(times), arrow.int64())
        if "%" in self.form:
            return self._texts(times)
        if self.kind == "date":
            return compute.cast(stamps_of(times, None), arrow.date32(), safe=False)
        stamps = stamps_of(times, self.zone)
        return compute.cast(stamps, arrow.timestamp(self.form or "ns", self.zone), safe=False)

    def _texts(self, times: Integers) -> Any:
        arrow, compute = extra("pyarrow"), extra("pyarrow.compute")
        if self.form == QUARTER:
            months = self.local(times).astype("datetime64[ns]").astype("datetime64[M]")
            counts = months.astype(np.int64).tolist()
            return arrow.array([f"{1970 + m // 12}Q{m % 12 // 3 + 1}" for m in counts])
        form = self.form.replace("%:z", "%z")
        has_zone = form.endswith(("%z", "Z"))
        zone = (UTC if form.endswith("Z") else self.zone or UTC) if has_zone else None
        stamps = stamps_of(times if has_zone else self.local(times), zone)
        whole = compute.cast(stamps, arrow.timestamp("s", zone), safe=False)
        texts = compute.strftime(whole, form, locale="C")
        if "%:z" in self.form:
            texts = compute.replace_substring_regex(texts, r"(\d{2})$", r":\1")
        return texts


def stamps_of(times: Integers, zone: str | None) -> Any:
    """Nanoseconds in UTC as Arrow's times; without a zone as they are."""
    arrow = extra("pyarrow")
    return arrow.array(times, arrow.int64()).cast(arrow.timestamp("ns", zone))


def numbers_of(stamps: Any) -> Integers:
    """Arrow's times as nanoseconds in UTC.

    Raises:
        OverflowError: they leave the years 1678 to 2261.
    """
    arrow = extra("pyarrow")
    try:
        precise = stamps.cast(arrow.timestamp("ns", getattr(stamps.type, "tz", None)))
    except arrow.ArrowInvalid as error:
        raise OverflowError(str(error)) from None
    return np.array(precise.cast(arrow.int64()).to_numpy(zero_copy_only=False), dtype=np.int64)


def utc_of(times: Integers, zone: str, *, twice: str, absent: str) -> Integers:
    """Local times as UTC: the "earliest" or "latest" of those that the clock shows twice or jumps over."""
    compute = extra("pyarrow.compute")
    stamps = stamps_of(times, None)
    return numbers_of(compute.assume_timezone(stamps, zone, ambiguous=twice, nonexistent=absent))


def check_zone(zone: str) -> None:
    """Refuse a zone that is not known."""
    arrow, compute = extra("pyarrow"), extra("pyarrow.compute")
    try:
        compute.local_timestamp(stamps_of(np.zeros(1, dtype=np.int64), zone))
    except arrow.ArrowInvalid:
        raise CallError(
            f"zone: got {zone!r}, expected a name of the time zone database, such as "
            "'Europe/Berlin', or 'UTC'"
        ) from None
