"""``torch.nn``'s layers and the drop-in layers of ``unrolled``."""

from typing import Any

import torch
from torch import Tensor, nn

import unrolled
from benchmarks.layers.measuring import Contestant, Problem, Values


def layer_of(problem: Problem) -> nn.RNNBase:
    """``torch.nn``'s layer, with the same weights every time."""
    torch.manual_seed(problem.size)
    both = problem.directions == 2
    layer: nn.RNNBase = getattr(nn, problem.cell)(problem.size, problem.size, bidirectional=both)
    return layer


def drop_in_of(layer: nn.RNNBase, cell: str) -> nn.RNNBase:
    """``unrolled``'s layer with the weights of ``torch.nn``'s."""
    made = getattr(unrolled, cell)
    drop_in: nn.RNNBase = made(
        layer.input_size, layer.hidden_size, bidirectional=layer.bidirectional
    )
    drop_in.load_state_dict(layer.state_dict())
    return drop_in


def training(name: str, layer: nn.RNNBase, x: Tensor, cotangent: Tensor) -> Contestant:
    """Forward and backward, with the gradients of ``x`` and of every parameter."""
    wanted = {"x": x.clone().requires_grad_()} | dict(layer.named_parameters())
    x, inputs = wanted["x"], list(wanted.values())

    def call() -> tuple[Tensor, tuple[Tensor, ...]]:
        y = layer(x)[0]
        return y, torch.autograd.grad(y, inputs, cotangent)

    def read(result: Any) -> Values:
        y, gradients = result
        found = zip(wanted, gradients, strict=True)
        return {"y": y.detach()} | {f"gradient of {name}": g for name, g in found}

    return Contestant(name, call, read)


def inference(name: str, layer: nn.RNNBase, x: Tensor) -> Contestant:
    return Contestant(name, lambda: layer(x)[0], lambda y: {"y": y})
