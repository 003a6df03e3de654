"""``unrolled backtest``: what a forecaster would have said, beside what came."""

import argparse

import numpy as np

from unrolled.cli.forecast import (
    add_places,
    add_run_and_table,
    load,
    read,
    tell_where,
    write,
)
from unrolled.cli.language import translated
from unrolled.cli.options import whole
from unrolled.cli.printing import note, print_json, print_table, tell
from unrolled.cli.waiting import waiting
from unrolled.errors import UnrolledError
from unrolled.series.backtest import Backtest
from unrolled.series.run import ForecastRun

ORIGINS = 1000


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "backtest",
        help="hold forecasts against what came",
        description="What a forecaster would have said at the last steps of each series, beside what "
        "came and beside the seasonal naive forecast, in one pass.",
    )
    add_run_and_table(parser)
    parser.add_argument(
        "--origins",
        type=whole(1),
        default=ORIGINS,
        metavar="N",
        help=f"steps of each series to forecast from, the last ones ({ORIGINS})",
    )
    parser.add_argument(
        "--horizon", type=whole(1, 10**6), metavar="N", help="steps ahead; as many as were learnt"
    )
    add_places(parser)
    parser.set_defaults(command=command)


def command(arguments: argparse.Namespace) -> None:
    """Back-test, and print whether it is better than the seasonal naive forecast, and by how much."""
    if arguments.page is not None:
        from unrolled.series.render import require

        require()
    forecaster = load(arguments.run)
    table = read(arguments.data, arguments.encoding)
    with waiting(f"forecasting from {arguments.origins:,} origins of each series"):
        test = forecaster.backtest(table, origins=arguments.origins, horizon=arguments.horizon)
    write(arguments.output, test.forecasts)
    if arguments.page is not None:
        from unrolled.series.render import page

        with waiting("drawing the page"):
            page.write_backtest(
                arguments.page,
                test,
                title=f"Back-test of {arguments.run.name}",
                said=translated,
            )
    if arguments.json:
        print_json({"run": str(arguments.run), **test.record()})
    else:
        show(test)
        tell_where(arguments)
    _note_what_was_trained_on(forecaster.run, test)


def show(test: Backtest) -> None:
    """Print the verdict, then the scores beside those of the seasonal naive forecast."""
    tell(test.verdict())
    counts = np.bincount(test.asked.series)
    tell(
        f"from up to {counts.max():,} origins of each of {np.count_nonzero(counts):,} series, "
        f"{test.told.shape[1]:,} steps ahead"
    )
    rows = [[translated(name), *figures] for name, *figures in test.rows()]
    print_table(test.HEAD, rows)


def _note_what_was_trained_on(run: ForecastRun, test: Backtest) -> None:
    """Say so if some origins are in what the network was trained or calibrated on."""
    try:
        panel = run.panel()
    except UnrolledError:  # what it was trained on is no longer there
        return
    ends = panel.splits()[:, 1]
    last = int(panel.times[panel.offsets[:-1] + ends - 1].max())
    data = test.data.panel
    if data.clock.is_calendar != panel.clock.is_calendar:
        return
    times = data.times[data.offsets[:-1][test.asked.series] + test.asked.steps]
    within = times < last
    if not within.any():
        return
    after = np.bincount(test.asked.series[~within], minlength=1).max()
    cure = (
        f"--origins {after} leaves them out"
        if after
        else "give a table that continues after it, or train with a larger --test-share"
    )
    note(
        f"{within.sum():,} of {len(within):,} origins are in what it was trained on, up to "
        f"{panel.clock.text(last)}, and say nothing of how good it is; {cure}"
    )
