"""Layers of every kind, and networks whose answer is known."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

import unrolled
from unrolled import Recurrent, cells
from unrolled.layers.finding import Layer

T, B, D, H = 5, 2, 3, 4


def uncompiled(cell: type[cells.Cell], **options: object) -> Recurrent:
    """A layer of a cell for which a kernel would have to be compiled first."""
    return Recurrent(cell, D, H, **{"backend": "reference"} | options)


KINDS: dict[str, Callable[..., Layer]] = {
    "Elman": lambda **o: Recurrent(cells.Elman, D, H, **o),
    "relu": lambda **o: uncompiled(cells.Elman, activation="relu", layer_norm=True, **o),
    "LSTM": lambda **o: Recurrent(cells.LSTM, D, H, **o),
    "GRU": lambda **o: uncompiled(cells.GRU, zoneout=0.2, **o),
    "Peephole": lambda **o: uncompiled(cells.PeepholeLSTM, **o),
    "LRU": lambda **o: uncompiled(cells.LRU, **o),
    "MinGRU": lambda **o: uncompiled(cells.MinGRU, **o),
    "LEM": lambda **o: uncompiled(cells.LEM, **o),
    "learnt": lambda **o: Recurrent(cells.GRU, D, H, learn_initial_state=True, **o),
    "drop-in layer RNN": lambda **o: unrolled.RNN(D, H, **o),
    "drop-in layer LSTM": lambda **o: unrolled.LSTM(D, H, **o),
    "torch RNN": lambda **o: nn.RNN(D, H, **o),
    "torch LSTM": lambda **o: nn.LSTM(D, H, **o),
    "torch GRU": lambda **o: nn.GRU(D, H, **o),
}


def make(kind: str, depth: int = 1, **options: object) -> Layer:
    """A layer in float64, every parameter random and none of them small; of ReLU, most units alive."""
    name = "num_layers" if kind.startswith(("drop-in layer", "torch")) else "depth"
    layer = KINDS[kind](**{name: depth}, **options).double()
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.5)
    if kind == "relu":
        for cell in layer.cells:
            nn.init.constant_(cell.bias_ih, 1.0)
    return layer


def inputs(steps: int = T, batch_size: int = B) -> Tensor:
    return torch.randn(steps, batch_size, D, dtype=torch.float64)


def linear(weight: Tensor) -> Recurrent:
    """h_t = U x_t + W h_{t-1}, of which every Jacobian is W."""
    layer = Recurrent(cells.Elman, D, len(weight), activation="identity").double()
    with torch.no_grad():
        layer.cells[0].weight_hh.copy_(weight)
    return layer


def eye(n: int = H) -> Tensor:
    return torch.eye(n, dtype=torch.float64)


def orthogonal(n: int = H) -> Tensor:
    return torch.linalg.qr(torch.randn(n, n, dtype=torch.float64))[0]
