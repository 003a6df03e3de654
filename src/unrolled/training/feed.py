"""What a training reads, step by step, and the loss that it takes of it."""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Generic, TypeVar

from torch import Tensor

from unrolled.training.scores import Scores
from unrolled.training.settings import Settings

Item = TypeVar("Item")


class Feed(ABC, Generic[Item]):
    """The items of a training in their order, which follows from (seed, epoch) alone.

    Args:
        model: that is trained.
        data: the splits that it is trained and evaluated on.
        settings: how it is trained.
    """

    unit: ClassVar[str]
    """What ``count`` counts, such as "tokens"."""

    def __init__(self, model: Any, data: Any, settings: Settings) -> None:
        self.model, self.data, self.settings = model, data, settings

    @abstractmethod
    def __len__(self) -> int:
        """How many items an epoch has."""

    @abstractmethod
    def epoch(self, number: int, first: int) -> Iterator[Item]:
        """The items of an epoch, from the one with the number ``first`` on."""

    @abstractmethod
    def loss(self, item: Item) -> Tensor:
        """The mean loss of an item."""

    @abstractmethod
    def count(self, item: Item) -> int:
        """How many of ``unit`` an item has."""

    @abstractmethod
    def scores(self, most: int | None = None) -> Scores:
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
            raise ValueError(f"{', '.join(saved)}: expected none, no item knows of another")
