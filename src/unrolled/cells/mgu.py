"""The minimal gated unit."""

import torch
from torch import Tensor

from unrolled.cells.cell import GatedCell, State
from unrolled.cells.facts import Retain


class MGU(GatedCell):
    """The minimal gated unit: one gate says both what is read of the old state and what is replaced.

        f = σ(U_f x_t + W_f h_{t-1} + b_f)
        h̃ = tanh(U_h x_t + W_h (f ⊙ h_{t-1}) + b_h)
        h_t = (1 - f) ⊙ h_{t-1} + f ⊙ h̃

    Gate order f, h; ``weight_ih`` ``[2H, D]``, ``weight_hh`` ``[2H, H]``, biases ``[2H]``, all drawn
    from U(-1/√H, 1/√H), as ``torch.nn`` draws a GRU's. State: ``(h,)``, ``[B, H]``.

    Source: Zhou, Wu, Zhang & Zhou, "Minimal Gated Unit for Recurrent Neural Networks", International
    Journal of Automation and Computing 13 (2016).

    Options: ``bias``, ``layer_norm`` (f and h̃ each by itself: U_f x, U_h x, W_f h and W_h (f ⊙ h) are
    normalised one by one), ``recurrent_dropout`` (both products see the h that is left),
    ``zoneout``; see ``GatedCell``.
    """

    blocks, candidate = ("f", "h"), "h"
    retain = Retain("f", keeps=False)
    normed = (1, 1)  # each by itself, since h̃ waits for f

    def project(self, x: Tensor) -> Tensor:
        """U x_t + b for the gate and the candidate: ``[..., D] -> [..., 2H]``."""
        return self.of_input(x, self.bias())

    def next_state(self, u: Tensor, h: Tensor, state: State) -> State:
        """The equations above, from u = U x_t + b; W_f and W_h see ``h``."""
        (before,) = state
        u_f, u_h = u.chunk(2, -1)
        f = torch.sigmoid(u_f + self._of_state(0, h))
        candidate = torch.tanh(u_h + self._of_state(1, f * h))
        return ((1 - f) * before + f * candidate,)

    def _of_state(self, gate: int, h: Tensor) -> Tensor:
        """W_f h or W_h h, normalised if asked: ``[B, H] -> [B, H]``."""
        w = h @ self.weight_hh.chunk(2)[gate].T
        return self.norm_hh.of_group(gate, w) if self.layer_norm else w
