"""Runs of taggers: their directories, what their training reads, and what an evaluation finds."""

import math
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from unrolled.errors import DataError, RunError
from unrolled.files import sync
from unrolled.series.data.encoded import (
    READ_STEPS,
    SHARES,
    Encoder,
    TaggedBatch,
    TaggedData,
    cut,
    split_sentences,
)
from unrolled.series.data.tagged import Tagged
from unrolled.series.models.tagging import TaggingNetwork
from unrolled.series.tag_scores import TagScores, score_tags
from unrolled.training.feed import Feed
from unrolled.training.files import read_json, write_json
from unrolled.training.run import CONFIG, DATA, VOCABULARY, Run
from unrolled.training.scores import Scores
from unrolled.training.settings import Settings

VALIDATION_BATCHES = 10  # of ``READ_STEPS``, at most, at every evaluation


@dataclass(frozen=True)
class TaggingScores(Scores):
    """Means over so many ``tokens``; NaN over none.

    ``nats``: -log p of the right tags of a sentence, per token; ``accuracy``: the share of tokens with the
    right tag; ``f1``: that of the spans, or where the tags mark none the accuracy again.
    """

    measure, unit = "nats", "tokens"

    nats: float
    f1: float
    accuracy: float
    tokens: int


class TagFeed(Feed[TaggedBatch]):
    """Batches of whole sentences."""

    unit = "tokens"
    model: TaggingNetwork
    data: TaggedData

    def __len__(self) -> int:
        return len(self.data.batches("train", self.settings.batch_steps))

    def epoch(self, number: int, first: int) -> Iterator[TaggedBatch]:
        order = (self.settings.seed, number)
        return self.data.batches("train", self.settings.batch_steps, shuffle=order).start(first)

    def loss(self, item: TaggedBatch) -> Tensor:
        return self.model.loss(item)

    def count(self, item: TaggedBatch) -> int:
        return int(item.lengths.sum())

    def scores(self, most: int | None = None) -> TaggingScores:
        batches = self.data.batches("validation", shuffle=(0, 0))
        return evaluate(self.model, islice(batches, most or VALIDATION_BATCHES))[0]

    def evaluations(self) -> int:
        count = len(self.data.batches("validation"))
        return min(count, VALIDATION_BATCHES)


@torch.no_grad()
def evaluate(
    model: TaggingNetwork, batches: Iterable[TaggedBatch]
) -> tuple[TaggingScores, TagScores]:
    """The scores of ``model`` in eval mode, in one figure and in all; the mode it was in is restored."""
    was_training, nats = model.training, 0.0
    expected: list[list[str]] = []
    predicted: list[list[str]] = []
    model.eval()
    try:
        for batch in batches:
            x = model(batch.tokens, batch.features, batch.lengths)
            nats -= float(model.crf(x, batch.tags, batch.lengths).sum())
            expected += named(model, batch.tags, batch.lengths)
            predicted += named(model, model.crf.decode(x, batch.lengths).tags, batch.lengths)
    finally:
        model.train(was_training)
    found = score_tags(expected, predicted)
    if not found.tokens:
        return TaggingScores(math.nan, math.nan, math.nan, 0), found
    figures = nats / found.tokens, found.main, found.accuracy
    return TaggingScores(*figures, found.tokens), found


def named(model: TaggingNetwork, tags: Tensor, lengths: Tensor) -> list[list[str]]:
    """Tags ``[T, B]`` by name, sentence by sentence."""
    rows = zip(tags.T.tolist(), lengths.tolist(), strict=True)
    return [[model.tags[tag] for tag in row[:length]] for row, length in rows]


@torch.inference_mode()
def tagged(
    model: TaggingNetwork, encoder: Encoder, sentences: Sequence[Sequence[str]]
) -> list[list[str]]:
    """The tags of each sentence, in their order; those of like length are read together."""
    found: list[list[str]] = [[]] * len(sentences)
    for rows in rows_of_like_length([len(tokens) for tokens in sentences]):
        batch = encoder.batch([sentences[row] for row in rows])
        for row, tags in zip(
            rows, named(model, model.predict(batch).tags, batch.lengths), strict=True
        ):
            found[row] = tags
    return found


def rows_of_like_length(lengths: Sequence[int]) -> Iterator[list[int]]:
    """The numbers of sentences that are not empty, in batches of at most ``READ_STEPS`` with padding."""
    rows: list[int] = []
    for row in sorted((k for k, n in enumerate(lengths) if n), key=lengths.__getitem__):
        if rows and (len(rows) + 1) * lengths[row] > READ_STEPS:
            yield rows
            rows = []
        rows.append(row)
    if rows:
        yield rows


class TagRun(Run):
    """A run that holds a tagger, and the sentences that it is trained on."""

    kinds: ClassVar = {"tag": TaggingNetwork}

    def __init__(self, directory: Path | str) -> None:
        super().__init__(directory)
        path = self.directory / VOCABULARY
        try:
            record = read_json(path)
            self.encoder = Encoder(
                tuple(_strings(record["tokens"])),
                tuple(self.model_config["tags"]),
                record["unit"],
                self.model_config["buckets"],
            )
        except (KeyError, TypeError, ValueError) as error:
            raise RunError(f"{path}: not a vocabulary of tokens ({error})") from None
        size = self.model_config["vocabulary_size"]
        if size != len(self.encoder.vocabulary):
            raise RunError(
                f"{self.directory}: {VOCABULARY} has {len(self.encoder.vocabulary)} tokens, but {CONFIG} "
                f"says {size}; the files are not of one run"
            )

    def read(self, config: Mapping[str, Any]) -> None:
        """There is nothing else."""

    @classmethod
    def create(
        cls,
        directory: Path,
        *,
        encoder: Encoder,
        model_config: Mapping[str, Any],
        settings: Settings,
        command: Mapping[str, Any],
    ) -> "TagRun":
        """Write the files that define a run; see ``Run.written``."""
        write_json(directory / VOCABULARY, {"unit": encoder.unit, "tokens": encoder.vocabulary})
        return cls.written(
            directory, kind="tag", model_config=model_config, settings=settings, command=command
        )

    def model(self) -> TaggingNetwork:
        return cast(TaggingNetwork, super().model())

    def dataset(self) -> TaggedData:
        return TaggedData(self.directory / DATA, self.encoder)

    def feed(self, model: TaggingNetwork, data: TaggedData) -> TagFeed:
        if not data.sentences("train"):
            raise DataError(
                f"{self.directory}: no sentence in the training split; more text is needed"
            )
        return TagFeed(model, data, self.settings)

    def new_model(self) -> TaggingNetwork:
        return cast(TaggingNetwork, super().new_model())


def _strings(value: object) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise TypeError("tokens: expected a list of strings")
    return value


def write_data(
    directory: Path,
    sentences: Iterable[Tagged],
    *,
    buckets: int,
    min_count: int = 1,
    max_size: int | None = None,
    longest: int | None = None,
    shares: Sequence[float] = SHARES,
    purpose: str = "",
) -> TaggedData:
    """Encode sentences into the run directory, whole or not at all.

    Args:
        directory: of the run.
        sentences: all of them, which are split by their hash.
        buckets: numbers of features; 0: none.
        min_count: a rarer token is unknown.
        max_size: the largest number of tokens.
        longest: tokens of a sentence; a longer one is cut.
        shares: of the sentences, for training, validation and test.
        purpose: of the split; see ``split_sentences``.

    Raises:
        DataError: there are too few sentences, or the directory cannot be written.
    """
    splits = {
        split: [piece for sentence in chosen for piece in cut(sentence, longest)]
        for split, chosen in split_sentences(sentences, shares, purpose).items()
    }
    count = len({tuple(sentence.tokens) for part in splits.values() for sentence in part})
    if count < 2:
        raise DataError(f"sentences that differ: got {count}, expected at least 2; give more text")
    others = [*splits["validation"], *splits["test"]]
    encoder = Encoder.of(
        splits["train"], others, buckets=buckets, min_count=min_count, max_size=max_size
    )
    partial, final = directory / f".{DATA}.partial", directory / DATA
    try:
        partial.mkdir()
        TaggedData.write(partial, splits, encoder)
        for path in partial.iterdir():
            sync(path)
        partial.replace(final)
        sync(directory)
        return TaggedData(final, encoder)
    except OSError as error:
        raise DataError(f"{partial}: cannot be written ({error.strerror or error})") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def network_config(data: TaggedData, **options: Any) -> dict[str, Any]:
    """The arguments of a network for such sentences; ``options``: the others, as ``hidden_size``."""
    encoder = data.encoder
    return {
        "vocabulary_size": len(encoder.vocabulary),
        "tags": list(encoder.tags),
        "buckets": encoder.buckets,
        "constrained": data.keep_scheme(),
        **options,
    }
