"""How the past's part of a gradient is kept: the influence of the parameters on the state."""

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor

from unrolled.cells import State
from unrolled.layers.recurrent import Recurrent
from unrolled.modules import alias

Tensors = tuple[Tensor, ...]
Scans = tuple[State, ...]
"""The state of each cell, from the first layer to the last."""


class Chunk(NamedTuple):
    """Some steps of all rows, and where they begin."""

    x: Tensor
    """``[T, B, D]``."""
    resets: Tensor
    """Boolean ``[T, B]``, true also where a row has its very first step."""
    state: Scans
    """Before the first step."""

    @property
    def within(self) -> Tensor | None:
        """The resets that a scan need know of: none at the first step, if all rows begin there."""
        resets = self.resets
        if resets[0].all():  # so that a kernel takes a first step whatever the initial state is
            resets = torch.cat([torch.zeros_like(resets[:1]), resets[1:]])
        return resets if resets.any() else None


class Influence(ABC):
    """How the past's part of the gradient is kept: J = ∂s/∂θ, or what stands for it."""

    form: str
    """What is kept, in a word or two."""
    size: int
    """How many numbers are kept a row."""

    @abstractmethod
    def parameters(self, layer: Recurrent) -> list[Tensor]:
        """θ: the parameters whose gradient has a part from the past."""

    @abstractmethod
    def shapes(self, batch_size: int) -> list[tuple[int, ...]]:
        """The shapes of what is kept, rows first; an error if it is too large."""

    @abstractmethod
    def pull(self, influence: Tensors, gradients: Tensors) -> Tensors:
        """Σ_b v_b J_b for each parameter, from v = ∂L/∂s ``[B, size]`` for each state tensor."""

    @abstractmethod
    def run(
        self, layer: Recurrent, start: Scans, influence: Tensors, chunk: Chunk
    ) -> tuple[Tensor, Scans, Tensors]:
        """The outputs ``[T, B, F]`` of ``chunk``, the state and the influence after it.

        ``start`` is the chunk's state, from which a gradient finds its way into the past.
        """


def forgotten(influence: Tensors, over: Tensor) -> Tensors:
    """``influence`` with zeros in the rows whose sequences are ``over`` ``[B]``, whatever was there."""
    if not over.any():
        return influence
    return tuple(torch.where(over.view(-1, *[1] * (p.dim() - 1)), 0, p) for p in influence)


def by_reference(layer: Recurrent) -> Recurrent:
    """``layer`` over the same parameters, by PyTorch's operations, which ``torch.func`` can follow."""
    shared = alias(layer)
    shared.batch_first, shared.backend = False, "reference"
    return shared
