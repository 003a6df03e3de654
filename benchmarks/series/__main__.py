"""Forecasts of real series against the season before and against those of other libraries.

``python -m benchmarks.series [--minutes 2] [--seeds 0 1 2] [--sets NAME …] [--peers NAME …] [--smallest]
[--json FILE]`` holds out the last steps of each series, trains on the others for the same time and on one
thread each, and forecasts from every held-out origin. It prints MASE, CRPS (the weighted quantile loss of
nine levels) and what the 80 % and 95 % intervals cover. What is in FILE is not measured again.
"""

import argparse
import json
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from benchmarks import results
from benchmarks.series.data import SETS, Set
from benchmarks.series.peers import PEERS, Task, installed

from unrolled.series import Forecaster
from unrolled.series.data.origins import seasons_of
from unrolled.series.models.distributions import LEVELS
from unrolled.series.scores import figures, seasonal_errors

HELD_OUT = 0.1  # of a series, for validation, by every method that has one
SMALLEST = ("elnino",)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS))
    parser.add_argument("--peers", nargs="*", choices=list(PEERS), default=None)
    results.add_options(parser)
    given = parser.parse_args(arguments)
    found: dict[str, Any] = {"machine": results.machine(), "sets": {}}
    if given.json is not None and given.json.exists() and not given.smallest:
        found["sets"] = json.loads(given.json.read_text(encoding="utf-8"))["sets"]
    names = SMALLEST if given.smallest else given.sets
    seeds = [0] if given.smallest else given.seeds
    minutes = 0.01 if given.smallest else given.minutes
    peers = installed() if given.peers is None and not given.smallest else given.peers or []
    for name in names:
        data = SETS[name]()
        rows = found["sets"].setdefault(name, {"credit": data.credit})
        print(
            f"{name}: {data.horizon} steps ahead, season {data.season}; {data.credit}", flush=True
        )
        for seed in seeds:
            if f"unrolled, seed {seed}" not in rows:
                ours, naive = forecast(data, minutes, seed)
                rows["seasonal naive"], rows[f"unrolled, seed {seed}"] = naive, ours
                results.write(given.json, found)
            show(f"unrolled, seed {seed}", rows[f"unrolled, seed {seed}"])
        show("seasonal naive", rows["seasonal naive"])
        for peer in peers:
            if peer not in rows:
                rows[peer] = of_peer(peer, data, minutes)
                results.write(given.json, found)
            show(peer, rows[peer])
    results.write(given.json, found)


def forecast(data: Set, minutes: float, seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """The figures of a forecaster, and those of the seasonal naive forecast."""
    forecaster = Forecaster(
        data.horizon,
        quantiles=LEVELS,
        minutes=minutes,
        seed=seed,
        threads=1,
        validation_share=HELD_OUT,
        test_share=held_out(data),
        **data.options,
    )
    began = time.perf_counter()
    forecaster.fit(data.columns, **data.roles)
    seconds = time.perf_counter() - began
    began = time.perf_counter()
    test = forecaster.backtest(data.columns, origins=data.origins)
    about = {
        "steps": forecaster.run.settings.steps,
        "best step": forecaster.run.weights_step(),
        "seconds": round(seconds, 1),
        "seconds of the back-test": round(time.perf_counter() - began, 3),
    }
    return {**test.scores.record(), **about}, test.naive.record()


def of_peer(name: str, data: Set, minutes: float) -> dict[str, Any]:
    """The figures of another library's forecaster, or why there are none."""
    task = task_of(data, minutes)
    began = time.perf_counter()
    try:
        told = PEERS[name][1](task)
    except Exception as error:  # each peer fails in its own way, and says so
        return {"failed": f"{type(error).__name__}: {error}"[:300]}
    if told is None:
        return {"failed": "it cannot serve this set"}
    values, errors = [], []
    for series, origins in zip(task.values, task.origins, strict=True):
        ahead = origins[:, None] + np.arange(1, task.horizon + 1)
        values.append(series[ahead].ravel())
        own = seasonal_errors(series[: int(origins[0]) + 1], data.season)
        errors.append(np.broadcast_to(own, (ahead.size, 2)))
    flat = told.reshape(-1, len(task.levels))
    scores = figures(np.concatenate(values), flat, task.levels, np.concatenate(errors))
    return {**scores.record(), "seconds": round(time.perf_counter() - began, 1)}


def task_of(data: Set, minutes: float) -> Task:
    """``data`` as peers are given it: the same steps as the forecaster's panel."""
    forecaster = Forecaster(data.horizon, **data.options)
    panel = forecaster.panel(data.columns, **data.roles)
    values = [series.targets[:, 0] for series in panel]
    origins = [
        np.arange(len(v) - data.origins - data.horizon, len(v) - data.horizon) for v in values
    ]
    train = [int(o[0]) + 1 for o in origins]
    seasons = seasons_of(panel.plan)
    return Task(values, train, origins, data.horizon, seasons, LEVELS, minutes, 0)


def held_out(data: Set) -> float:
    """The share of the longest series that its origins and their horizon are."""
    columns = data.columns
    count = len(next(iter(columns.values())))
    keys = columns[data.roles["series"]] if "series" in data.roles else np.zeros(count)
    longest = int(np.unique(keys, return_counts=True)[1].max())
    return (data.origins + data.horizon) / longest


def show(name: str, row: dict[str, Any]) -> None:
    """A line of figures."""
    if "failed" in row:
        print(f"  {name:24}{row['failed']}", flush=True)
        return
    covers = "  ".join(
        f"{share} covers {row['coverage'][share]:.3f}"
        for share in ("0.8", "0.95")
        if share in row["coverage"]
    )
    print(f"  {name:24}MASE {row['mase']:.3f}  CRPS {row['crps']:.4f}  {covers}", flush=True)


if __name__ == "__main__":
    main()
