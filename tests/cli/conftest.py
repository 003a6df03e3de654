"""A small corpus and small trained runs, made once for all tests of the commands."""

import contextlib
import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.sentences import write_corpus
from unrolled.cli import main

SMALL = ("--hidden", "16", "--embedding", "8", "--batch-tokens", "400", "--threads", "1")


class Done(NamedTuple):
    """How a command ended, and what it printed."""

    code: int
    out: str
    err: str


Call = Callable[..., Done]


@pytest.fixture(autouse=True)
def _no_line_of_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow the machine is, standard error has what a command has to say alone."""
    monkeypatch.setattr("unrolled.training.callbacks.EVERY", math.inf)


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    """Run ``unrolled`` with some arguments, in this process."""

    def run(*arguments: object) -> Done:
        capsys.readouterr()
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as end:  # argparse's way out
            assert isinstance(end.code, int)
            code = end.code
        return Done(code, *capsys.readouterr())

    return run


@pytest.fixture(scope="session")
def corpus_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus") / "corpus.txt", 500)


def trained(directory: Path, *arguments: object) -> Path:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        assert main(["train", *map(str, arguments), "--out", str(directory)]) == 0
    return directory


@pytest.fixture(scope="session")
def cloze_run(corpus_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A character cloze model that has learnt the grammar."""
    options = (*SMALL, "--epochs", 14, "--learning-rate", 0.02)
    options += (
        "--cell",
        "gru",
        "--weight-drop",
        0,
        "--token-dropout",
        0,
    )  # few units: none to spare
    return trained(
        tmp_path_factory.mktemp("cloze") / "run", "cloze", "--data", corpus_file, *options
    )


@pytest.fixture(scope="session")
def lm_run(corpus_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A word language model that has learnt the grammar."""
    options = (*SMALL, "--epochs", 8, "--unit", "word", "--min-count", 1, "--learning-rate", 0.02)
    return trained(tmp_path_factory.mktemp("lm") / "run", "lm", "--data", corpus_file, *options)
