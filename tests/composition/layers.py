"""The layers that must go together with the rest of PyTorch, each in a small model."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from tests.compare import collect, leaves
from unrolled import Recurrent, cells, layers
from unrolled.cells import Cell, State

FEATURES, HIDDEN = 3, 5


class Leaky(Cell):
    """A cell that no kernel is built in for."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        self.weight_ih = nn.Parameter(torch.empty(hidden_size, input_size))
        self.weight_hh = nn.Parameter(torch.empty(hidden_size, hidden_size))
        self.reset_parameters()

    def project(self, x: Tensor) -> Tensor:
        return x @ self.weight_ih.T

    def step(self, projected: Tensor, state: State) -> State:
        (h,) = state
        return (0.9 * h + 0.1 * torch.tanh(projected + h @ self.weight_hh.T),)


DROP_INS = {"RNN": layers.RNN, "LSTM": layers.LSTM, "GRU": layers.GRU}
CELLS: dict[str, Callable[..., Cell]] = {
    "Recurrent Elman": cells.Elman,
    "Recurrent LSTM": cells.LSTM,
    "Recurrent GRU": cells.GRU,
}
NATIVE = [*DROP_INS, *CELLS]  # what the kernels run
EVERY = [*NATIVE, "Recurrent Leaky"]


def make(kind: str, *, depth: int = 2, both: bool = True, **options: Any) -> nn.Module:
    """A layer of that kind."""
    if kind in DROP_INS:
        return DROP_INS[kind](FEATURES, HIDDEN, num_layers=depth, bidirectional=both, **options)
    cell = (CELLS | {"Recurrent Leaky": Leaky})[kind]
    return Recurrent(cell, FEATURES, HIDDEN, depth=depth, bidirectional=both, **options)


class Model(nn.Module):
    """A recurrent layer between two others."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.first = nn.Linear(FEATURES, FEATURES)
        if isinstance(layer, Recurrent):
            width = layer.hidden_size * layer.directions
        else:
            width = (layer.proj_size or layer.hidden_size) * (2 if layer.bidirectional else 1)
        self.head = nn.Linear(width, 2)

    def forward(self, x: Tensor, *state: Any, **options: Any) -> tuple[Tensor, Any]:
        y, final = self.layer(self.first(x), *state, **options)
        return self.head(y), final


def named(result: Any) -> dict[str, Tensor]:
    """The tensors of what a layer returns, by their place."""
    return {f"output {k}": tensor for k, tensor in enumerate(pytree.tree_leaves(tuple(result)))}


def values(
    call: Callable[..., Any], model: nn.Module, x: Tensor, *state: Any, **options: Any
) -> dict[str, Tensor]:
    """Outputs of ``call``, final states, and the gradients in ``x`` and every parameter, by name."""
    (x,) = leaves(x)
    return collect(named(call(x, *state, **options)), {"x": x} | dict(model.named_parameters()))


def input_of(steps: int = 4, batch_size: int = 2, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(steps, batch_size, FEATURES, dtype=dtype)
