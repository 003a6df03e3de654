"""An application as small as one can be: the next value of waves, one a line of a file."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unrolled import Recurrent, cells
from unrolled.cli.options import names
from unrolled.cli.printing import say
from unrolled.cli.train.application import Application, Kind, Option
from unrolled.cli.train.begin import planned, settings_of
from unrolled.cli.train.options import TRAINING, cell, every
from unrolled.errors import CallError, DataError
from unrolled.training import Trainer
from unrolled.training.feed import Feed
from unrolled.training.files import read_json, write_json
from unrolled.training.model import Model
from unrolled.training.remedies import reshaped
from unrolled.training.run import DATA, Run
from unrolled.training.scores import Scores
from unrolled.training.settings import Settings

CELLS = {"elman": cells.Elman, "gru": cells.GRU, "lstm": cells.LSTM, "indrnn": cells.IndRNN}
SPLITS = ("train", "validation", "test")
GROUPS: dict[str, dict[str, Option]] = {
    "the most used": {
        "data": Option(None, "the run directory", {"metavar": "DATA"}, is_positional=True),
        "columns": Option(None, "what a token is", {"type": names, "metavar": "NAME,…"}),
        **every("minutes", "epochs"),
        "cell": cell(CELLS, "indrnn"),
        **every("depth", "seed", hidden=7),
    },
    "training": every("batch_steps", "memory", *TRAINING),
}
FIGURES = {"square": "square", "largest": "largest"}
COMMANDS = {
    "waves": Kind("train a model", holds="wave", about="Train a model into a run directory.")
}


class WaveModel(Model):
    """Reads ``[T, B, 1]``, and says what comes next."""

    def __init__(self, hidden_size: int, *, cell: str, depth: int) -> None:
        super().__init__()
        self.config = {"hidden_size": hidden_size, "cell": cell, "depth": depth}
        self.layers = Recurrent(CELLS[cell], 1, hidden_size, depth=depth)
        self.output = nn.Linear(hidden_size, 1)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.output(self.layers(x).y)
        return result


@dataclass(frozen=True)
class WaveScores(Scores):
    """The mean error over so many ``values``, squared, and the largest."""

    measure, unit = "square", "values"

    largest: float
    square: float
    values: int


class WaveFeed(Feed[Tensor]):
    """A wave of a split an item, ``[T, 1, 1]``."""

    unit = "values"

    def __len__(self) -> int:
        return len(self.data["train"])

    def epoch(self, number: int, first: int) -> Iterator[Tensor]:
        return iter(self.data["train"][first:])

    def loss(self, item: Tensor) -> Tensor:
        loss: Tensor = (self.model(item[:-1]) - item[1:]).square().mean()
        return loss

    def count(self, item: Tensor) -> int:
        return len(item)

    def scores(self, most: int | None = None) -> WaveScores:
        return scores_of(self.model, self.data["validation"][:most])

    def evaluations(self) -> int:
        return len(self.data["validation"])


@torch.no_grad()
def scores_of(model: WaveModel, waves: list[Tensor]) -> WaveScores:
    """The scores of ``model``."""
    errors = torch.cat([(model(wave[:-1]) - wave[1:]).flatten() for wave in waves])
    return WaveScores(errors.abs().max().item(), errors.square().mean().item(), len(errors))


class WaveRun(Run):
    """Holds a model of waves, and the waves."""

    kinds = {"wave": WaveModel}  # noqa: RUF012

    def read(self, config: Mapping[str, Any]) -> None:
        self.columns = config["columns"]

    def dataset(self) -> dict[str, list[Tensor]]:
        rows = read_json(self.directory / DATA / "waves.json")
        return {s: [torch.tensor(row).view(-1, 1, 1) for row in rows[s]] for s in SPLITS}

    def feed(self, model: Any, data: Any) -> WaveFeed:
        return WaveFeed(model, data, self.settings)


class Waves(Application):
    """Models of waves."""

    kinds = COMMANDS
    usage = "DATA"
    groups = GROUPS
    sources = ("data", "columns")
    reads = "text"
    figures = FIGURES
    measure, unit = "square per value", "square"
    least_gain = 1e-9

    def begin(self, directory: Path, options: dict[str, Any]) -> Run:
        if options["data"] is None:
            raise CallError("DATA: missing, expected a file")
        lines = Path(options["data"]).read_text("utf-8").splitlines()
        if not lines:
            raise DataError(f"{options['data']}: empty")
        rows = [[float(number) for number in line.split()] for line in lines]
        (directory / DATA).mkdir()
        split = {"train": rows[:-4], "validation": rows[-4:-2], "test": rows[-2:]}
        write_json(directory / DATA / "waves.json", split)
        data = {k: [torch.tensor(row).view(-1, 1, 1) for row in v] for k, v in split.items()}
        config = {n: options[n] for n in ("cell", "depth")} | {"hidden_size": options["hidden"]}
        config |= reshaped(options["remedy"])

        def feed_of(model: Any, settings: Settings, data: Any) -> WaveFeed:
            return WaveFeed(model, data, settings)

        settings = planned(
            WaveModel, config, settings_of(options), partial(feed_of, data=data), through=", waves"
        )
        say(f"{len(rows)} waves")
        return WaveRun.written(
            directory,
            kind="wave",
            model_config=config,
            settings=settings,
            command=options,
            columns=options["columns"],
        )

    def longest(self, run: Run, data: Any, split: str) -> int:
        return max(len(wave) for wave in data[split])

    def outcome(self, trainer: Trainer) -> Mapping[str, Any]:
        return {"waves": len(trainer.data["train"])}

    def scores(self, run: Run, split: str) -> Scores:
        if split == "train":
            return super().scores(run, split)
        return scores_of(run.model(), run.dataset()[split])


WAVES = Waves()
