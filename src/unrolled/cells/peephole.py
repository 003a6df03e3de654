"""Long short-term memory whose gates see the cell state."""

from typing import Unpack

import torch
from torch import Tensor, nn

from unrolled.cells.cell import Options, State
from unrolled.cells.lstm import LSTM


class PeepholeLSTM(LSTM):
    """Long short-term memory with peepholes: each gate sees the cell state of its own unit.

        i = σ(U_i x_t + W_i h_{t-1} + p_i ⊙ c_{t-1} + b_i)
        f = σ(U_f x_t + W_f h_{t-1} + p_f ⊙ c_{t-1} + b_f)
        g = tanh(U_g x_t + W_g h_{t-1} + b_g)
        c_t = f ⊙ c_{t-1} + i ⊙ g
        o = σ(U_o x_t + W_o h_{t-1} + p_o ⊙ c_t + b_o)
        h_t = o ⊙ tanh(c_t)

    Parameters as in ``LSTM``, gate order i, f, g, o; and ``weight_peephole`` ``[3H]``, order i, f, o.
    All are drawn from U(-1/√H, 1/√H), as ``torch.nn`` draws an LSTM's. State: ``(h, c)``, both
    ``[B, H]``.

    Source: Gers & Schmidhuber, "Recurrent Nets that Time and Count", IJCNN 2000; Gers, Schraudolph &
    Schmidhuber, "Learning Precise Timing with LSTM Recurrent Networks", Journal of Machine Learning
    Research 3 (2002). The squashing functions are those of Greff et al., "LSTM: A Search Space
    Odyssey", IEEE Transactions on Neural Networks and Learning Systems 28 (2017).

    Options: as in ``LSTM``. ``layer_norm`` works on U x and W h; the peepholes see c as it is carried.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        forget_bias: float | None = None,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(input_size, hidden_size, forget_bias=forget_bias, **options)
        self.weight_peephole = nn.Parameter(torch.empty(3 * hidden_size))
        self.reset_parameters()

    def equations(self, u: Tensor, w: Tensor, state: State) -> State:
        """The equations above, from u = U x_t + b and w = W h_{t-1}."""
        _, c = state
        i, f, g, o = (u + w).chunk(4, -1)
        p_i, p_f, p_o = self.weight_peephole.chunk(3)
        i, f = torch.sigmoid(i + p_i * c), torch.sigmoid(f + p_f * c)
        c = f * c + i * torch.tanh(g)
        shown = self.norm_c(c) if self.layer_norm else c
        return torch.sigmoid(o + p_o * c) * torch.tanh(shown), c
