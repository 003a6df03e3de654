"""Forecasters: what comes after series of numbers."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from unrolled.cli.language import in_chinese, is_chinese, translated
from unrolled.cli.options import fraction, names, quantiles, whole
from unrolled.cli.printing import is_json, note, say, say_table
from unrolled.cli.train.application import Application, Kind, Option
from unrolled.cli.train.begin import planned, settings_of
from unrolled.cli.train.options import TRAINING, cell, every
from unrolled.cli.waiting import waiting
from unrolled.errors import CallError
from unrolled.series.data import Plan, Roles, panel_of
from unrolled.series.data.origins import Origins, seasons_of
from unrolled.series.data.steps import INFER
from unrolled.series.feeds import LONGEST, ForecastFeed
from unrolled.series.forecaster import RECIPE, calibrate, network_of, tested
from unrolled.series.models import DISTRIBUTIONS, ForecastNetwork
from unrolled.series.models.forecast import CELLS, FURTHEST
from unrolled.series.run import ForecastRun
from unrolled.training import Trainer
from unrolled.training.remedies import reshaped
from unrolled.training.run import Run

COLUMN, COLUMNS = {"metavar": "COLUMN"}, {"type": names, "metavar": "COLUMN,…"}
SOURCES = ("data", "time", "series", "target", "known", "past", "static", "categories")
GROUPS: dict[str, dict[str, Option]] = {
    "the most used": {
        "data": Option(
            None,
            "a table with a row for each time of each series: a CSV or Parquet file (.gz too), or - for "
            "standard input",
            {"metavar": "DATA"},
            is_positional=True,
        ),
        "time": Option(None, "the column of times; without one rows are steps", COLUMN),
        "series": Option([], "the columns that name a series", COLUMNS),
        "target": Option([], "the columns to forecast", COLUMNS),
        "known": Option([], "columns that are known ahead", COLUMNS),
        "past": Option([], "columns that are known up to now", COLUMNS),
        "static": Option([], "columns that do not change within a series", COLUMNS),
        "categories": Option(
            [], "those of these that are no quantities though they are numbers", COLUMNS
        ),
        "horizon": Option(24, "steps ahead", {"type": whole(1, FURTHEST)}),
        **every("minutes", "epochs"),
        "cell": cell(CELLS, "lstm"),
        **every("depth", "seed", hidden=64),
    },
    "table": {
        "frequency": Option(
            INFER,
            "of the times, such as hour or 30min, or irregular",
            {"metavar": "NAME"},
        ),
        "season": Option(
            None, "steps of a season; by default that of the frequency", {"type": whole(1)}
        ),
        "zone": Option(
            None,
            "the time zone, such as Europe/Berlin, of times that name none",
            {"metavar": "NAME"},
        ),
        "encoding": Option(None, "of the file, if neither UTF-8 nor UTF-16", {"metavar": "NAME"}),
        "validation_share": Option(
            0.1,
            "of each series, before the test: by it the best weights are kept",
            {"type": fraction},
        ),
        "test_share": Option(
            0.1, "of each series, its end: never trained on, but tested", {"type": fraction}
        ),
    },
    "model": {
        "quantiles": Option(
            [0.1, 0.5, 0.9], "of what comes", {"type": quantiles, "metavar": "Q,…"}
        ),
        "distribution": Option(
            "quantiles", "what is learnt of what comes", {"choices": sorted(DISTRIBUTIONS)}
        ),
        **every(dropout=0.1),
    },
    "training": {
        **every(batch_steps=1024),
        **every(*(name for name in TRAINING if name not in ("learning_rate", *RECIPE))),
        **every(learning_rate=5e-3, **RECIPE),
    },
}
KINDS = {
    "series": Kind(
        "on series of numbers, what forecasts them",
        ForecastNetwork.kind,
        "Train a forecaster on a table of series, into a run directory.",
    )
}
FIGURES = {"forecast_loss": "loss", "below_median": "below median"}


class Series(Application):
    """Models that forecast series."""

    kinds = KINDS
    usage = "DATA --time COLUMN --target COLUMN"
    groups = GROUPS
    sources = SOURCES
    reads = "series"
    figures = FIGURES
    measure, unit = "loss of scaled forecasts", "loss"
    least_gain = 0.002

    def refuse(self, options: Mapping[str, Any]) -> None:
        if "with_activation" in options.get("remedy", {}):
            raise CallError("--remedy: got with_activation, which no forecaster takes")
        shares = [options.get(name, 0.1) for name in ("validation_share", "test_share")]
        if sum(shares) >= 1:
            raise CallError(
                f"--validation-share, --test-share: got {shares[0]:g} and {shares[1]:g}, expected less "
                "than 1 together"
            )

    def begin(self, directory: Path, options: dict[str, Any]) -> Run:
        from unrolled.cli.forecast import read

        if options["data"] is None:
            raise CallError("DATA: missing, expected a table in CSV or Parquet")
        if not options["target"]:
            raise CallError("--target: missing, expected the columns to forecast")
        table = read(options["data"], options["encoding"])
        with waiting(f"arranging {table.rows:,} rows"):
            roles = Roles(
                options["time"],
                **{name: options[name] for name in SOURCES[2:] if name != "target"},
                targets=options["target"],
            )
            panel = panel_of(
                table,
                roles,
                shares=(options["validation_share"], options["test_share"]),
                least=options["horizon"],
                **{name: options[name] for name in ("frequency", "season", "zone")},
            )
            statistics, config = network_of(panel, {**options, "hidden_size": options["hidden"]})
            data = Origins(panel, statistics, seasons_of(panel.plan), options["horizon"])
        say_plan(panel.plan)
        config |= reshaped(options["remedy"])
        settings = planned(
            ForecastNetwork,
            config,
            settings_of(options),
            lambda model, how: ForecastFeed(model, data, how),
        )
        return ForecastRun.create(
            directory,
            panel=panel,
            statistics=statistics,
            model_config=config,
            settings=settings,
            command=options,
        )

    def longest(self, run: Run, data: Any, split: str) -> int:  # noqa: ARG002
        return int(min(LONGEST, data.lengths.max()))

    def finish(self, trainer: Trainer) -> Mapping[str, Any]:
        from unrolled.cli.backtest import show

        run = cast(ForecastRun, trainer.run)
        with waiting("calibrating the intervals"):
            calibrate(run, trainer.data)
        with waiting("forecasting what was held out for the test"):
            test = tested(run, trainer.data)
        if test is None:
            note(
                "the test split is empty: whether it is better than the season before is not known"
            )
            return {"test": None}
        if not is_json():
            show(test)
        return {"test": test.record()}

    def outcome(self, trainer: Trainer) -> Mapping[str, Any]:
        plan = cast(ForecastRun, trainer.run).plan
        return {
            "series": plan.series,
            "rows": plan.rows,
            "steps_of_splits": dict(zip(("train", "validation", "test"), plan.splits, strict=True)),
        }

    def incomparable(self, runs: Sequence[Run]) -> str:
        about = {
            (tuple(run.plan.targets), run.plan.steps, run.plan.splits, run.model_config["horizon"],
             run.model_config["distribution"])
            for run in runs if isinstance(run, ForecastRun)
        }  # fmt: skip
        if len(about) < 2:
            return ""
        return "the losses are of other tables, horizons or distributions, and do not compare"


def say_plan(plan: Plan) -> None:
    """Say what was understood of a table."""
    rows = [(name, *map(_said, cells)) for name, *cells in plan.rows_of_columns()]
    say_table(plan.HEAD, rows)
    for fact in plan.facts():
        say(fact)


def _said(cell: str) -> str:
    """A cell of a plan in the language of the table; numbers and levels stay."""
    file = sys.stderr if is_json() else sys.stdout
    low, to, high = cell.partition(" to ")
    if to and is_chinese(file):
        return f"{low} … {in_chinese(high)}"
    return translated(cell, file)


SERIES = Series()
