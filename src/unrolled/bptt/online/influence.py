"""How the past's part of a gradient is kept: the influence of the parameters on the state."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from unrolled.cells import State
from unrolled.layers.recurrent import Recurrent

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
    shared = copy.copy(layer)
    shared.batch_first, shared.backend = False, "reference"
    return shared


class _Bound(nn.Module):
    """A function of a module, as the ``forward`` that ``functional_call`` can reach."""

    def __init__(self, module: nn.Module, function: Callable[..., Any]) -> None:
        super().__init__()
        self.module, self.function = module, function

    def forward(self, *arguments: Any) -> Any:
        return self.function(self.module, *arguments)


def functional(module: nn.Module, function: Callable[..., Any]) -> Callable[..., Any]:
    """``function(module, …)`` as a function of (parameters by name, …); others stay as they are."""
    bound = _Bound(module, function)

    def call(parameters: dict[str, Tensor], *arguments: Any) -> Any:
        named = {f"module.{name}": p for name, p in parameters.items()}
        return torch.func.functional_call(bound, named, arguments)

    return call
