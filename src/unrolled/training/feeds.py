"""What a training reads, step by step, and the loss that it takes of it."""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Generic, TypeVar, cast

from torch import Tensor, nn

from unrolled.bptt import Carry, Truncated, checkpointed_loss
from unrolled.bptt.windows import Windows, make_windows
from unrolled.errors import DataError, RunError
from unrolled.text.data import Batch, Dataset
from unrolled.text.models import LanguageModel, TokenModel
from unrolled.training.measures import (
    Scores,
    TokenWindow,
    evaluate,
    evaluate_continuous,
    ragged,
    real,
)
from unrolled.training.settings import Settings

VALIDATION_BATCHES = 400  # of a split, at most, at every evaluation
EVALUATION_BATCH_SIZE, EVALUATION_STEPS = 16, 128  # of a continuous text

Item = TypeVar("Item")


class Feed(ABC, Generic[Item]):
    """The items of a training in their order, which follows from (seed, epoch) alone.

    Args:
        model: that is trained.
        data: the encoded splits.
        settings: how it is trained.
    """

    def __init__(self, model: TokenModel, data: Dataset, settings: Settings) -> None:
        self.model, self.data, self.settings = model, data, settings

    @abstractmethod
    def __len__(self) -> int:
        """How many items an epoch has."""

    @abstractmethod
    def epoch(self, number: int, first: int) -> Iterator[Item]:
        """The items of an epoch, from the one with the number ``first`` on."""

    @abstractmethod
    def loss(self, item: Item) -> Tensor:
        """The mean cross-entropy of an item, in nats per token."""

    @abstractmethod
    def tokens(self, item: Item) -> int:
        """How many tokens an item has."""

    @abstractmethod
    def scores(self, most: int = VALIDATION_BATCHES) -> Scores:
        """The scores on the validation split, of ``most`` batches at most."""

    @abstractmethod
    def evaluations(self) -> int:
        """How many batches ``scores`` reads."""

    def from_step(self, step: int) -> Iterator[tuple[int, Item]]:
        """The items from a step of the training on, without an end, each with its epoch."""
        first, skipped = divmod(step, len(self))
        for number in itertools.count(first):
            for item in self.epoch(number, skipped):
                yield number, item
            skipped = 0

    def state_dict(self) -> dict[str, Tensor]:
        """What is carried from step to step, as tensors by name."""
        return {}

    def load_state_dict(self, saved: Mapping[str, Tensor]) -> None:
        """Continue from what ``state_dict`` returned."""
        if saved:
            raise ValueError(f"{', '.join(saved)}: expected none, sentences know nothing of others")


class Sentences(Feed[Batch]):
    """Batches of whole sentences: full BPTT over each."""

    def __len__(self) -> int:
        return len(self.data.batches("train", self.settings.batch_tokens))

    def epoch(self, number: int, first: int) -> Iterator[Batch]:
        order = (self.settings.seed, number)
        batches = self.data.batches("train", self.settings.batch_tokens, shuffle=order)
        return (batches.read(rows) for rows in itertools.islice(batches.rows(), first, None))

    def loss(self, item: Batch) -> Tensor:
        return self.model.loss(item, memory=self.settings.memory)

    def tokens(self, item: Batch) -> int:
        return int(item.lengths.sum())

    def scores(self, most: int = VALIDATION_BATCHES) -> Scores:
        batches = self.data.batches("validation", self.settings.batch_tokens, shuffle=(0, 0))
        return evaluate(self.model, itertools.islice(batches, most))

    def evaluations(self) -> int:
        count = len(self.data.batches("validation", self.settings.batch_tokens))
        return min(count, VALIDATION_BATCHES)


class WindowFeed(Feed[TokenWindow]):
    """Windows of a continuous text: truncated BPTT, every k1 tokens, back through k2.

    The state is carried from window to window, and begins anew with each passage.
    """

    model: LanguageModel

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

    def tokens(self, item: TokenWindow) -> int:
        return int(item.lengths.sum())

    def scores(self, most: int = VALIDATION_BATCHES) -> Scores:
        return evaluate_continuous(
            self.model, itertools.islice(evaluation_windows(self.data, "validation"), most)
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


def feed_of(model: TokenModel, data: Dataset, settings: Settings) -> Feed[Any]:
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
