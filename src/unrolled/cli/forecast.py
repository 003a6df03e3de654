"""``unrolled forecast``: what comes after each series of a table."""

import argparse
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from unrolled.cli.language import translated
from unrolled.cli.options import file, quantiles, whole
from unrolled.cli.printing import note, print_json, print_table, tell
from unrolled.cli.runs import note_untrained
from unrolled.cli.waiting import waiting
from unrolled.errors import CallError, RunError
from unrolled.series.data import Table, read_table, write_table
from unrolled.series.forecaster import Forecaster
from unrolled.series.models import ForecastNetwork
from unrolled.training.run import read_config

TABLES = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".parquet")
MIDNIGHT = "T00:00:00"
SHOWN = 48  # rows of a table on a terminal


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "forecast",
        help="forecast what comes after series",
        description="What comes after the last value of each series of a table, with its quantiles.",
    )
    add_run_and_table(parser)
    parser.add_argument(
        "--future",
        metavar="FILE",
        help="a table of the rows to come, with what is known ahead, if DATA does not have them",
    )
    parser.add_argument(
        "--horizon", type=whole(1, 10**6), metavar="N", help="steps ahead; as many as were learnt"
    )
    parser.add_argument(
        "--quantiles", type=quantiles, metavar="Q,…", help="of what comes; those of the training"
    )
    add_places(parser)
    parser.set_defaults(command=command)


def add_run_and_table(parser: argparse.ArgumentParser) -> None:
    """Add the run, and the table that it is to read."""
    parser.add_argument("run", type=Path, metavar="DIR", help="a run of 'unrolled train series'")
    parser.add_argument(
        "data",
        metavar="DATA",
        help="a table as in training: a CSV or Parquet file, - for standard input",
    )
    parser.add_argument(
        "--encoding", metavar="NAME", help="of the files, if neither UTF-8 nor marked as UTF-16"
    )


def add_places(parser: argparse.ArgumentParser) -> None:
    """Add where the answers go."""
    parser.add_argument(
        "--out",
        dest="output",
        type=file(*TABLES),
        metavar="FILE",
        help="write the forecasts to FILE, a table in CSV or Parquet",
    )
    parser.add_argument(
        "--page", type=file(".html"), metavar="FILE", help="write a page with pictures"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def command(arguments: argparse.Namespace) -> None:
    """Forecast, and print or write what comes."""
    if arguments.page is not None:
        from unrolled.series.render import require

        require()
    forecaster = load(arguments.run)
    check_learnt(forecaster, arguments.quantiles)
    table = read(arguments.data, arguments.encoding)
    future = None if arguments.future is None else read(arguments.future, arguments.encoding)
    with waiting(f"forecasting from {table.rows:,} rows"):
        forecast = forecaster.forecast(
            table, horizon=arguments.horizon, quantiles=arguments.quantiles, future=future
        )
        columns = forecast.columns()
    horizon, count = forecast.told.shape[1], len(forecast.panel)
    write(arguments.output, columns)
    if arguments.page is not None:
        from unrolled.series.render import page

        with waiting("drawing the page"):
            page.write_forecast(
                arguments.page,
                forecast,
                title=f"Forecast of {arguments.run.name}",
                said=translated,
            )
    if arguments.json:
        about = {"run": str(arguments.run), "series": count, "horizon": horizon}
        print_json({**about, "quantiles": list(forecast.quantiles), "forecasts": records(columns)})
        return
    if arguments.output is None and arguments.page is None:
        show(columns)
    tell_where(arguments)


def load(directory: Path) -> Forecaster:
    """The forecaster in ``directory``.

    Raises:
        RunError: there is a run of another kind, or none.
    """
    kind = read_config(directory).get("kind")
    if kind != ForecastNetwork.kind:
        raise RunError(
            f"{directory}: holds a model of kind '{kind}', expected 'forecast', "
            "made by 'unrolled train series'"
        )
    forecaster = Forecaster.load(directory)
    note_untrained(forecaster.run)
    if forecaster.run.weights_step() and not forecaster.run.is_calibrated:
        note(
            f"{directory}: the training was stopped before its intervals were calibrated; "
            "continue with 'unrolled train … --resume'"
        )
    return forecaster


def read(path: str, encoding: str | None) -> Table:
    """The table at ``path``; if that takes long, it is said how large it is."""
    size = "" if path == "-" else f" ({size_of(path)})"
    with waiting(f"reading {'standard input' if path == '-' else path}{size}"):
        return read_table(path, encoding=encoding)


def size_of(path: str) -> str:
    """How large a file is, in words.

    >>> size_of("a file that is not there")
    '0 kB'
    """
    try:
        size = Path(path).stat().st_size / 1000
    except OSError:
        size = 0
    for unit in ("kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} GB"


def check_learnt(forecaster: Forecaster, wanted: Sequence[float] | None) -> None:
    """Refuse levels that are further out than those that the network has learnt."""
    learnt = forecaster.network.distribution.levels
    for level in wanted or ():
        if not learnt[0] - 1e-9 <= level <= learnt[-1] + 1e-9:
            raise CallError(
                f"--quantiles: got {level:g}, expected levels from {learnt[0]:g} to {learnt[-1]:g}, which "
                "were learnt; 'unrolled train series --quantiles' says which are"
            )


def write(path: Path | None, columns: Any) -> None:
    """Write a table, if it has a place."""
    if path is not None:
        with waiting(f"writing {path}"):
            write_table(path, columns)


def records(columns: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows of a table, as JSON."""
    lists = [[_plain(cell) for cell in column.tolist()] for column in columns.values()]
    return [dict(zip(columns, row, strict=True)) for row in zip(*lists, strict=True)]


def _plain(cell: Any) -> Any:
    if isinstance(cell, date):
        return cell.isoformat()
    return None if isinstance(cell, float) and cell != cell else cell


def show(columns: Mapping[str, Any]) -> None:
    """Print a table, or if it is long its beginning."""
    count = len(next(iter(columns.values())))
    rows = records({name: column[:SHOWN] for name, column in columns.items()})
    every = [[_told(cell) for cell in row.values()] for row in rows]
    print_table(list(columns), list(zip(*map(_days, zip(*every, strict=True)), strict=True)))
    if count > SHOWN:
        note(f"these are {SHOWN} of {count:,} rows; --out FILE.csv has all of them")


def _told(cell: Any) -> str:
    if cell is None:
        return ""
    return f"{cell:.5g}" if isinstance(cell, float) else str(cell)


def _days(cells: Sequence[str]) -> list[str]:
    """A column of times without their hours, if all are at midnight."""
    is_of_days = all(cell.endswith(MIDNIGHT) for cell in cells)
    return [cell.removesuffix(MIDNIGHT) if is_of_days else cell for cell in cells]


def tell_where(arguments: argparse.Namespace) -> None:
    """Say where the answers are."""
    if arguments.output is not None:
        tell(f"the forecasts: {arguments.output}")
    if arguments.page is not None:
        tell(f"the page: {arguments.page}")
