"""``unrolled forecast`` and ``unrolled backtest``: what a forecaster says, and what it would have said."""

import argparse
from pathlib import Path
from typing import Any

from unrolled.cli.options import file, whole
from unrolled.cli.printing import note, print_json, print_table, say, tell
from unrolled.cli.runs import class_of
from unrolled.errors import CallError, RunError
from unrolled.series import Forecaster
from unrolled.series.data import read_table, table_of, write_table
from unrolled.series.run import ForecastRun

SHOWN = 12  # rows that are printed where no file is named


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the commands to the parser."""
    for name, work, about in (
        ("forecast", forecast, "say what comes after the last rows of a table"),
        ("backtest", backtest, "say what a forecaster would have said, and how good that was"),
    ):
        parser = commands.add_parser(name, help=about, description=about.capitalize() + ".")
        parser.add_argument(
            "run", type=Path, metavar="DIR", help="a run of 'unrolled train series'"
        )
        parser.add_argument("data", metavar="DATA", help="a CSV or Parquet file, or -")
        parser.add_argument(
            "--horizon", type=whole(1), metavar="N", help="steps; by default as were learnt"
        )
        if name == "forecast":
            from unrolled.cli.train.series import levels

            parser.add_argument(
                "--future", metavar="FILE", help="rows to come, with the columns known ahead"
            )
            parser.add_argument(
                "--quantiles", type=levels, metavar="N,…", help="levels; by default the run's"
            )
        else:
            parser.add_argument(
                "--origins", type=whole(1), default=1000, metavar="N",
                help="the last steps of each series, so many (1000)",
            )  # fmt: skip
        parser.add_argument(
            "--out", type=Path, metavar="FILE", help="write the forecasts: .csv or .parquet"
        )
        parser.add_argument(
            "--page", type=file(".html"), metavar="FILE", help="draw it as a page, FILE.html"
        )
        parser.add_argument("--json", action="store_true", help="print JSON")
        parser.set_defaults(command=work)


def forecast(arguments: argparse.Namespace) -> None:
    """Forecast, and print or write it."""
    forecaster = _load(arguments)
    future = None if arguments.future is None else read_table(arguments.future)
    found = forecaster.forecast(
        read_table(arguments.data),
        horizon=arguments.horizon,
        quantiles=arguments.quantiles,
        future=future,
    )
    told = table_of(found.columns())
    columns = {name: told.arrow(name) for name in told.names}
    if arguments.page is not None:
        found.page(arguments.page)
        say(f"the page: {arguments.page}")
    if arguments.out is not None:
        write_table(arguments.out, columns)
        say(f"{told.rows:,} rows in {arguments.out}")
    rows = _rows(columns)
    if arguments.json:
        print_json(rows)
    elif arguments.out is None:
        print_table(list(columns), [[_told(v) for v in row.values()] for row in rows[:SHOWN]])
        if len(rows) > SHOWN:
            say(f"… and {len(rows) - SHOWN:,} more rows; --out FILE writes all")


def backtest(arguments: argparse.Namespace) -> None:
    """Test on what came, and print the scores."""
    forecaster = _load(arguments)
    test = forecaster.backtest(
        read_table(arguments.data), origins=arguments.origins, horizon=arguments.horizon
    )
    told = test.forecasts
    if arguments.out is not None:
        write_table(arguments.out, {name: told[name] for name in told.column_names})
    if arguments.page is not None:
        test.page(arguments.page)
        say(f"the page: {arguments.page}")
    if arguments.json:
        print_json({"network": test.scores.record(), "seasonal naive": test.naive.record()})
        return
    tell(test.verdict())
    print_table(test.HEAD, test.rows())
    if arguments.out is not None:
        say(f"{told.num_rows:,} rows in {arguments.out}")


def _load(arguments: argparse.Namespace) -> Forecaster:
    """The forecaster of the run that is asked for."""
    directory: Path = arguments.run
    if arguments.out is not None and not arguments.out.absolute().parent.is_dir():
        raise CallError(f"--out: got {str(arguments.out)!r}, expected a folder that is there")
    if arguments.page is not None:
        from unrolled.series.render import require

        require()
    kind = class_of(directory)
    if not issubclass(kind, ForecastRun):
        raise RunError(
            f"{directory}: holds a model of kind '{kind(directory).kind}', expected 'forecast', made by "
            "'unrolled train series'"
        )
    forecaster = Forecaster.load(directory)
    if forecaster.run.weights_step() == 0:
        note(f"{directory}: the weights are untrained; continue with 'unrolled train … --resume'")
    say(f"reading {arguments.data}")
    return forecaster


def _rows(columns: dict[str, Any]) -> list[dict[str, Any]]:
    values = [
        [v if isinstance(v, int | float | str | None) else str(v) for v in column.to_pylist()]
        for column in columns.values()
    ]
    return [dict(zip(columns, row, strict=True)) for row in zip(*values, strict=True)]


def _told(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
