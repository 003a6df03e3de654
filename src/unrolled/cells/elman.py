"""The simple recurrent network."""

from collections.abc import Callable
from typing import Unpack

import torch
from torch import Tensor

from unrolled.cells.cell import GatedCell, Options, State
from unrolled.cells.facts import Onnx

Activation = Callable[[Tensor], Tensor]
ACTIVATIONS: dict[str, Activation] = {
    "tanh": torch.tanh,
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "identity": lambda z: z,
}


class Elman(GatedCell):
    """The simple recurrent network: s_t = f(U x_t + W s_{t-1} + b).

    U is ``weight_ih`` ``[H, D]``, W is ``weight_hh`` ``[H, H]``, and b is ``bias_ih + bias_hh``
    ``[H]``, all named as in ``torch.nn.RNN``. State: ``(s,)``, ``[B, H]``.

    Source: Elman, "Finding Structure in Time", Cognitive Science 14 (1990).

    Args:
        input_size: D, the features of one input.
        hidden_size: H, the hidden units.
        activation: f: "tanh", "relu", "sigmoid", "identity", or any elementwise function of a tensor.
        options: ``bias``, ``layer_norm``, ``recurrent_dropout``, ``zoneout``; see ``GatedCell``.
    """

    blocks, symbols = ("s",), ("s",)
    kernel, onnx = "elman", Onnx("RNN", ("s",))

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        activation: str | Activation = "tanh",
        **options: Unpack[Options],
    ) -> None:
        super().__init__(input_size, hidden_size, **options)
        self.activation = check_activation(activation)

    def project(self, x: Tensor) -> Tensor:
        """U x_t + b for every step: ``[..., D] -> [..., H]``."""
        return self.of_input(x, self.bias())

    def equations(self, u: Tensor, w: Tensor, state: State) -> State:  # noqa: ARG002
        """s_t = f(u + w), from u = U x_t + b and w = W s_{t-1}."""
        f = ACTIVATIONS[self.activation] if isinstance(self.activation, str) else self.activation
        return (f(u + w),)

    def extra_repr(self) -> str:
        name = getattr(self.activation, "__name__", self.activation)
        return f"{super().extra_repr()}, activation={name}"


def check_activation(activation: str | Activation) -> str | Activation:
    """An activation of an ``Elman`` cell, or an error."""
    if isinstance(activation, str):
        if activation not in ACTIVATIONS:
            known = ", ".join(repr(name) for name in ACTIVATIONS)
            raise ValueError(f"activation: got {activation!r}, expected {known}, or a function")
    elif not callable(activation):
        raise TypeError(f"activation: got {activation!r}, expected a name or a function")
    return activation
