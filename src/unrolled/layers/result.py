"""What a layer returns."""

from collections.abc import Iterable
from typing import Any, Self

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from unrolled.cells import State


class Result(tuple[Tensor | tuple[Tensor, Tensor], State]):
    """What a layer returns; it unpacks as ``y, state``, and has more by name.

    Args:
        y: the outputs.
        state: after each direction's last step.
        states: at every step, if asked for.
        directions: S.
        last: where in ``state`` the outputs of the last layer are.
    """

    states: State | None
    """With ``states=True`` in the call, the states after every step: as ``state``, but with time,
    ``[L*S, T, B, size]`` each (``[L*S, B, T, size]`` if ``batch_first``); zero at steps that are not
    real. Otherwise ``None``."""

    def __new__(
        cls,
        y: Tensor | tuple[Tensor, Tensor],
        state: State,
        states: State | None = None,
        directions: int = 1,
        last: int = 0,
    ) -> Self:
        result = super().__new__(cls, (y, state))
        result.states = states
        result._which = (directions, last)
        return result

    _which: tuple[int, int]

    @property
    def y(self) -> Tensor | tuple[Tensor, Tensor]:
        """The outputs ``[T, B, F]`` (``[B, T, F]`` if ``batch_first``), F being ``Recurrent.output_size``.

        For directions kept apart a pair of them, forward and backward.
        """
        return self[0]

    @property
    def state(self) -> State:
        """The state after each direction's last step, one ``[L*S, B, size]`` a state tensor of the cell.

        Ordered by layer, then direction, as in ``torch.nn``. If layers have different sizes, each of
        them is split by layer: (h of layer 1, h of layer 2, …, c of layer 1, …), ``[S, B, size]`` each.
        """
        return self[1]

    @property
    def final(self) -> Tensor:
        """What the last layer's cells say when they have read everything: ``[B, S*H]``.

        Of the forward cell its output at the lane's last real step; after it, in the same row, of the
        backward one its output at the lane's *first* real step, where it ends. (``y[-1]`` has of the
        backward cell what it says after a single step.) However the directions are merged, and before
        projection and residual.
        """
        directions, last = self._which
        h = self.state[last]
        return torch.cat(h.narrow(-3, h.shape[-3] - directions, directions).unbind(-3), -1)

    def __getnewargs__(self) -> Any:
        return (*self, self.states, *self._which)

    def __repr__(self) -> str:
        shown = "" if self.states is None else f", states={self.states!r}"
        return f"Result(y={self.y!r}, state={self.state!r}{shown})"


def _flatten(result: Result) -> tuple[list[Any], tuple[int, int]]:
    every = [] if result.states is None else [result.states]
    return [result.y, result.state, *every], result._which


def _unflatten(parts: Iterable[Any], which: Any) -> Result:
    y, state, *every = parts
    return Result(y, state, every[0] if every else None, *which)


# So that torch.func and torch.export see through it.
pytree.register_pytree_node(
    Result, _flatten, _unflatten, serialized_type_name="unrolled.layers.Result"
)
