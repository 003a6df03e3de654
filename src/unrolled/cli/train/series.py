"""Forecasters: what comes next in series of numbers."""

import argparse
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, cast

from unrolled.cli.options import fraction, names, whole
from unrolled.cli.printing import print_table, say, tell
from unrolled.cli.train.application import Application, Kind, Option
from unrolled.cli.train.begin import planned, settings_of
from unrolled.cli.train.options import TRAINING, cell, every
from unrolled.errors import CallError
from unrolled.series.data import Panel, Plan, Roles, panel_of, read_table
from unrolled.series.data.origins import Origins, seasons_of, statistics_of
from unrolled.series.feeds import ForecastFeed
from unrolled.series.forecaster import RECIPE, Forecaster, calibrate, levels_of
from unrolled.series.models import DISTRIBUTIONS, ForecastNetwork
from unrolled.series.models.forecast import CELLS
from unrolled.series.run import ForecastRun, network_config
from unrolled.training import Trainer
from unrolled.training.remedies import reshaped
from unrolled.training.run import Run

COLUMN, COLUMNS = {"metavar": "COLUMN"}, {"type": names, "metavar": "COLUMN,…"}


def levels(text: str) -> list[float]:
    """Levels of quantiles from a text such as "0.1,0.5,0.9"."""
    try:
        found = [float(part) for part in text.split(",")]
        levels_of(found)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"got {text!r}, expected levels between 0 and 1, such as 0.1,0.5,0.9"
        ) from None
    return found


def frequency(text: str) -> str | None:
    """A frequency; "irregular" is none."""
    return None if text == "irregular" else text


GROUPS: dict[str, dict[str, Option]] = {
    "the most used": {
        "data": Option(
            None, "a CSV or Parquet file, or - for standard input", {"metavar": "DATA", "nargs": "?"},
            is_positional=True,
        ),
        "target": Option(None, "the columns to forecast", COLUMNS),
        "time": Option(None, "the column of times", COLUMN),
        "series": Option([], "the columns that name a series", COLUMNS),
        "known": Option([], "columns that are known ahead", COLUMNS),
        "past": Option([], "columns that are known up to now", COLUMNS),
        "static": Option([], "columns that do not change within a series", COLUMNS),
        "horizon": Option(24, "steps to forecast", {"type": whole(1, 4096)}),
        **every("minutes", "epochs"),
        "cell": cell(CELLS, "lstm"),
        **every("depth", "seed", hidden=64),
    },
    "table": {
        "categories": Option(
            [], "columns of numbers that are no quantities", COLUMNS
        ),
        "frequency": Option(
            "infer", "such as hour or 30min, or irregular; by default as the times show",
            {"type": frequency, "metavar": "NAME"},
        ),
        "season": Option(None, "steps of a season; by default the usual", {"type": whole(1)}),
        "zone": Option(None, "of times that say none, such as Europe/Berlin", {"metavar": "NAME"}),
        "validation_share": Option(0.1, "of each series' steps, not trained on", {"type": fraction}),
        "test_share": Option(0.1, "of each series' steps, never looked at", {"type": fraction}),
    },
    "model": {
        "quantiles": Option(
            [0.1, 0.5, 0.9], "levels that are forecast", {"type": levels, "metavar": "N,…"}
        ),
        "distribution": Option(
            "quantiles", "what the network gives", {"choices": list(DISTRIBUTIONS)}
        ),
        **every(dropout=0.1),
    },
    "training": {**every(*TRAINING), **every(batch_steps=1024, learning_rate=5e-3)},
}  # fmt: skip
GROUPS["training"] |= every(**{name: value for name, value in RECIPE.items() if name in TRAINING})
KINDS = {
    "series": Kind(
        "on series of numbers, forecasts",
        ForecastNetwork.kind,
        "Train a forecaster on series of numbers in a table, into a run directory.",
    )
}
FIGURES = {"forecast_loss": "loss", "below_median": "below the median"}
SOURCES = ("data", "target", "time", "series", "known", "past", "static")


class Forecasts(Application):
    """Models that forecast series."""

    kinds = KINDS
    usage = "DATA --target COLUMN --time COLUMN"
    groups = GROUPS
    sources = SOURCES
    reads = "series"
    figures = FIGURES
    measure, unit = "loss of the forecasts, in units of each series' spread", "of the loss"

    def begin(self, directory: Path, options: dict[str, Any]) -> Run:
        if options["data"] is None:
            raise CallError("DATA: missing, expected a table: a CSV or Parquet file")
        if options["target"] is None:
            raise CallError("--target: missing, expected the columns to forecast")
        say(f"reading {options['data']}")
        panel = panel_of(
            read_table(options["data"]),
            _roles(options),
            frequency=options["frequency"],
            season=options["season"],
            zone=options["zone"],
            shares=(options["validation_share"], options["test_share"]),
            least=options["horizon"],
        )
        show_plan(panel.plan)
        return _begun(directory, panel, options)

    def finished(self, trainer: Trainer) -> None:
        run = cast(ForecastRun, trainer.run)
        calibrate(run, trainer.data)
        test = Forecaster.load(run.directory).tested()
        if test is None:
            return
        tell(f"on the test split, {test.verdict()}")
        print_table(test.HEAD, test.rows())

    def longest(self, run: Run, data: Any, split: str) -> int:  # noqa: ARG002
        return int(ForecastFeed(run.new_model(), data, run.settings).steps)

    def outcome(self, trainer: Trainer) -> Mapping[str, Any]:
        run = cast(ForecastRun, trainer.run)
        test = Forecaster.load(run.directory).tested()
        scores = (
            None
            if test is None
            else {"network": test.scores.record(), "naive": test.naive.record()}
        )
        return {"series": run.plan.series, "steps_of_series": run.plan.steps, "test": scores}


def _roles(options: Mapping[str, Any]) -> Roles:
    names = ("series", "known", "past", "static", "categories")
    columns: dict[str, Any] = {name: tuple(options[name]) for name in names}
    return Roles(options["time"], tuple(options["target"]), **columns)


def _begun(directory: Path, panel: Panel, options: dict[str, Any]) -> ForecastRun:
    statistics, horizon = statistics_of(panel), options["horizon"]
    config = network_config(
        panel.plan,
        horizon,
        hidden_size=options["hidden"],
        levels=levels_of(options["quantiles"]),
        **{name: options[name] for name in ("cell", "depth", "dropout", "distribution")},
    )
    config |= reshaped(options["remedy"])
    data = Origins(panel, statistics, seasons_of(panel.plan), horizon)
    feed_of = partial(_feed, data=data)
    return ForecastRun.create(
        directory,
        panel=panel,
        statistics=statistics,
        model_config=config,
        settings=planned(ForecastNetwork, config, settings_of(options), feed_of),
        command=options,
    )


def _feed(model: ForecastNetwork, settings: Any, data: Origins) -> ForecastFeed:
    return ForecastFeed(model, data, settings)


def show_plan(plan: Plan) -> None:
    """Print what was understood of a table."""
    print_table(plan.HEAD, plan.rows_of_columns())
    for line in plan.facts():
        say(line)


FORECASTS = Forecasts()
