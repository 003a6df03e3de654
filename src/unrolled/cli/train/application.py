"""What an application tells ``unrolled train``: its kinds of model, their options, and how a run begins."""

import argparse
import csv
import shlex
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from io import StringIO
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch

from unrolled.errors import DataError
from unrolled.training import Trainer
from unrolled.training.run import Run
from unrolled.training.scores import Scores

MINUTES = 5.0  # where neither --minutes nor --epochs is given


class Kind(NamedTuple):
    """A kind of model, which is a sub-command: its ``help``, and what a run of it ``holds``."""

    help: str
    holds: str
    """The run's ``kind``."""
    about: str
    """What the command does, on the top of its own help."""


class Option(NamedTuple):
    """An option that decides what the weights become: its default, its help, argparse's settings.

    The parser leaves out what was not given, so that ``--resume`` can tell what was.
    """

    default: Any
    help: str
    settings: Mapping[str, Any] = {}
    is_positional: bool = False

    def flag(self, name: str) -> str:
        """How it is called on the command line."""
        if self.is_positional:
            return str(self.settings.get("metavar", name.upper()))
        return f"--{name.replace('_', '-')}"

    def written(self, name: str, value: Any) -> list[str]:
        """``value`` as it is given on the command line."""
        flag = [] if self.is_positional else [self.flag(name)]
        if isinstance(value, Mapping):  # given again and again
            pairs = (k if setting is None else f"{k}={setting}" for k, setting in value.items())
            return [part for pair in pairs for part in (*flag, pair)]
        if self.settings.get("action") is argparse.BooleanOptionalAction:
            return [*flag] if value else [flag[0].replace("--", "--no-", 1)]
        if isinstance(value, list) and "nargs" not in self.settings:
            line = StringIO()
            csv.writer(line, lineterminator="").writerow(value)
            return [*flag, line.getvalue()]
        return [*flag, *(map(str, value) if isinstance(value, list | tuple) else [str(value)])]


class Application(ABC):
    """What is trained on data of one sort: its kinds of model, of which each is a sub-command."""

    kinds: ClassVar[Mapping[str, Kind]]
    """The kinds of model by the names of their commands."""
    usage: ClassVar[str]
    """What a call must give beside ``--out``, as the usage shows it."""
    groups: ClassVar[Mapping[str, Mapping[str, Option]]]
    """The options that decide what the weights become, by what ``--help`` lists together.

    The first group also has ``--out`` and ``--resume``, after the ``sources``. The names are those in
    ``config.json``.
    """
    sources: ClassVar[tuple[str, ...]] = ("data",)
    """The options of the first group that say what is read."""
    recipes: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """What a kind is trained with in place of the options' defaults."""
    reads: ClassVar[str]
    """What it reads, in a word, such as "text"."""
    figures: ClassVar[Mapping[str, str]]
    """The fields of its ``Scores``, its ``measure`` first; of each the head of its column."""
    measure: ClassVar[str]
    """What a training makes small, in words, such as "nats per token"."""
    unit: ClassVar[str]
    """That in a word, such as "nats"."""
    least_gain: ClassVar[float] = 0.01
    """Of ``unit``: who gains more from one evaluation to the next would go on learning."""

    @abstractmethod
    def begin(self, directory: Path, options: dict[str, Any]) -> Run:
        """A new run in the empty ``directory``: the data read, the number of steps known.

        ``options``: ``kind``, and every option by its name, as ``completed`` has them.

        Raises:
            CallError: an option is missing, or does not go with the data.
            DataError: the data cannot be trained on.
        """

    @abstractmethod
    def longest(self, run: Run, data: Any, split: str) -> int:
        """Steps of the longest sequence that the run reads of a split."""

    def refuse(self, options: Mapping[str, Any]) -> None:  # noqa: B027, there may be none
        """Refuse options of a new run that do not go together; those that were given, and ``kind``.

        Raises:
            CallError: as it says.
        """

    def implied(self, options: Mapping[str, Any]) -> dict[str, Any]:  # noqa: ARG002
        """The options that follow from others of ``options`` where they are not given, by their names."""
        return {}

    def finish(self, trainer: Trainer) -> Mapping[str, Any]:  # noqa: ARG002
        """Do what comes after a training, and say what came of it first; what ``--json`` has of that."""
        return {}

    def outcome(self, trainer: Trainer) -> Mapping[str, Any]:  # noqa: ARG002
        """What ``--json`` has beside what every training has."""
        return {}

    def scores(self, run: Run, split: str) -> Scores:
        """Those of the run on a split of its own data.

        Raises:
            DataError: there are none of that split, or there is no data.
        """
        if split != "validation":
            raise DataError(f"a run of kind '{run.kind}' is scored on its validation split alone")
        return run.feed(run.model(), run.dataset()).scores()

    def incomparable(self, runs: Sequence[Run]) -> str:  # noqa: ARG002
        """Why the scores of ``runs``, all of its own, do not compare; empty if they do."""
        return ""

    @cached_property
    def options(self) -> dict[str, Option]:
        """All that decide what the weights become, in the order of ``--help``."""
        return {name: option for group in self.groups.values() for name, option in group.items()}

    def usual(self, kind: str) -> dict[str, Any]:
        """What the options are where none is given."""
        recipe = self.recipes.get(kind, {})
        return {name: recipe.get(name, one.default) for name, one in self.options.items()}

    def completed(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """``kind`` and every option: those in ``options``, others as they usually are."""
        kind = options["kind"]
        usual = self.usual(kind)
        complete = {name: options.get(name, value) for name, value in usual.items()}
        if complete["minutes"] is None and complete["epochs"] is None:
            complete["minutes"] = MINUTES
        if complete["threads"] is None:
            complete["threads"] = torch.get_num_threads()
        return {"kind": kind, **complete}

    def again(self, run: Run, more: Sequence[str]) -> str | None:
        """The command that trains a run as ``run`` was trained, with the options ``more``, beside it.

        None if the run was not begun by a command.
        """
        began = run.command
        kind = str(began.get("kind"))
        if kind not in self.kinds:
            return None
        usual = self.usual(kind) | self.implied(began)
        parts = ["unrolled", "train", kind]
        for name, option in self.options.items():
            value = began.get(name, option.default)
            if value is None or value == usual[name] or name == "threads":
                continue
            if option.flag(name) not in more[:1]:
                parts += option.written(name, value)
        mark = "-".join(part.lstrip("-").partition("=")[0] for part in more[1:])
        return shlex.join([*parts, *more, "--out", f"{run.directory}-{mark}"])
