"""Runs as the commands take them."""

from pathlib import Path
from typing import TypeVar

from unrolled.cli.printing import note
from unrolled.data import Dataset, sentences
from unrolled.errors import RunError
from unrolled.models import TokenModel
from unrolled.training import Run

M = TypeVar("M", bound=TokenModel)


def load(directory: Path, wanted: type[M]) -> tuple[Run, M]:
    """The run in ``directory`` and its model, which must be of the class ``wanted``."""
    run = Run(directory)
    model = run.model()
    if not isinstance(model, wanted):
        raise RunError(
            f"{directory}: holds a model of kind '{run.kind}', expected '{wanted.kind}', "
            f"made by 'unrolled train {wanted.kind}'"
        )
    if run.weights_step() == 0:
        note(f"{directory}: the weights are untrained; go on with 'unrolled train … --resume'")
    return run, model


def encoded(run: Run, sources: list[str], directory: Path) -> Dataset:
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
