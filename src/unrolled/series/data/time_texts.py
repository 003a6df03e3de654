"""Times that are texts, in the ways in which tables are written."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from unrolled.series.data.clock import QUARTER, WEEK, numbers_of
from unrolled.series.data.frames import cast, extra
from unrolled.series.data.frequency import DAY, SECOND, SIZES

Integers = NDArray[np.int64]

MINUTE = SIZES["minute"]
EXPECTED = (
    "a date or a time as ISO 8601 writes it (2020-03-29, 2020-03-29T14:30, "
    "2020-03-29T14:30:00+02:00, 2020-03), or a number"
)
# How a date is written, and how to write one: year, month, day; q a quarter, w a week, n a month's name,
# a and b either month and day or day and month.
DATES: tuple[tuple[str, str], ...] = (
    (r"(?P<y>\d{4})-(?P<m>\d{1,2})-(?P<d>\d{1,2})", "%Y-%m-%d"),
    (r"(?P<y>\d{4})/(?P<m>\d{1,2})/(?P<d>\d{1,2})", "%Y/%m/%d"),
    (r"(?P<y>\d{4})\.(?P<m>\d{1,2})\.(?P<d>\d{1,2})", "%Y.%m.%d"),
    (r"(?P<y>\d{4})(?P<m>\d{2})(?P<d>\d{2})", "%Y%m%d"),
    (r"(?P<y>\d{4})-(?P<m>\d{2})", "%Y-%m"),
    (r"(?P<y>\d{4})/(?P<m>\d{2})", "%Y/%m"),
    (r"(?P<y>\d{4})M(?P<m>\d{2})", "%YM%m"),
    (r"(?P<y>\d{4})-?[Qq](?P<q>[1-4])", QUARTER),
    (r"(?P<y>\d{4})-?W(?P<w>\d{2})", WEEK),
    (r"(?P<n>[A-Za-z]{3,9})\.? (?P<d>\d{1,2}),? (?P<y>\d{4})", "%b %d %Y"),
    (r"(?P<d>\d{1,2})[- ](?P<n>[A-Za-z]{3,9})[- ](?P<y>\d{4})", "%d-%b-%Y"),
    (r"(?P<n>[A-Za-z]{3,9})[- ](?P<y>\d{4})", "%b %Y"),
    (r"(?P<d>\d{1,2})\.(?P<m>\d{1,2})\.(?P<y>\d{4})", "%d.%m.%Y"),
    (r"(?P<a>\d{1,2})[/-](?P<b>\d{1,2})[/-](?P<y>\d{4})", ""),
)
CLOCK = (
    r"(?:[T ] ?(?P<H>\d{1,2})(?::(?P<M>\d{2}))?(?::(?P<S>\d{2}))?(?P<f>[.,]\d{1,9})?"
    r"(?: ?(?P<p>[AaPp][Mm]))?(?: ?(?P<z>Z|UTC|[+-]\d{2}:?\d{2}))?)?"
)
MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")


class Texts(NamedTuple):
    """``times`` ``[N]``: in nanoseconds, UTC if the texts say how far they are from it, else local.

    ``offset``: how far, as "Z" or "+02:00"; "" if they do not say; ``None`` if it varies. ``form``: how
    they are written. ``is_date``: whether they are days or longer.
    """

    times: Integers
    offset: str | None
    form: str
    is_date: bool


class TextError(ValueError):
    """The text at ``index`` is no such time; ``expected`` says what would be one."""

    def __init__(self, index: int, expected: str = EXPECTED) -> None:
        super().__init__(expected)
        self.index, self.expected = index, expected


def read(cells: Any) -> Texts:
    """The times that ``cells`` ``[N]``, an Arrow array of texts, N > 0, are.

    Raises:
        TextError: one of them is none, or is written otherwise than the first.
    """
    example = cells[0].as_py()
    for pattern, form in DATES:
        if re.fullmatch(pattern + CLOCK, example):
            return _taken_apart(cells, pattern, form)
    raise TextError(0)


def read_plain(cells: Any) -> Texts | None:
    """The same of texts of ISO 8601 that Arrow reads at once; ``None`` if they are others, or none."""
    arrow, compute = extra("pyarrow"), extra("pyarrow.compute")
    if not len(cells):
        return None
    for zone in (None, "UTC"):
        stamps = cast(cells, arrow.timestamp("ns", zone))
        if stamps is None:
            continue
        times = numbers_of(stamps)
        longest = cells[int(np.argmax(compute.utf8_length(cells).to_numpy()))].as_py()
        parts = re.fullmatch(DATES[0][0] + CLOCK, longest)
        if parts is None:
            return None
        ends = compute.unique(compute.utf8_slice_codeunits(cells, -6)) if zone else None
        if ends is not None and len(ends) > 1:
            ends = compute.unique(
                compute.replace_substring_regex(cells, r"^.*\d(Z|[+-]\d\d:?\d\d)$", r"\1")
            )
        varies = ends is not None and len(ends) > 1
        return Texts(
            times,
            None if varies else _offset(parts["z"]),
            _form("%Y-%m-%d", parts.groupdict(), longest),
            parts["H"] is None,
        )
    return None


def _taken_apart(cells: Any, pattern: str, form: str) -> Texts:
    """Texts in any way of writing, read part by part."""
    arrow, compute = extra("pyarrow"), extra("pyarrow.compute")
    found = compute.extract_regex(cells, f"^{pattern}{CLOCK}$")
    if found.null_count:
        _refuse(
            np.asarray(found.is_null().to_numpy(zero_copy_only=False)), f"a time like {cells[0]}"
        )
    if isinstance(found, arrow.ChunkedArray):
        found = arrow.concat_arrays(found.chunks)
    parts = {field.name: found.field(field.name) for field in found.type}
    day, form = _days(parts, form)
    clock = _since_midnight(parts)
    texts = {name: parts[name] for name in ("H", "M", "S", "p", "z")}
    has_clock = np.asarray(compute.not_equal(texts["H"], "").to_numpy(zero_copy_only=False))
    longest = int(np.argmax(compute.utf8_length(cells).to_numpy()))
    if "-" in cells[longest].as_py()[:6]:
        form = form.replace("/", "-")
    example = {name: part[longest].as_py() or None for name, part in texts.items()}
    offsets = compute.unique(texts["z"]).to_pylist()
    times = day * DAY + clock
    if offsets != [""]:
        if "" in offsets:
            lacks = np.asarray(compute.equal(texts["z"], "").to_numpy(zero_copy_only=False))
            _refuse(lacks != lacks[0], "no zone" if lacks[0] else "a zone")
        times = times - _minutes(texts["z"]) * MINUTE
    return Texts(
        times,
        _offset(offsets[0]) if len(offsets) == 1 else None,
        _form(form, example, cells[longest].as_py()),
        not has_clock.any(),
    )


def _days(parts: Mapping[str, Any], form: str) -> tuple[Integers, str]:
    """The days since 1970 of dates taken apart, and how they are written, if that was open."""
    compute = extra("pyarrow.compute")
    year = _whole(parts["y"])
    day = _whole(parts["d"]) if "d" in parts else np.ones_like(year)
    if "w" in parts:
        return _days_of_weeks(year, _whole(parts["w"])), form
    if "q" in parts:
        month = 3 * _whole(parts["q"]) - 2
    elif "n" in parts:
        names = compute.utf8_slice_codeunits(compute.utf8_lower(parts["n"]), 0, 3)
        month = 1 + np.asarray(
            compute.index_in(names, extra("pyarrow").array(MONTHS, names.type)).fill_null(-1)
        ).astype(np.int64)
    elif "a" in parts:
        month, day = _whole(parts["a"]), _whole(parts["b"])
        most = (month.max(), day.max())
        if max(most) <= 12:
            raise TextError(0, f"a date whose day and month can be told apart, {EXPECTED}")
        form = "%m/%d/%Y" if most[1] > 12 else "%d/%m/%Y"
        if most[0] > 12:
            month, day = day, month
    else:
        month = _whole(parts["m"])
    _refuse((month < 1) | (month > 12) | (day < 1) | (year < 1678) | (year > 2261))
    months = ((year - 1970) * 12 + month - 1).astype("datetime64[M]")
    days = months.astype("datetime64[D]") + (day - 1)
    _refuse(days.astype("datetime64[M]") != months)
    return days.astype(np.int64), form


def _days_of_weeks(year: Integers, week: Integers) -> Integers:
    """The Mondays of weeks as ISO 8601 counts them: week 1 has the fourth of January."""
    _refuse((week < 1) | (week > 53))
    fourth = (year - 1970).astype("datetime64[Y]").astype("datetime64[D]").astype(np.int64) + 3
    return fourth - (fourth + 3) % 7 + 7 * (week - 1)


def _since_midnight(parts: Mapping[str, Any]) -> Integers:
    """Nanoseconds since midnight."""
    compute = extra("pyarrow.compute")
    hour, minute, second = (_whole(parts[name]) for name in "HMS")
    half = np.asarray(compute.utf8_lower(parts["p"]).to_numpy(zero_copy_only=False))
    if (half != "").any():
        _refuse((hour < 1) | (hour > 12))
        hour = hour % 12 + 12 * (half == "pm")
    _refuse((hour > 23) | (minute > 59) | (second > 59))
    digits = compute.utf8_slice_codeunits(compute.utf8_rpad(parts["f"], 10, "0"), 1, 10)
    return ((hour * 60 + minute) * 60 + second) * SECOND + _whole(digits)


def _minutes(offsets: Any) -> Integers:
    """How many minutes local time is ahead of UTC."""
    compute = extra("pyarrow.compute")
    signed = compute.replace_substring_regex(offsets, "^(Z|UTC)$", "+0000")
    plain = compute.replace_substring(signed, ":", "")
    number = _whole(compute.replace_substring(plain, "+", ""))
    size = np.abs(number)
    return np.asarray(np.sign(number) * (size // 100 * 60 + size % 100), dtype=np.int64)


def _whole(texts: Any) -> Integers:
    """Digits as numbers, 0 for none."""
    arrow, compute = extra("pyarrow"), extra("pyarrow.compute")
    filled = compute.if_else(compute.equal(texts, ""), arrow.scalar("0", texts.type), texts)
    numbers: Integers = filled.cast(arrow.int64()).to_numpy(zero_copy_only=False)
    return numbers


def _offset(text: str | None) -> str:
    """An offset as Arrow names a zone."""
    if not text:
        return ""
    return "Z" if text in ("Z", "UTC") else f"{text[:3]}:{text[-2:]}"


def _form(date: str, parts: Mapping[str, str | None], example: str) -> str:
    """How times like ``example`` are written."""
    if not parts["H"]:
        return date
    separator = "T" if "T" in example[8:12] and "%b" not in date else " "
    hour = "%I" if parts["p"] else "%H"
    clock = hour + (":%M" if parts["M"] else "") + (":%S" if parts["S"] else "")
    zone = parts["z"] or ""
    zone = "Z" if zone in ("Z", "UTC") else "%:z" if ":" in zone else "%z" if zone else ""
    return f"{date}{separator}{clock}{' %p' if parts['p'] else ''}{zone}"


def _refuse(wrong: NDArray[np.bool_], expected: str = EXPECTED) -> None:
    if wrong.any():
        raise TextError(int(wrong.argmax()), expected)
