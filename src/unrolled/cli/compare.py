"""``unrolled compare``: runs side by side."""

import argparse
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from unrolled.cli.evaluate import scored
from unrolled.cli.language import translated
from unrolled.cli.options import file
from unrolled.cli.printing import note, print_json, print_table, say
from unrolled.cli.runs import data_of
from unrolled.cli.train import application_of
from unrolled.errors import CallError, DataError, MissingExtraError
from unrolled.lens.report import sparkline
from unrolled.text.data.dataset import SPLITS
from unrolled.text.run import TextRun
from unrolled.training.callbacks import seconds_of
from unrolled.training.files import read_tensors
from unrolled.training.loop import evaluations_of
from unrolled.training.run import TRAINING

OF_THE_MACHINE = ("threads",)


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
    runs = [TextRun(path) for path in arguments.runs]
    records = [_record(run, arguments.split) for run in runs]
    differing = _differing(records)
    if len({(tuple(run.vocabulary.tokens), run.tokenizer) for run in runs}) > 1:
        note(
            "the runs have other tokens: nats per token of one do not compare with those of another"
        )
    compared = {"split": arguments.split, "differing": differing, "runs": records}
    if arguments.html is not None:
        from unrolled.lens.render import comparison

        comparison.write(arguments.html, compared, table(compared), translated)
    if arguments.json:
        print_json(compared)
        return
    print_table(*table(compared))
    if arguments.html is not None:
        say(f"the page: {arguments.html}")


def _record(run: TextRun, split: str) -> dict[str, Any]:
    """What there is to compare of a run, as plain data."""
    path = run.directory / TRAINING
    notes: dict[str, Any] = read_tensors(path)[1] if path.exists() else {}
    try:
        evaluations = evaluations_of(notes)
    except (TypeError, ValueError):
        evaluations = []
    model = run.model()
    best = read_best(run)
    defaults = {name: one.default for name, one in application_of(run).options.items()}
    settings = {**defaults, **run.command}
    return {
        "run": str(run.directory),
        "kind": run.kind,
        "settings": {k: v for k, v in settings.items() if k not in OF_THE_MACHINE},
        "parameters": sum(p.numel() for p in model.parameters()),
        "step": notes.get("step", 0),
        "steps": run.settings.steps,
        "stopped_early": notes.get("stopped_early", False),
        "seconds": seconds_of(run.directory),
        "validation": [{"step": int(step), "nats": nats} for step, nats, *_ in evaluations],
        "best": best,
        "scores": _scores(run, split),
    }


def read_best(run: TextRun) -> float | None:
    """The best loss on the validation split, if there is one."""
    nats = run.weights_notes().get("validation_nats")
    return nats if isinstance(nats, float) else None


def _scores(run: TextRun, split: str) -> dict[str, Any] | None:
    """Those of the run on its own text, if that is there."""
    with tempfile.TemporaryDirectory() as directory:
        try:
            data = data_of(run, None, Path(directory))
        except (DataError, MissingExtraError) as error:
            note(f"{run.directory}: no scores: {error}")
            return None
        scores = asdict(scored(run.model(), data, split)) if data.sentences(split) else None
        del data  # its files are mapped, and must go before their directory does
    if scores is None:
        note(f"{run.directory}: no scores: its {split} split is empty")
    return scores


def _differing(records: list[dict[str, Any]]) -> list[str]:
    """The settings that are not the same in all runs, in the order of --help."""
    names = dict.fromkeys(name for record in records for name in record["settings"])
    return [
        name
        for name in names
        if any(r["settings"].get(name) != records[0]["settings"].get(name) for r in records)
    ]


def table(compared: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """The head and a row for each run, of what a comparison has."""
    split = compared["split"]
    head = ["run", *(name.replace("_", "-") for name in compared["differing"])]
    head += ["parameters", "steps", "time", "validation, first to last", "best"]
    head += [f"{split} nats", "top-1", "top-5"]
    rows = []
    for record in compared["runs"]:
        curve = [row["nats"] for row in record["validation"]]
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
                *(_figure(scores.get(name)) for name in ("nats", "top1", "top5")),
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
