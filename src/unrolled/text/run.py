"""Runs on text: beside what every run has, the vocabulary and how text becomes tokens."""

import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from unrolled.errors import DataError, RunError
from unrolled.files import sync
from unrolled.shapes import check_size
from unrolled.text.data import Dataset, Tokenizer, Vocabulary
from unrolled.text.feeds import feed_of
from unrolled.text.models import KINDS, TokenModel
from unrolled.text.models.filling import check_scoring
from unrolled.training.feed import Feed
from unrolled.training.files import read_json, write_json
from unrolled.training.run import CONFIG, DATA, VOCABULARY, Run
from unrolled.training.settings import Settings


class TextRun(Run):
    """A run that holds a model over tokens, and the text that it is trained on."""

    kinds = KINDS

    def __init__(self, directory: Path | str) -> None:
        super().__init__(directory)
        path = self.directory / VOCABULARY
        tokens = read_json(path).get("tokens")
        try:
            if not isinstance(tokens, list) or not all(isinstance(t, str) for t in tokens):
                raise ValueError("tokens: expected a list of strings")
            self.vocabulary = Vocabulary(tokens)
        except ValueError as error:
            raise RunError(f"{path}: not a vocabulary ({error})") from None
        size = self.model_config["vocabulary_size"]
        if size != len(self.vocabulary):
            raise RunError(
                f"{self.directory}: {VOCABULARY} has {len(self.vocabulary)} tokens, but {CONFIG} says "
                f"{size}; the files are not of one run"
            )

    def read(self, config: Mapping[str, Any]) -> None:
        self.tokenizer = Tokenizer(**config["text"])
        self.longest = check_size("longest", self.command["longest"])
        self.passage: int | None = None
        if self.settings.bptt == "truncated":
            self.passage = check_size("passage", self.command["passage"])
        self.filling: dict[str, Any] = dict(config.get("filling", {}))  # options of ``fill``
        check_scoring(**self.filling)

    @classmethod
    def create(
        cls,
        directory: Path,
        *,
        kind: str,
        vocabulary: Vocabulary,
        tokenizer: Tokenizer,
        model_config: Mapping[str, Any],
        settings: Settings,
        command: Mapping[str, Any],
    ) -> "TextRun":
        """Write the files that define a run; see ``Run.written``."""
        write_json(directory / VOCABULARY, {"tokens": vocabulary.tokens})
        return cls.written(
            directory,
            kind=kind,
            text=asdict(tokenizer),
            model_config=model_config,
            settings=settings,
            command=command,
        )

    def new_model(self) -> TokenModel:
        return cast(TokenModel, super().new_model())

    def model(self) -> TokenModel:
        return cast(TokenModel, super().model())

    def dataset(self) -> Dataset:
        return Dataset(self.directory / DATA, len(self.vocabulary))

    def feed(self, model: TokenModel, data: Dataset) -> Feed[Any]:
        if not data.sentences("train"):
            raise DataError(
                f"{self.directory}: no sentence in the training split; more text is needed"
            )
        return feed_of(model, self.settings, data)


def write_data(
    directory: Path, sentences: Iterable[str], tokenizer: Tokenizer, **options: Any
) -> tuple[Dataset, Vocabulary]:
    """Encode ``sentences`` into the run directory, whole or not at all."""
    partial, final = directory / f".{DATA}.partial", directory / DATA
    try:
        partial.mkdir()
        _, vocabulary = Dataset.write(partial, sentences, tokenizer, **options)
        for path in partial.iterdir():
            sync(path)
        partial.replace(final)
        sync(directory)
        return Dataset(final, len(vocabulary)), vocabulary
    except OSError as error:
        raise DataError(f"{partial}: cannot be written ({error.strerror or error})") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
