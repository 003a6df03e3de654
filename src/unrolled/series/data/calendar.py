"""Features of the calendar: what time of which cycle a step is, as a sine and a cosine each."""

import numpy as np
from numpy.typing import NDArray

from unrolled.series.data.clock import Clock
from unrolled.series.data.frequency import DAY, SIZES, first_days, months_of

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]

HOUR = SIZES["hour"]
# The cycles, each with its length and the step from which it does not vary any more.
CYCLES = {
    "minute of hour": (HOUR, HOUR),
    "hour of day": (DAY, DAY),
    "day of week": (7 * DAY, 7 * DAY),
    "day of month": (round(30.4369 * DAY), 7 * DAY),
    "month of year": (round(365.2425 * DAY), 300 * DAY),
}
SEASON = "season"
TIMES_SEEN = 2  # how often a cycle has to be seen to be a feature


def cycles(clock: Clock, step: int, span: int, season: int = 1) -> tuple[str, ...]:
    """The cycles that vary from step to step, and that ``span`` holds at least twice.

    Args:
        clock: that of the times.
        step: the usual step, in nanoseconds, or those of the counter.
        span: from the first time to the last.
        season: the steps of the season of a counter, which is its only cycle.
    """
    if not clock.is_calendar:
        return (SEASON,) if season > 1 and span >= TIMES_SEEN * season * step else ()
    found = [
        name
        for name, (length, least) in CYCLES.items()
        if step < least and span >= TIMES_SEEN * length
    ]
    return tuple(found)


def names(chosen: tuple[str, ...]) -> list[str]:
    """The names of the features of the ``chosen`` cycles."""
    return [f"{side} {name}" for name in chosen for side in ("sin", "cos")]


def features(
    times: Integers, clock: Clock, chosen: tuple[str, ...], *, step: int = 1, season: int = 1
) -> Floats:
    """The features of the ``chosen`` cycles at ``times`` ``[N]``: ``[N, 2 K]``, sine and cosine of each.

    The month of the year is read by the day, and each month and year has the days that it has.
    """
    columns = []
    local = clock.local(times)
    day = local // DAY
    for name in chosen:
        if name == SEASON:
            phase = local / step % season / season
        elif name == "day of month":
            begin = first_days(months_of(day))
            phase = (day - begin) / (first_days(months_of(day) + 1) - begin)
        elif name == "month of year":
            year = months_of(day) // 12 * 12
            begin = first_days(year)
            phase = (day - begin) / (first_days(year + 12) - begin)
        elif name == "day of week":
            phase = (day + 3) % 7 / 7  # 1970 began on a Thursday
        else:
            length = CYCLES[name][0]
            phase = local % length / length
        angle = 2 * np.pi * phase
        columns += [np.sin(angle), np.cos(angle)]
    return np.stack(columns, axis=1) if columns else np.zeros((len(times), 0))
