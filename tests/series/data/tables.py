"""A table that the tests share: two airports, hour by hour."""

from typing import Any

import numpy as np

HOURS = 200


def flights(hours: int = HOURS) -> dict[str, Any]:
    """Long, one airport after the other: a target, what is known, what is past, what is static."""
    rng = np.random.default_rng(0)
    time = np.datetime64("2013-03-12T00", "h") + np.arange(hours)
    columns: dict[str, list[Any]] = {name: [] for name in NAMES}
    for origin, runways in (("JFK", 4), ("LGA", 2)):
        columns["time"].append(time.astype("datetime64[ns]"))
        columns["origin"].append(np.full(hours, origin, dtype=object))
        columns["departures"].append(rng.poisson(9, hours).astype(float))
        columns["holiday"].append((np.arange(hours) // 24 % 7 == 0).astype(float))
        columns["temp"].append(rng.normal(10, 5, hours))
        columns["sky"].append(rng.choice(np.array(["clear", "fog", "rain"], dtype=object), hours))
        columns["runways"].append(np.full(hours, float(runways)))
    return {name: np.concatenate(parts) for name, parts in columns.items()}


NAMES = ("time", "origin", "departures", "holiday", "temp", "sky", "runways")


def rows(table: dict[str, Any], chosen: Any) -> dict[str, Any]:
    """Some rows of a table."""
    return {name: values[chosen] for name, values in table.items()}
