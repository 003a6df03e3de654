"""``unrolled compare``: runs side by side."""

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from unrolled.cli.language import translated
from unrolled.cli.options import file
from unrolled.cli.printing import note, print_json, print_table, say
from unrolled.cli.runs import open_run
from unrolled.cli.train import application_of
from unrolled.cli.train.application import Application
from unrolled.errors import CallError, DataError, MissingExtraError
from unrolled.lens.report import sparkline
from unrolled.text.data.dataset import SPLITS
from unrolled.training.callbacks import seconds_of
from unrolled.training.files import read_tensors
from unrolled.training.loop import evaluations_of
from unrolled.training.run import TRAINING, Run

OF_THE_MACHINE = ("threads",)
LOSS = "loss on the validation split"  # of runs that measure it each in its own way


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "compare",
        help="runs side by side",
        description="Runs side by side: the settings in which they differ, steps, time, the validation "
        "loss as it fell, and the scores on held-out text.",
    )
    parser.add_argument(
        "runs", type=Path, nargs="+", metavar="RUN", help="directories of 'unrolled train'"
    )
    parser.add_argument("--split", choices=SPLITS, default="test", help="which part scores (test)")
    parser.add_argument(
        "--html", type=file(".html"), metavar="FILE", help="write the comparison as a page"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(command=command)


def command(arguments: argparse.Namespace) -> None:
    """Read the runs, and print what they are and what came of them."""
    if len({path.resolve() for path in arguments.runs}) < len(arguments.runs):
        raise CallError("RUN: got a run twice, expected different ones")
    if arguments.html is not None:
        from unrolled.lens.render import require

        require()
    runs = [open_run(path) for path in arguments.runs]
    applications = [application_of(run) for run in runs]
    compared = _compared(runs, applications, arguments.split)
    _say_if_incomparable(runs, applications)
    if arguments.html is not None:
        from unrolled.lens.render import comparison

        measures = dict.fromkeys(application.measure for application in applications)
        measure = next(iter(measures)) if len(measures) == 1 else LOSS
        shown = table(compared, applications)
        comparison.write(arguments.html, compared, shown, translated, measure=measure)
    if arguments.json:
        print_json(compared)
        return
    print_table(*table(compared, applications))
    if arguments.html is not None:
        say(f"the page: {arguments.html}")


def _compared(
    runs: Sequence[Run], applications: Sequence[Application], split: str
) -> dict[str, Any]:
    """What there is to compare, as plain data."""
    records = [_record(run, of, split) for run, of in zip(runs, applications, strict=True)]
    return {"split": split, "differing": _differing(records), "runs": records}


def _say_if_incomparable(runs: Sequence[Run], applications: Sequence[Application]) -> None:
    if len(set(applications)) > 1:
        note("the runs are of other data: the scores of one do not compare with those of another")
    elif why := applications[0].incomparable(runs):
        note(why)


def _record(run: Run, application: Application, split: str) -> dict[str, Any]:
    """What there is to compare of a run."""
    path = run.directory / TRAINING
    notes: dict[str, Any] = read_tensors(path)[1] if path.exists() else {}
    try:
        evaluations = evaluations_of(notes)
    except (TypeError, ValueError):
        evaluations = []
    defaults = {name: option.default for name, option in application.options.items()}
    settings = {**defaults, **run.command}
    measure = next(iter(application.figures))
    best = run.weights_notes().get(f"validation_{measure}")
    return {
        "run": str(run.directory),
        "kind": run.kind,
        "settings": {k: v for k, v in settings.items() if k not in OF_THE_MACHINE},
        "parameters": sum(p.numel() for p in run.model().parameters()),
        "step": notes.get("step", 0),
        "steps": run.settings.steps,
        "stopped_early": notes.get("stopped_early", False),
        "seconds": seconds_of(run.directory),
        "validation": [{"step": int(step), measure: loss} for step, loss, *_ in evaluations],
        "best": best if isinstance(best, float) else None,
        "scores": _scores(run, application, split),
    }


def _scores(run: Run, application: Application, split: str) -> dict[str, Any] | None:
    """Those of the run on its own data, if that is there."""
    try:
        scores = application.scores(run, split)
    except (DataError, MissingExtraError) as error:
        note(f"{run.directory}: no scores: {error}")
        return None
    if not scores.count:
        note(f"{run.directory}: no scores: its {split} split is empty")
        return None
    return asdict(scores)


def _differing(records: list[dict[str, Any]]) -> list[str]:
    """The settings that are not the same in all runs, in the order of --help."""
    names = dict.fromkeys(name for record in records for name in record["settings"])
    return [
        name
        for name in names
        if any(r["settings"].get(name) != records[0]["settings"].get(name) for r in records)
    ]


def table(
    compared: dict[str, Any], applications: Sequence[Application]
) -> tuple[list[str], list[list[str]]]:
    """The head and a row for each run, of what a comparison has of runs of ``applications``."""
    heads: dict[str, str] = {}
    for application in applications:
        (measure, first), *others = application.figures.items()
        heads |= {measure: f"{compared['split']} {first}", **dict(others)}
    head = ["run", *(name.replace("_", "-") for name in compared["differing"])]
    head += ["parameters", "steps", "time", "validation, first to last", "best", *heads.values()]
    rows = []
    for record, application in zip(compared["runs"], applications, strict=True):
        measure = next(iter(application.figures))
        curve = [row[measure] for row in record["validation"]]
        scores = record["scores"] or {}
        rows.append(
            [
                record["run"],
                *(told(record["settings"].get(name)) for name in compared["differing"]),
                f"{record['parameters']:,}",
                f"{record['step']:,} / {record['steps']:,}" + " (early)" * record["stopped_early"],
                _time(record["seconds"]),
                f"{sparkline(torch.tensor(curve))} {curve[0]:.2f} … {curve[-1]:.2f}"
                if curve
                else "",
                _figure(record["best"]),
                *(_figure(scores.get(name)) for name in heads),
            ]
        )
    return head, rows


def told(value: object) -> str:
    """A setting in words."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(k if v is None else f"{k}={v}" for k, v in value.items()) or "none"
    if isinstance(value, list):
        return " ".join(map(str, value))
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _time(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} min"
