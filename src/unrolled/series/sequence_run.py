"""Runs of networks that tell something of whole sequences: their data, batches and scores."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F

from unrolled.errors import DataError
from unrolled.series.data.labelled import Batches, Integers, Labelled, SequenceBatch
from unrolled.series.models.sequence import ClassNetwork, SequenceNetwork, ValueNetwork
from unrolled.shapes import check_fraction
from unrolled.training.feed import Feed
from unrolled.training.loop import steps_of, steps_of_epochs
from unrolled.training.remedies import begun
from unrolled.training.run import DATA, Run, without_values
from unrolled.training.scores import Scores
from unrolled.training.settings import Settings

Splits = Mapping[str, Labelled]
SPLITS = ("train", "validation", "test")
VALIDATION_BATCHES = 400  # at most, at every evaluation
READ_STEPS = 1 << 14  # T × B of a batch that is only read
SHARE, FEW = 0.1, 500  # of the sequences, held out by default; of fewer none is
STEPS, LEAST_EPOCHS, MOST_EPOCHS = 2000, 5, 200  # of a training of which nothing else is asked


@dataclass(frozen=True)
class ClassScores(Scores):
    """Means over so many ``sequences``, by their weights; NaN over none.

    ``nats``: -log p of the right class; ``accuracy``: the share in which it is the most probable one.
    """

    measure, unit = "nats", "sequences"

    nats: float
    accuracy: float
    sequences: int


@dataclass(frozen=True)
class RegressionScores(Scores):
    """Means over so many ``sequences``, by their weights; NaN over none.

    ``rmse``: the root of the mean squared error, in standard deviations of the training data; ``r2``: one
    less the squared error over the variance, the mean of the numbers that are told.
    """

    measure, unit = "rmse", "sequences"

    rmse: float
    r2: float
    sequences: int


SCORES: dict[str, type[Scores]] = {"classify": ClassScores, "regress": RegressionScores}


def figures_of(kind: str) -> list[str]:
    """The names of what an evaluation finds, as in ``Scores.figures``."""
    scores = SCORES[kind]
    return [field.name for field in fields(scores) if field.name != scores.unit]


class SequenceFeed(Feed[SequenceBatch]):
    """Batches of whole sequences of like length."""

    unit = "steps"
    model: SequenceNetwork
    data: Splits

    def __init__(self, model: SequenceNetwork, data: Splits, settings: Settings) -> None:
        super().__init__(model, data, settings)
        self.count_of_batches = len(self._batches("train"))

    def __len__(self) -> int:
        return self.count_of_batches

    def _batches(self, split: str, shuffle: tuple[int, int] | None = None) -> Batches:
        settings = self.settings
        return self.data[split].batches(settings.batch_size, settings.batch_steps, shuffle)

    def epoch(self, number: int, first: int) -> Iterator[SequenceBatch]:
        batches = self._batches("train", (self.settings.seed, number))
        return map(self.data["train"].batch, batches.start(first))

    def loss(self, item: SequenceBatch) -> Tensor:
        return self.model.loss(item, memory=self.settings.memory)

    def count(self, item: SequenceBatch) -> int:
        return int(item.lengths.sum())

    def scores(self, most: int | None = None) -> Scores:
        return scores_of(self.model, self.data, "validation", most or VALIDATION_BATCHES)

    def evaluations(self) -> int:
        return min(len(_reading(self.data, "validation")), VALIDATION_BATCHES)


def scores_of(model: SequenceNetwork, data: Splits, split: str, most: int | None = None) -> Scores:
    """The scores of ``model`` on a split, of ``most`` batches at most."""
    batches = islice(_reading(data, split), most)
    return evaluate(model, (data[split].batch(chosen) for chosen in batches))


def _reading(data: Splits, split: str) -> Sequence[Integers]:
    """The batches of a split that is only read."""
    if split not in data:
        return ()
    return list(data[split].batches(READ_STEPS, READ_STEPS, (0, 0)))


@torch.no_grad()
def evaluate(model: SequenceNetwork, batches: Iterable[SequenceBatch]) -> Scores:
    """The scores of ``model`` in eval mode; the mode it was in is restored."""
    was_training = model.training
    model.eval()
    try:
        found = [(model.answers(batch), batch.labels, batch.weights) for batch in batches]
    finally:
        model.train(was_training)
    if isinstance(model, ClassNetwork):
        return _class_scores(found)
    return _regression_scores(cast(ValueNetwork, model), found)


def _class_scores(found: list[tuple[Tensor, Tensor, Tensor]]) -> ClassScores:
    if not found:
        return ClassScores(math.nan, math.nan, 0)
    answers, labels, weights = (torch.cat(parts) for parts in zip(*found, strict=True))
    share = weights / weights.sum()
    nats = F.cross_entropy(answers.double(), labels, reduction="none")
    right = answers.argmax(-1) == labels
    return ClassScores(float(nats @ share), float(right.double() @ share), len(labels))


def _regression_scores(
    model: ValueNetwork, found: list[tuple[Tensor, Tensor, Tensor]]
) -> RegressionScores:
    if not found:
        return RegressionScores(math.nan, math.nan, 0)
    answers, labels, weights = (torch.cat(parts) for parts in zip(*found, strict=True))
    share = weights / weights.sum()
    off = (model.values(answers) - labels).square()
    spread = (labels - share @ labels).square()
    error, variance = share @ off, share @ spread
    r2 = torch.where(variance > 0, 1 - error / variance, math.nan).mean()
    standard = (error / model.target_scale.square()).mean().sqrt()
    return RegressionScores(float(standard), float(r2), len(labels))


class SequenceRun(Run):
    """A run that holds a network over sequences, and those that it is trained on.

    ``labels``: the classes in the order of their numbers, or the names of the numbers that are told.
    """

    kinds: ClassVar = {"classify": ClassNetwork, "regress": ValueNetwork}

    def read(self, config: Mapping[str, Any]) -> None:
        self.labels: list[Any] = list(config["labels"])
        if len(self.labels) != config["model"]["output_size"]:
            raise ValueError(
                f"labels: got {len(self.labels)}, expected {config['model']['output_size']} as the model"
            )
        self.counts = {split: int(config["sequences"].get(split, 0)) for split in SPLITS}
        self.data: dict[str, Any] = dict(config.get("data", {}))

    @classmethod
    def create(
        cls,
        directory: Path,
        splits: Splits,
        *,
        kind: str,
        labels: list[Any],
        model_config: Mapping[str, Any],
        settings: Settings,
        command: Mapping[str, Any],
        data: Mapping[str, Any] | None = None,
    ) -> "SequenceRun":
        """Write the files that define a run; see ``Run.written``.

        ``data``: what else is to be known of where the sequences came from.
        """
        (directory / DATA).mkdir(exist_ok=True)
        for name, part in splits.items():
            part.write(directory / DATA / f"{name}.safetensors")
        return cls.written(
            directory,
            kind=kind,
            labels=labels,
            sequences={name: len(part) for name, part in splits.items()},
            data=dict(data or {}),
            model_config=model_config,
            settings=settings,
            command=command,
        )

    def new_model(self) -> SequenceNetwork:
        return cast(SequenceNetwork, super().new_model())

    def model(self) -> SequenceNetwork:
        return cast(SequenceNetwork, super().model())

    def dataset(self) -> dict[str, Labelled]:
        return {
            split: Labelled.read(self.directory / DATA / f"{split}.safetensors")
            for split, count in self.counts.items()
            if count
        }

    def feed(self, model: SequenceNetwork, data: Splits) -> SequenceFeed:
        if "train" not in data:
            raise DataError(f"{self.directory}: no sequence to train on; more data is needed")
        return SequenceFeed(model, data, self.settings)


# --- Beginning ---------------------------------------------------------------------------------------


def begin(
    directory: Path,
    splits: Splits,
    *,
    kind: str,
    labels: list[Any],
    network: Mapping[str, Any],
    settings: Settings,
    command: Mapping[str, Any],
    data: Mapping[str, Any] | None = None,
) -> SequenceRun:
    """A new run in the empty ``directory``, the number of steps known.

    Args:
        directory: see ``unrolled.training.run.beginning``.
        splits: "train", and others if there are some.
        kind: "classify" or "regress".
        labels: the classes in the order of their numbers, or the names of the numbers that are told.
        network: options of the network; see ``network_config``.
        settings: their ``steps`` follow from the epochs or minutes; see ``with_length``.
        command: what the run was asked for with, for the record.
        data: what else is to be known of where the sequences came from.
    """
    config = network_config(splits["train"], kind, len(labels), **network)
    with without_values():  # wrong options are to be known before there is a run
        SequenceRun.kinds[kind](**config)
    settings = with_length(settings, splits)
    if settings.epochs is not None:
        steps = steps_of_epochs(settings.epochs, batches_of(splits["train"], settings))
    else:
        torch.manual_seed(settings.seed)
        model = begun(SequenceRun.kinds[kind], config, settings)
        steps = steps_of(model, settings, lambda trial, tried: SequenceFeed(trial, splits, tried))
    return SequenceRun.create(
        directory,
        splits,
        kind=kind,
        labels=labels,
        model_config=config,
        settings=settings.with_steps(steps),
        command=command,
        data=data,
    )


def network_config(train: Labelled, kind: str, count: int, **network: Any) -> dict[str, Any]:
    """The arguments of a network for sequences like ``train`` and so many classes or numbers.

    ``network``: others, which may stand for those that follow from the data.
    """
    location, scale = standard_of(train.values)
    config = {
        "input_size": train.values.shape[1],
        "output_size": count,
        "location": location,
        "scale": scale,
        "has_missing": bool(np.isnan(train.values).any()),
        "has_gaps": train.gaps is not None,
    }
    if kind == "regress":
        names = ("target_location", "target_scale")
        config |= dict(zip(names, standard_of(train.labels), strict=True))
    return config | network


def with_length(settings: Settings, splits: Splits) -> Settings:
    """``settings`` with as many epochs as are usual, if neither those nor minutes are given."""
    if "validation" not in splits:
        settings = replace(settings, evaluations=1)  # which only keeps the weights
    if settings.epochs is None and settings.minutes is None:
        return replace(settings, epochs=epochs_of(batches_of(splits["train"], settings)))
    return settings


def batches_of(train: Labelled, settings: Settings) -> int:
    """How many batches an epoch has."""
    return len(train.batches(settings.batch_size, settings.batch_steps))


def epochs_of(batches: int) -> float:
    """How often so many batches are read where nothing is asked for: about ``STEPS`` steps in all."""
    return float(min(MOST_EPOCHS, max(LEAST_EPOCHS, round(STEPS / batches))))


def split(
    sequences: Labelled, share: float | None, seed: int, *, is_class: bool
) -> dict[str, Labelled]:
    """The sequences to train on and those to validate on, with weights whose mean is 1 in each.

    Of each class the same ``share`` is held out, but never its last sequence. By default none is, if there
    are fewer than ``FEW``: what would be told of so few says less than what they teach.
    """
    count = len(sequences)
    if share is None:
        share = SHARE if count >= FEW else 0.0
    check_fraction("validation_share", share)
    random = np.random.default_rng((seed, count))
    groups = sequences.labels if is_class else np.zeros(count, np.int64)
    held = np.zeros(count, bool)
    for group in np.unique(groups):
        rows = random.permutation(np.flatnonzero(groups == group))
        held[rows[: min(round(share * len(rows)), len(rows) - 1)]] = True
    if share and not held.any() and count > 1:  # of classes of few sequences each
        held[_one_of_many(groups, random)] = True
    parts = (sequences.rows(np.flatnonzero(part)) for part in (~held, held))
    return {
        name: part.with_weights(part.weights / part.weights.mean())
        for name, part in zip(SPLITS, parts, strict=False)
        if len(part)
    }


def _one_of_many(groups: NDArray[Any], random: np.random.Generator) -> NDArray[np.int64]:
    """One of the largest group, if that has two."""
    _, numbers, counts = np.unique(groups, return_inverse=True, return_counts=True)
    rows = np.flatnonzero(numbers == counts.argmax())
    return random.permutation(rows)[: int(len(rows) > 1)]


def standard_of(values: NDArray[Any]) -> tuple[list[float], list[float]]:
    """The mean and the deviation of each column ``[N, D]``, of what is not NaN; of nothing, 0 and 1."""
    there = ~np.isnan(values)
    count = np.maximum(there.sum(0), 1)
    mean = np.where(there, values, 0.0).sum(0, dtype=np.float64) / count
    off = np.where(there, values - mean, 0.0)
    deviation = np.sqrt(np.square(off).sum(0) / count)
    varies = deviation > 1e-12 * np.abs(mean)
    return mean.tolist(), np.where(varies, deviation, 1.0).tolist()


# --- Telling ---------------------------------------------------------------------------------------


@torch.no_grad()
def answers_of(
    model: SequenceNetwork, sequences: Labelled, batch_steps: int = READ_STEPS
) -> NDArray[np.float64]:
    """The answers of ``model`` to each sequence, in standard units, ``[N, K]`` or ``[N, Y]``.

    They are computed in float64, and so do not depend on which sequences are read together.
    """
    was_training, found = model.training, np.empty((len(sequences), model.config["output_size"]))
    weights = {name: weight.double() for name, weight in model.named_parameters()}
    model.eval()
    try:
        for chosen in sequences.batches(batch_steps, batch_steps):
            batch = sequences.batch(chosen)
            given = (batch.values, batch.lengths, batch.gaps)
            found[chosen] = functional_call(model, weights, given).numpy()
    finally:
        model.train(was_training)
    return found
