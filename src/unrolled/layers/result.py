"""What a layer returns."""

from collections.abc import Iterable
from typing import Any, Self

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from unrolled.cells import State


class LayerState(tuple[Tensor, ...]):
    """A layer's state: a tuple, which also knows what a ``Result`` says by name.

    It is here, since others put a ``Result`` together again: a full backward hook of ``torch.nn``, from
    its two items. Of what has been put together from single tensors nothing is known.
    """

    _known: tuple[State | None, int, int] | None = None
    """The states at every step, if asked for; S; where in the state the last layer's outputs are."""

    def __reduce__(self) -> Any:
        return tuple, (list(self),)


class Result(tuple[Tensor | tuple[Tensor, Tensor], State]):
    """What a layer returns; it unpacks as ``y, state``, and has more by name.

    As any tuple it can be made of an iterable of its two items, too. If the second is the very state of
    a result, the new one says all that this said; else it has no ``states`` and no ``final``.

    Args:
        y: the outputs, or both items.
        state: after each direction's last step.
        states: at every step, if asked for.
        directions: S; by default what ``state`` says.
        last: where in ``state`` the outputs of the last layer are.
    """

    def __new__(
        cls,
        y: Tensor | tuple[Tensor, Tensor] | Iterable[Any],
        state: State | None = None,
        states: State | None = None,
        directions: int | None = None,
        last: int = 0,
    ) -> Self:
        items: tuple[Any, ...] = tuple(y) if state is None else (y, state)
        if len(items) != 2:
            raise TypeError(f"Result: got {len(items)} items, expected two, y and state")
        if directions is not None:
            knowing = LayerState(items[1])
            knowing._known = (states, directions, last)
            items = (items[0], knowing)
        return super().__new__(cls, items)

    def _known(self, name: str) -> tuple[State | None, int, int]:
        """What the state knows, or an error that speaks of ``name``."""
        known: tuple[State | None, int, int] | None = getattr(self.state, "_known", None)
        if known is None:
            raise RuntimeError(
                f"{name}: got a Result that was put together from single tensors (moved to a device, "
                f"detached or gathered), expected the one that the layer returned; take {name} from that"
            )
        return known

    @property
    def states(self) -> State | None:
        """With ``states=True`` in the call, the states after every step; otherwise ``None``.

        As ``state``, but with time, ``[L*S, T, B, size]`` each (``[L*S, B, T, size]`` if
        ``batch_first``); zero at steps that are not real.
        """
        return self._known("states")[0]

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

        Of the forward cell its output at the sequence's last real step; after it, in the same row, of the
        backward one its output at the sequence's *first* real step, where it ends. (``y[-1]`` has of the
        backward cell what it says after a single step.) However the directions are merged, and before
        projection and residual.
        """
        _, directions, last = self._known("final")
        h = self.state[last]
        return torch.cat(h.narrow(-3, h.shape[-3] - directions, directions).unbind(-3), -1)

    def __reduce__(self) -> Any:
        known = getattr(self.state, "_known", None)
        return type(self), (self.y, tuple(self.state), *(known or ()))

    def __repr__(self) -> str:
        known = getattr(self.state, "_known", None)
        shown = "" if known is None or known[0] is None else f", states={known[0]!r}"
        return f"Result(y={self.y!r}, state={self.state!r}{shown})"


def _flatten(state: LayerState) -> tuple[list[Any], Any]:
    if state._known is None:
        return [*state], None
    states, *which = state._known
    return [*state, *([] if states is None else [states])], (len(state), *which)


def _unflatten(parts: Iterable[Any], known: Any) -> LayerState:
    if known is None:
        return LayerState(parts)
    (*tensors,), (count, directions, last) = parts, known
    state = LayerState(tensors[:count])
    state._known = (tensors[count] if len(tensors) > count else None, directions, last)
    return state


# So that torch.load(…, weights_only=True) reads a state that torch.save has written.
torch.serialization.add_safe_globals([tuple])

# So that torch.func and torch.export see through them.
pytree.register_pytree_node(
    Result,
    lambda result: (list(result), None),
    lambda items, _: Result(items),
    serialized_type_name="unrolled.layers.Result",
)
pytree.register_pytree_node(
    LayerState, _flatten, _unflatten, serialized_type_name="unrolled.layers.LayerState"
)
