"""The states of recurrent layers of every kind, in one form: a tuple of tensors, sequences second."""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from unrolled.cells import Cell, State
from unrolled.layers.recurrent import Recurrent
from unrolled.shapes import Shape

Layer = Recurrent | nn.RNNBase


def directions(layer: Layer) -> int:
    """S."""
    if isinstance(layer, Recurrent):
        return layer.directions
    return 2 if layer.bidirectional else 1


def state_shapes(layer: Layer, batch_size: int) -> list[Shape]:
    """The shapes of a state of ``layer``: ``[L*S, B, size]`` each, or split by layer (see ``Result``)."""
    if isinstance(layer, Recurrent):
        return layer.state_shapes(batch_size)
    rows = layer.num_layers * directions(layer)
    output = layer.proj_size or layer.hidden_size
    widths = (output, layer.hidden_size) if layer.mode == "LSTM" else (output,)
    return [(rows, batch_size, width) for width in widths]


def fresh_state(layer: Layer, batch_size: int, like: Tensor) -> State:
    """The state in which ``batch_size`` sequences begin, of ``like``'s dtype and device."""
    if isinstance(layer, Recurrent):
        cells = cast(Sequence[Cell], layer.cells)
        return layer.by_layer([cell.initial_state(batch_size, like) for cell in cells])
    return tuple(like.new_zeros(shape) for shape in state_shapes(layer, batch_size))


def as_tuple(state: Any) -> State:
    """A state as a layer of ``torch.nn`` or of this library gives it, as a tuple."""
    return (state,) if isinstance(state, Tensor) else tuple(state)


def as_given(layer: Layer, state: Sequence[Tensor]) -> Any:
    """The inverse of ``as_tuple``: a state as ``layer`` takes it."""
    is_pair = isinstance(layer, Recurrent) or layer.mode == "LSTM"
    return tuple(state) if is_pair else state[0]


def weight_of(layer: nn.Module) -> Tensor:
    """Any floating parameter of ``layer``: its dtype and device are those of the state."""
    return next((p for p in layer.parameters() if p.is_floating_point()), torch.empty(0))
