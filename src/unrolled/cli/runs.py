"""Runs as the commands take them."""

import argparse
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar, cast

import numpy as np

from unrolled.cli.printing import note
from unrolled.errors import CallError, DataError, RunError
from unrolled.lens import Remedy, Report, Verdict
from unrolled.text.data import Dataset, Tokenizer, sentences
from unrolled.text.data.dataset import SPLITS
from unrolled.text.models import KINDS, TokenModel
from unrolled.text.pretrained import NAMES
from unrolled.text.pretrained import load as load_pretrained
from unrolled.text.run import TextRun
from unrolled.training.run import CONFIG, DATA, Run, read_config

# The class of a run by the kind of model that it holds.
RUNS = {
    "cloze": "unrolled.text.run:TextRun",
    "lm": "unrolled.text.run:TextRun",
    "forecast": "unrolled.series.run:ForecastRun",
    "classify": "unrolled.series.sequence_run:SequenceRun",
    "regress": "unrolled.series.sequence_run:SequenceRun",
    "tag": "unrolled.series.tag_run:TagRun",
}
M = TypeVar("M", bound=TokenModel)


class Chosen(NamedTuple, Generic[M]):
    """What a command works with; ``name`` is what it is called."""

    name: str
    run: TextRun
    model: M
    tokenizer: Tokenizer


def class_of(directory: Path) -> type[Run]:
    """Of which sort the run in ``directory`` is, by the kind of its model.

    Raises:
        RunError: there is no run, or one of a kind that is not known.
    """
    kind = read_config(directory).get("kind")
    if not isinstance(kind, str) or kind not in RUNS:
        why = f"kind: got {kind!r}, expected one of {', '.join(RUNS)}"
        raise RunError(f"{directory / CONFIG}: not the config of a run ({why})")
    module, _, name = RUNS[kind].partition(":")
    return cast(type[Run], getattr(import_module(module), name))


def open_run(directory: Path) -> Run:
    """The run in ``directory``, of whatever sort it is.

    Raises:
        RunError: there is no run, or it is damaged.
    """
    return class_of(directory)(directory)


def load(directory: Path, wanted: type[M]) -> tuple[TextRun, M]:
    """The run in ``directory`` and its model, which must be of the class ``wanted``, a model of text."""
    kinds = [name for name, kind in KINDS.items() if issubclass(kind, wanted)]
    kind = read_config(directory).get("kind")
    if kind in RUNS and kind not in kinds:
        expected, command = "' or '".join(kinds), "|".join(kinds)
        raise RunError(
            f"{directory}: holds a model of kind '{kind}', expected '{expected}', "
            f"made by 'unrolled train {command}'"
        )
    run = TextRun(directory)
    model = cast(M, run.model())
    note_untrained(run)
    return run, model


def note_untrained(run: Run) -> None:
    """Say so if the weights of ``run`` are those that it began with."""
    if run.weights_step() == 0:
        note(
            f"{run.directory}: the weights are untrained; continue with 'unrolled train … --resume'"
        )


def add_model(parser: argparse.ArgumentParser, default: str) -> None:
    """Add the option that chooses the bundled model, used where no DIR is given."""
    parser.add_argument(
        "--model", choices=NAMES, help=f"the bundled model, if no DIR is given ({default})"
    )


def add_held_out(parser: argparse.ArgumentParser, split: str) -> None:
    """Add DIR and the options that choose a model and held-out text, by default of ``split``."""
    parser.add_argument(
        "run",
        type=Path,
        nargs="?",
        default=None,
        metavar="DIR",
        help="a run of 'unrolled train'; by default the bundled model",
    )
    add_model(parser, "zh")
    parser.add_argument(
        "--data",
        nargs="+",
        metavar="NAME|FILE",
        help="other text; by default what it was trained on",
    )
    parser.add_argument("--split", choices=SPLITS, help=f"which part of it ({split})")


def chosen(directory: Path | None, model: str | None, default: str, wanted: type[M]) -> Chosen[M]:
    """The run in ``directory``, or, if there is none, the bundled model."""
    if directory is None:
        bundled = load_pretrained(model or default)
        return Chosen(
            f"the bundled model, {bundled.name}",
            bundled.run,
            cast(M, bundled.model),
            bundled.tokenizer,
        )
    if model is not None:
        raise CallError(f"--model: got {model} with {directory}, expected one of them")
    run, trained = load(directory, wanted)
    return Chosen(str(directory), run, trained, run.tokenizer)


def data_of(run: TextRun, sources: list[str] | None, directory: Path) -> Dataset:
    """The text that the run was trained on, or other ``sources``, encoded in ``directory`` if need be."""
    if not sources and (run.directory / DATA).exists():
        return run.dataset()
    return encoded(run, sources or list(run.command["data"]), directory)


def check_split(data: Dataset, split: str) -> None:
    """Refuse an empty split, and say which is not."""
    if data.sentences(split):
        return
    full = [f"--split {other} (of {data.sentences(other):,})" for other in SPLITS]
    others = [said for said, other in zip(full, SPLITS, strict=True) if data.sentences(other)]
    raise DataError(
        f"the {split} split is empty: give more text with --data, or {' or '.join(others)}"
    )


def encoded(run: TextRun, sources: list[str], directory: Path) -> Dataset:
    """Other text, in the run's own tokens, written to ``directory``."""
    data, _ = Dataset.write(
        directory,
        sentences(sources),
        run.tokenizer,
        longest=run.longest,
        vocabulary=run.vocabulary,
        passage=run.passage,
    )
    return data


# --- Remedies as options of a new run ------------------------------------------------------------

# By what a verdict names; W is orthogonal, or of ReLU the identity, without being asked for.
OPTIONS = {
    "clip_norm_": "--remedy clip_states=1",
    "chrono_bias_": "--remedy chrono_bias={longest}",
    "forget_bias_": "--remedy forget_bias=2",
    "identity_weights_, with ReLU": "--remedy with_activation=relu",  # which begins with it
    "as_lstm": "--cell lstm",
    "as_gru": "--cell gru",
}


def longest_of(data: Dataset, split: str, run: TextRun) -> int:
    """Tokens of the longest sequence of a split, as the run reads it."""
    return run.settings.k2 if data.is_continuous else int(np.diff(data.offsets[split]).max())


def with_options(report: Report, run: Run | None, longest: int) -> Report:
    """``report`` with its remedies as options of ``unrolled train``, except those that the run had.

    Without a run it has none. ``longest``: the steps of the task's longest dependency.
    """
    rows = []
    for row in report.rows:
        if row.verdict is not None:
            remedies = () if run is None else _options(row.verdict, run, longest)
            row = replace(row, verdict=replace(row.verdict, remedies=tuple(remedies)))
        rows.append(row)
    return replace(report, rows=tuple(rows))


def _options(verdict: Verdict, run: Run, longest: int) -> Iterator[Remedy]:
    for remedy in verdict.remedies:
        name = remedy.name.removeprefix("remedies.").split(", remedies.")[0]
        option = OPTIONS.get(name, "").format(longest=max(2, longest))
        if option and option.split()[-1].partition("=")[0] not in run.settings.remedy:
            yield Remedy(option, remedy.effect)
