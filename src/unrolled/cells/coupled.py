"""Long short-term memory whose input gate is what its forget gate leaves."""

from typing import Unpack

import torch
from torch import Tensor, nn

from unrolled.cells.cell import GatedCell, Norm, Options, State
from unrolled.cells.facts import Retain


class CoupledLSTM(GatedCell):
    """Long short-term memory with coupled gates: what is forgotten is what is written, i = 1 - f.

        f = σ(U_f x_t + W_f h_{t-1} + b_f)        c_t = f ⊙ c_{t-1} + (1 - f) ⊙ g
        g = tanh(U_g x_t + W_g h_{t-1} + b_g)     h_t = o ⊙ tanh(c_t)
        o = σ(U_o x_t + W_o h_{t-1} + b_o)

    So c stays between -1 and 1 if it starts there. Gate order f, g, o; ``weight_ih`` ``[3H, D]``,
    ``weight_hh`` ``[3H, H]``, biases ``[3H]``, all drawn from N(0, 0.1²). State: ``(h, c)``, both
    ``[B, H]``.

    Source: variant CIFG of Greff, Srivastava, Koutník, Steunebrink & Schmidhuber, "LSTM: A Search
    Space Odyssey", IEEE Transactions on Neural Networks and Learning Systems 28 (2017), here without
    peepholes.

    Options: ``bias``, ``layer_norm`` (with it c_t goes through ``norm_c`` on its way to tanh, and is
    carried on as it is), ``recurrent_dropout``, ``zoneout``; see ``GatedCell``.
    """

    blocks, candidate, symbols = ("f", "g", "o"), "g", ("h", "c")
    retain = Retain("f")

    def __init__(self, input_size: int, hidden_size: int, **options: Unpack[Options]) -> None:
        super().__init__(input_size, hidden_size, **options)
        if self.layer_norm:
            self.norm_c = Norm([hidden_size], bias=self.bias_ih is not None)

    @property
    def state_sizes(self) -> tuple[int, ...]:
        return (self.hidden_size, self.hidden_size)

    def project(self, x: Tensor) -> Tensor:
        """U x_t + b for every gate and step: ``[..., D] -> [..., 3H]``."""
        return self.of_input(x, self.bias())

    def equations(self, u: Tensor, w: Tensor, state: State) -> State:
        """The equations above, from u = U x_t + b and w = W h_{t-1}."""
        _, c = state
        f, g, o = (u + w).chunk(3, -1)
        f = torch.sigmoid(f)
        c = f * c + (1 - f) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(self.norm_c(c) if self.layer_norm else c), c

    def reset_parameters(self) -> None:
        """Draw every weight and bias from N(0, 0.1²), as the source does; norms as in ``GatedCell``."""
        for parameter in self.parameters(recurse=False):
            nn.init.normal_(parameter, std=0.1)
        self._reset_norms()
