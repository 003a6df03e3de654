"""Frequencies: how often a series is measured, which step a time is, and which time a step is.

Within a day time runs in UTC. Days and longer units are those of the calendar where the times are local:
a day with a change of the clock is a day like any other.
"""

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unrolled.errors import CallError

Integers = NDArray[np.int64]

SECOND = 10**9
DAY = 86_400 * SECOND
SIZES = {
    "nanosecond": 1,
    "microsecond": 10**3,
    "millisecond": 10**6,
    "second": SECOND,
    "minute": 60 * SECOND,
    "hour": 3600 * SECOND,
}
DAYS = {"day": 1, "week": 7}
MONDAY = np.datetime64("1970-01-05")
MONTHS = {"month": 1, "month end": 1, "business month end": 1, "quarter": 3, "year": 12}
UNITS = (
    "step", *SIZES, "day", "business day", "week",
    "month", "month end", "business month end", "quarter", "year",
)  # fmt: skip

# What others call them, pandas's aliases among them, in small letters but where these mean another.
ALIASES = {
    "ns": "nanosecond", "us": "microsecond", "ms": "millisecond",
    "s": "second", "sec": "second", "secondly": "second",
    "min": "minute", "minutely": "minute", "h": "hour", "hourly": "hour",
    "d": "day", "daily": "day", "b": "business day", "w": "week", "weekly": "week",
    "monthly": "month", "q": "quarter", "qs": "quarter", "quarterly": "quarter",
    "y": "year", "a": "year", "ys": "year", "as": "year", "yearly": "year", "annual": "year",
}  # fmt: skip
OF_PANDAS = {
    "MS": (1, "month"), "M": (1, "month end"), "ME": (1, "month end"), "QE": (3, "month end"),
    "YE": (12, "month end"), "BM": (1, "business month end"), "BME": (1, "business month end"),
    "L": (1, "millisecond"), "T": (1, "minute"),
}  # fmt: skip


@dataclass(frozen=True)
class Frequency:
    """So many units from one step to the next: "1 hour", "30 minutes", "1 step" of a counter.

    Raises:
        CallError: the unit is not known, or the count is below 1.
    """

    unit: str
    count: int = 1

    def __post_init__(self) -> None:
        if self.unit not in UNITS or self.count < 1:
            raise CallError(f"frequency: got {self.count} {self.unit}, expected {_EXPECTED}")

    @classmethod
    def of(cls, text: "str | float | Frequency") -> "Frequency":
        """That which ``text`` names: "hour", "30 minutes", "business day", or pandas's "30min", "MS", "W".

        >>> Frequency.of("30min"), Frequency.of("monthly"), str(Frequency.of("2 weeks"))
        (Frequency(unit='minute', count=30), Frequency(unit='month', count=1), '2 weeks')
        """
        if isinstance(text, Frequency):
            return text
        if isinstance(text, int) and not isinstance(text, bool):
            return cls("step", text)
        parts = re.fullmatch(r"\s*(\d*)\s*([A-Za-z ]+?)\s*(?:-[A-Za-z]+)?\s*", str(text))
        if not parts:
            raise CallError(f"frequency: got {text!r}, expected {_EXPECTED}")
        count, unit = int(parts[1] or 1), parts[2]
        if unit in OF_PANDAS:
            times, unit = OF_PANDAS[unit]
            return cls(unit, count * times)
        unit = unit.lower()
        for known in (unit, unit.removesuffix("s")):
            known = ALIASES.get(known, known)
            if known in UNITS:
                return cls(known, count)
        raise CallError(f"frequency: got {text!r}, expected {_EXPECTED}")

    def __str__(self) -> str:
        return f"{self.count} {self.unit}{'s' if self.count > 1 else ''}"

    @property
    def size(self) -> int:
        """Nanoseconds of a step, of the usual month and year; of a counter its steps."""
        if self.unit == "step":
            return self.count
        if self.unit in SIZES:
            return SIZES[self.unit] * self.count
        days = {"business day": 1.4, **DAYS}
        days |= {unit: 30.436875 * months for unit, months in MONTHS.items()}
        return round(days[self.unit] * self.count * DAY)

    @property
    def season(self) -> int:
        """The steps of the usual season: of a day within days, a week of days, a year of months. 1: none.

        >>> [Frequency.of(f).season for f in ("hour", "30min", "day", "week", "month", "quarter", "year")]
        [24, 48, 7, 52, 12, 4, 1]
        """
        if self.unit in SIZES:
            whole = DAY if self.size >= SIZES["minute"] else SIZES["hour"]
            whole = 7 * DAY if self.size >= DAY else whole
            return whole // self.size if whole % self.size == 0 else 1
        if self.unit in MONTHS:
            return 12 // self._months if 12 % self._months == 0 else 1
        whole = {"day": 7, "business day": 5, "week": 52}[self.unit] if self.is_local else 1
        return whole // self.count if whole % self.count == 0 else 1

    @property
    def is_local(self) -> bool:
        """Whether its steps are of the local calendar, not of so many nanoseconds."""
        return self.unit not in SIZES and self.unit != "step"

    def steps(self, first: Integers, times: Integers) -> tuple[Integers, NDArray[np.bool_]]:
        """The step of each of ``times``, counted from that of ``first``; and whether it lies between steps.

        Both are local if the frequency is, else UTC. A day begins anew at midnight: two times of one day
        are one step.
        """
        if not self.is_local:
            steps, rest = np.divmod(times - first, self.size)
            return steps, rest != 0
        start, day = first // DAY, times // DAY
        if self.unit == "business day":
            dates, begin = day.astype("datetime64[D]"), start.astype("datetime64[D]")
            steps, rest = np.divmod(np.busday_count(begin, dates), self.count)
            return steps, (rest != 0) | ~np.is_busday(dates)
        if self.unit in DAYS:
            steps, rest = np.divmod(day - start, DAYS[self.unit] * self.count)
            return steps, rest != 0
        month, month_of_first = months_of(day), months_of(start)
        steps, rest = np.divmod(month - month_of_first, self._months)
        return steps, (rest != 0) | (day != self._day(month, start))

    def times(self, first: Integers, steps: Integers) -> Integers:
        """The time of each of ``steps`` after ``first``; local if the frequency is, else UTC."""
        if not self.is_local:
            return first + steps * self.size
        start, clock = np.divmod(first, DAY)
        if self.unit == "business day":
            days = np.busday_offset(start.astype("datetime64[D]"), steps * self.count, "forward")
            return days.astype("datetime64[D]").astype(np.int64) * DAY + clock
        if self.unit in DAYS:
            return first + steps * (DAYS[self.unit] * self.count * DAY)
        month = months_of(start) + steps * self._months
        return self._day(month, start) * DAY + clock

    def origin(self, times: Integers) -> Integers:
        """For local ``times`` of a local frequency: the step near 1970 from which they are whole steps.

        Times whose steps coincide have the same. Where there is none, as for a day that February has not,
        ``steps`` says that they lie between.

        >>> days = np.array([20_000, 20_007, 20_008]) * DAY
        >>> (Frequency("week").origin(days) // DAY).tolist()
        [1, 1, 2]
        """
        day, clock = np.divmod(times, DAY)
        if self.unit == "business day":
            count = np.busday_count(MONDAY, day.astype("datetime64[D]"))
            days = np.busday_offset(MONDAY, count % self.count, "forward")
            begin = days.astype("datetime64[D]").astype(np.int64)
        elif self.unit in DAYS:
            begin = day % (DAYS[self.unit] * self.count)
        else:
            month = months_of(day)
            begin = first_days(month % self._months)
            if not self.unit.endswith("end"):
                begin = begin + day - first_days(month)
        return np.asarray(begin * DAY + clock, dtype=np.int64)

    @property
    def _months(self) -> int:
        return MONTHS[self.unit] * self.count

    def _day(self, month: Integers, start: Integers) -> Integers:
        """The day in ``month`` on which a step falls that began on the day ``start``."""
        begin, last = first_days(month), first_days(month + 1) - 1
        if self.unit == "month end":
            return last
        if self.unit == "business month end":
            return last_business_days(last)
        return np.minimum(begin + (start - first_days(months_of(start))), last)


_EXPECTED = (
    "one such as 'hour', '30 minutes', 'day', 'business day', 'week', 'month', 'month end', 'quarter', "
    "'year', or the number of a counter's steps"
)


def months_of(days: Integers) -> Integers:
    """The month of each day since 1970, counted from January 1970."""
    return days.astype("datetime64[D]").astype("datetime64[M]").astype(np.int64)


def first_days(months: Integers) -> Integers:
    """The first day of each month, days and months counted from 1970."""
    return months.astype("datetime64[M]").astype("datetime64[D]").astype(np.int64)


def last_business_days(days: Integers) -> Integers:
    """Each day, or the Friday before it at a weekend."""
    found = np.busday_offset(days.astype("datetime64[D]"), 0, "backward")
    return found.astype("datetime64[D]").astype(np.int64)


REGULAR = 0.5  # the least share of steps that are there, where the commonest gap is not the step


def inferred(times: Integers, local: Integers | None, starts: Integers) -> Frequency | None:
    """The frequency of ``times`` ``[N]``, one that increases within each series; ``None`` if there is none.

    It is the largest step of which all gaps are multiples, if it is the commonest gap, or at least half
    of the steps are there.

    Args:
        times: UTC in nanoseconds, or a counter.
        local: the same in local time; ``None`` for a counter.
        starts: the row in which each series begins.
    """
    same = np.ones(len(times), dtype=bool)
    same[starts] = False
    inner = np.flatnonzero(same)
    if not len(inner):
        return None
    firsts = np.repeat(starts, np.diff(np.append(starts, len(times))))
    if local is None:
        step = _regular(times[inner] - times[inner - 1])
        return Frequency("step", step) if step else None
    day, clock = np.divmod(local, DAY)
    if (clock == clock[firsts]).all():
        return _of_days(day, firsts, inner)
    step = _regular(times[inner] - times[inner - 1])
    if not step:
        return None
    unit = max((u for u, size in SIZES.items() if step % size == 0), key=lambda u: SIZES[u])
    return Frequency(unit, step // SIZES[unit])


def _of_days(day: Integers, firsts: Integers, inner: Integers) -> Frequency | None:
    month = months_of(day)
    begin = first_days(month)
    day_of_month = day - begin
    gaps = month[inner] - month[inner - 1]
    step = _regular(gaps) if gaps.min() > 0 else 0
    if step:
        last = first_days(month + 1) - 1
        if (day_of_month == day_of_month[firsts]).all():
            unit = "year" if step % 12 == 0 else "quarter" if step % 3 == 0 else "month"
            return Frequency(unit, step // MONTHS[unit])
        if (day == last).all():
            return Frequency("month end", step)
        if (day == last_business_days(last)).all():
            return Frequency("business month end", step)
    gaps = day[inner] - day[inner - 1]
    step = _regular(gaps)
    if not step:
        return None
    if step % 7 == 0:
        return Frequency("week", step // 7)
    if step == 1 and len(gaps) >= 5 and np.is_busday(day.astype("datetime64[D]")).all():
        return Frequency("business day")
    return Frequency("day", step)


def _regular(gaps: Integers) -> int:
    """The step of which all ``gaps`` are multiples, or 0 if they are no gaps of a regular series."""
    if gaps.min() <= 0:
        return 0
    step = int(np.gcd.reduce(gaps))
    at_once = (gaps == step).mean()
    values, counts = np.unique(gaps, return_counts=True) if at_once < REGULAR else (gaps[:1], [1])
    is_commonest = at_once >= REGULAR or values[np.argmax(counts)] == step
    return step if is_commonest or len(gaps) >= REGULAR * (gaps // step).sum() else 0
