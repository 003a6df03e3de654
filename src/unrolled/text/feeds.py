"""What a training reads of a text: sentences, or windows of the text as one."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

from torch import Tensor, nn

from unrolled.bptt import Carry, Truncated, checkpointed_loss
from unrolled.bptt.windows import Windows, make_windows
from unrolled.errors import DataError, RunError
from unrolled.text.data import Batch, Dataset
from unrolled.text.measures import (
    TokenScores,
    TokenWindow,
    evaluate,
    evaluate_continuous,
    ragged,
    real,
)
from unrolled.text.models import LanguageModel, TokenModel
from unrolled.training.feed import Feed
from unrolled.training.settings import Settings

VALIDATION_BATCHES = 400  # of a split, at most, at every evaluation
EVALUATION_BATCH_SIZE, EVALUATION_STEPS = 16, 128  # of a continuous text


class Sentences(Feed[Batch]):
    """Batches of whole sentences: full BPTT over each."""

    unit = "tokens"
    model: TokenModel
    data: Dataset

    def __len__(self) -> int:
        return len(self.data.batches("train", self.settings.batch_steps))

    def epoch(self, number: int, first: int) -> Iterator[Batch]:
        order = (self.settings.seed, number)
        batches = self.data.batches("train", self.settings.batch_steps, shuffle=order)
        return (batches.read(rows) for rows in itertools.islice(batches.rows(), first, None))

    def loss(self, item: Batch) -> Tensor:
        return self.model.loss(item, memory=self.settings.memory)

    def count(self, item: Batch) -> int:
        return int(item.lengths.sum())

    def scores(self, most: int | None = None) -> TokenScores:
        batches = self.data.batches("validation", self.settings.batch_steps, shuffle=(0, 0))
        return evaluate(self.model, itertools.islice(batches, most or VALIDATION_BATCHES))

    def evaluations(self) -> int:
        count = len(self.data.batches("validation", self.settings.batch_steps))
        return min(count, VALIDATION_BATCHES)


class WindowFeed(Feed[TokenWindow]):
    """Windows of a continuous text: truncated BPTT, every k1 tokens, back through k2.

    The state is carried from window to window, and begins anew with each passage.
    """

    unit = "tokens"
    model: LanguageModel
    data: Dataset

    def __init__(self, model: TokenModel, data: Dataset, settings: Settings) -> None:
        if not isinstance(model, LanguageModel):
            raise RunError(
                f"bptt: got 'truncated' for a model of kind '{model.kind}', expected 'lm': the future "
                "of a token must be in its window"
            )
        super().__init__(model, data, settings)
        self.carry = Carry(model)
        self.truncated = Truncated(_States(model, settings.memory), settings.k2)
        self.is_chunked = settings.memory is not None and settings.k1 == settings.k2

    def windows(self, number: int) -> "Windows[tuple[Tensor, ...]]":
        order = (self.settings.seed, number)
        return windows_of(
            self.data, "train", self.settings.batch_size, self.settings.k1, shuffle=order
        )

    def __len__(self) -> int:
        return len(self.windows(0))

    def epoch(self, number: int, first: int) -> Iterator[TokenWindow]:
        return iter(self.windows(number)[first:])

    def loss(self, item: TokenWindow) -> Tensor:
        (tokens, targets), counted = item.data, real(item)
        masks: dict[str, Any] = {"resets": item.resets, "lengths": ragged(item)}
        if self.is_chunked:
            parts, memory = (tokens, targets, counted), self.settings.memory
            total = checkpointed_loss(
                self.model, self.model.total, *parts, memory=memory, carry=self.carry, **masks
            )
        else:
            total = self.model.total_of(self.truncated(tokens, **masks), targets, counted)
        return total / counted.sum().clamp(min=1)

    def count(self, item: TokenWindow) -> int:
        return int(item.lengths.sum())

    def scores(self, most: int | None = None) -> TokenScores:
        windows = evaluation_windows(self.data, "validation")
        return evaluate_continuous(
            self.model, itertools.islice(windows, most or VALIDATION_BATCHES)
        )

    def evaluations(self) -> int:
        return min(len(evaluation_windows(self.data, "validation")), VALIDATION_BATCHES)

    def state_dict(self) -> dict[str, Tensor]:
        return (self.carry if self.is_chunked else self.truncated).state_dict()

    def load_state_dict(self, saved: Mapping[str, Tensor]) -> None:
        (self.carry if self.is_chunked else self.truncated).load_state_dict(saved)


class _States(nn.Module):
    """A language model, called for the states that it is in after each token."""

    def __init__(self, model: LanguageModel, memory: int | None) -> None:
        super().__init__()
        self.model = model
        self.memory = memory

    def forward(self, tokens: Tensor) -> Tensor:
        return self.model.states(tokens, memory=self.memory)


def feed_of(model: TokenModel, settings: Settings, data: Dataset) -> Feed[Any]:
    """The feed that ``settings`` ask for."""
    kind: type[Feed[Any]] = WindowFeed if settings.bptt == "truncated" else Sentences
    return kind(model, data, settings)


def evaluation_windows(data: Dataset, split: str) -> Sequence[TokenWindow]:
    """A continuous split to be read from its beginning to its end; few rows, so that they are long."""
    steps = sum(len(tokens) for tokens, _ in data.documents(split))
    if not steps:
        return ()
    count = min(EVALUATION_BATCH_SIZE, max(1, steps // EVALUATION_STEPS))
    return cast(
        Sequence[TokenWindow], windows_of(data, split, count, min(EVALUATION_STEPS, steps // count))
    )


def windows_of(
    data: Dataset, split: str, count: int, steps: int, *, shuffle: tuple[int, int] | None = None
) -> "Windows[tuple[Tensor, ...]]":
    """A continuous split in windows of ``steps`` tokens and ``count`` rows.

    Raises:
        DataError: it is too short for that.
    """
    try:
        return make_windows(data.documents(split), count, steps, shuffle=shuffle)
    except ValueError as error:
        raise DataError(f"the {split} split: {error}") from None
