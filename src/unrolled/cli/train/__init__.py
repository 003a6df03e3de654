"""``unrolled train``: a model of any application.

Each application is a file, with an ``Application`` that says which kinds of model it has, which options
decide about them and how a run begins; all others are shared.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unrolled.cli.train import command, parsing
from unrolled.cli.train.application import Application
from unrolled.cli.train.sequences import CLASSIFY, REGRESS
from unrolled.cli.train.series import SERIES
from unrolled.cli.train.tag import TAGS
from unrolled.cli.train.text import TEXT
from unrolled.training.run import Run

APPLICATIONS: tuple[Application, ...] = (TEXT, SERIES, CLASSIFY, REGRESS, TAGS)
"""In the order of ``--help``."""


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    parsing.add_to(commands, APPLICATIONS, command.train)


def application_of(run: Run) -> Application:
    """The one that ``run`` is of.

    Raises:
        ValueError: there is none.
    """
    for application in APPLICATIONS:
        if any(kind.holds == run.kind for kind in application.kinds.values()):
            return application
    raise ValueError(f"kind: got {run.kind!r}, which no application trains")


def begin_run(directory: Path, options: Mapping[str, Any]) -> Run:
    """A new run in the empty ``directory``; ``options``: ``kind``, and those that are not as usual."""
    for application in APPLICATIONS:
        if options["kind"] in application.kinds:
            return command.begin(application, directory, options)
    raise ValueError(f"kind: got {options['kind']!r}, which no application trains")
