"""The minimal gated unit."""

import torch
from torch import Tensor
from torch.nn import functional as F

from unrolled.cells.cell import GatedCell, State


class MGU(GatedCell):
    """The minimal gated unit: one gate says both what is read of the old state and what is replaced.

        f = σ(U_f x_t + W_f h_{t-1} + b_f)
        h̃ = tanh(U_h x_t + W_h (f ⊙ h_{t-1}) + b_h)
        h_t = (1 - f) ⊙ h_{t-1} + f ⊙ h̃

    Gate order f, h; ``weight_ih`` ``[2H, D]``, ``weight_hh`` ``[2H, H]``, biases ``[2H]``, all drawn
    from U(-1/√H, 1/√H), as ``torch.nn`` draws a GRU's. State: ``(h,)``, ``[B, H]``.

    Source: Zhou, Wu, Zhang & Zhou, "Minimal Gated Unit for Recurrent Neural Networks", International
    Journal of Automation and Computing 13 (2016).
    """

    gates = 2

    def project(self, x: Tensor) -> Tensor:
        """U x_t + b for the gate and the candidate: ``[..., D] -> [..., 2H]``."""
        return F.linear(x, self.weight_ih, self.bias())

    def step(self, projected: Tensor, state: State) -> State:
        """The equations above."""
        (h,) = state
        u_f, u_h = projected.chunk(2, -1)
        w_f, w_h = self.weight_hh.chunk(2)
        f = torch.sigmoid(u_f + h @ w_f.T)
        candidate = torch.tanh(u_h + (f * h) @ w_h.T)
        return ((1 - f) * h + f * candidate,)
