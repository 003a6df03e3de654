"""``unrolled predict``: what a network tells of the sequences of a table."""

import argparse
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from unrolled.cli.printing import print_json, print_table, say, tell
from unrolled.cli.runs import note_untrained, open_run
from unrolled.errors import CallError, RunError
from unrolled.series.data import read_table, sequences_of, write_table
from unrolled.series.data.labelled import Labelled
from unrolled.series.data.plan import Plan
from unrolled.series.models.sequence import ValueNetwork
from unrolled.series.sequence_run import SequenceRun, answers_of
from unrolled.series.sequence_tables import arrays_of

Array = NDArray[Any]
SHOWN = 12  # rows that are printed where no file is named


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "predict",
        help="tell the class, or a number, of sequences",
        description="Tell what was learnt of each sequence of a table: its class, or a number.",
        usage="unrolled predict DIR DATA [--out FILE] [options]",
    )
    parser.add_argument(
        "run", type=Path, metavar="DIR", help="a run of 'unrolled train classify' or 'regress'"
    )
    parser.add_argument("data", metavar="DATA", help="a CSV or Parquet file, or -")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="write what is told: .csv or .parquet"
    )
    parser.add_argument(
        "--probabilities", action="store_true", help="a column for each class, with its probability"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(command=command)


def command(arguments: argparse.Namespace) -> None:
    """Tell, and print or write it."""
    run = open_run(arguments.run)
    if not isinstance(run, SequenceRun):
        raise RunError(
            f"{arguments.run}: holds a model of kind '{run.kind}', expected 'classify' or 'regress', "
            "made by 'unrolled train classify|regress'"
        )
    if "plan" not in run.data:
        raise RunError(
            f"{arguments.run}: was trained on arrays, not on a table; read it with "
            "SequenceClassifier.load or SequenceRegressor.load"
        )
    out: Path | None = arguments.out
    if out is not None and not out.absolute().parent.is_dir():
        raise CallError(f"--out: got {str(out)!r}, expected a folder that is there")
    note_untrained(run)
    plan = Plan.of_record(run.data["plan"])
    say(f"reading {arguments.data}")
    sequences = sequences_of(read_table(arguments.data), plan)
    values, gaps = arrays_of(sequences)
    nothing = np.zeros(len(values), np.int64)
    answers = answers_of(run.model(), Labelled.of(values, nothing, gaps=gaps))
    label = plan.of_role("label")[0].name
    told = columns_of(run, label, answers, each=arguments.probabilities)
    keys = sequences.panel.key_columns
    if out is not None:
        write_table(out, {**keys, **told})
        say(f"{len(values):,} rows in {out}")
    columns = {name: column.to_pylist() for name, column in keys.items()}
    columns |= {name: column.tolist() for name, column in told.items()}
    rows = list(zip(*columns.values(), strict=True))
    if arguments.json:
        print_json([dict(zip(columns, map(_plain, row), strict=True)) for row in rows])
        return
    if out is None:
        print_table(list(columns), [list(map(_shown, row)) for row in rows[:SHOWN]])
        if len(rows) > SHOWN:
            say(f"… and {len(rows) - SHOWN:,} more rows; --out FILE writes all")
    if sequences.labels is not None:
        _tell_scores(run, told[label], sequences.labels)


def _plain(value: Any) -> Any:
    return value if isinstance(value, int | float | str | None) else str(value)


def _shown(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def columns_of(run: SequenceRun, label: str, answers: Array, *, each: bool) -> dict[str, Array]:
    """What is told of each sequence: the class and its probability, or the number."""
    if run.kind == "regress":
        model = cast(ValueNetwork, run.model())
        scale, location = model.target_scale.numpy(), model.target_location.numpy()
        return {label: (answers * scale + location)[:, 0]}
    odds = np.exp(answers - answers.max(1, keepdims=True))
    shares = odds / odds.sum(1, keepdims=True)
    found = {label: np.array(run.labels)[answers.argmax(1)], "probability": shares.max(1)}
    if each:
        found |= {f"p({name})": shares[:, k] for k, name in enumerate(run.labels)}
    return found


def _tell_scores(run: SequenceRun, told: Array, labels: Array) -> None:
    """How right it was, where the table says what is right."""
    if run.kind == "classify":
        right = np.array([str(a) == str(b) for a, b in zip(told, labels, strict=True)])
        tell(f"{right.sum():,} of {len(right):,} are as the table has them: {right.mean():.1%}")
        return
    off = told - labels
    tell(f"root of the mean squared error: {np.sqrt(np.square(off).mean()):.6g}")
