"""Long short-term memory."""

import torch
from torch import Tensor
from torch.nn import functional as F

from unrolled.cells.cell import GatedCell, State


class LSTM(GatedCell):
    """Long short-term memory: a cell state c that is added to, so that its gradient need not decay.

        i = σ(U_i x_t + W_i h_{t-1} + b_i)        g = tanh(U_g x_t + W_g h_{t-1} + b_g)
        f = σ(U_f x_t + W_f h_{t-1} + b_f)        c_t = f ⊙ c_{t-1} + i ⊙ g
        o = σ(U_o x_t + W_o h_{t-1} + b_o)        h_t = o ⊙ tanh(c_t)

    Gate order i, f, g, o; ``weight_ih`` ``[4H, D]``, ``weight_hh`` ``[4H, H]``, biases ``[4H]``, as
    in ``torch.nn.LSTM``. State: ``(h, c)``, both ``[B, H]``.

    Source: Hochreiter & Schmidhuber, "Long Short-Term Memory", Neural Computation 9 (1997), with
    the forget gate of Gers, Schmidhuber & Cummins, "Learning to Forget", Neural Computation 12 (2000).
    """

    gates = 4

    @property
    def state_sizes(self) -> tuple[int, ...]:
        return (self.hidden_size, self.hidden_size)

    def project(self, x: Tensor) -> Tensor:
        """U x_t + b for every gate and step: ``[..., D] -> [..., 4H]``."""
        return F.linear(x, self.weight_ih, self.bias())

    def step(self, projected: Tensor, state: State) -> State:
        """The equations above."""
        h, c = state
        i, f, g, o = (projected + h @ self.weight_hh.T).chunk(4, -1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(c), c
