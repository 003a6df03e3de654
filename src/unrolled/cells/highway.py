"""The recurrent highway network."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unrolled.cells.affine import AffineCell
from unrolled.cells.cell import State
from unrolled.shapes import check_size


class RecurrentHighway(AffineCell):
    """The recurrent highway network: several highway layers within one step of time.

        s_0 = s_{t-1}        and for l = 1 … micro_depth:
        h_l = tanh([l = 1] U_h x_t + R_hl s_{l-1} + b_hl)
        g_l = σ([l = 1] U_g x_t + R_gl s_{l-1} + b_gl)
        s_l = g_l ⊙ h_l + (1 - g_l) ⊙ s_{l-1}

    The last s_l is s_t. The carry gate is coupled, 1 - g. Block order h, g; ``weight_ih``
    ``[2H, D]``, ``bias`` ``[2H]`` for l = 1; ``weight_hh[l-1]`` ``[2H, H]`` for each l, ``bias_hh[l-2]``
    ``[2H]`` for l ≥ 2. State: ``(s,)``, ``[B, H]``.

    Source: Zilly, Srivastava, Koutník & Schmidhuber, "Recurrent Highway Networks", ICML 2017.

    Args:
        input_size: D, the features of one input.
        hidden_size: H, the hidden units.
        micro_depth: how many highway layers one step has.
    """

    symbols = ("s",)

    def __init__(self, input_size: int, hidden_size: int, *, micro_depth: int = 3) -> None:
        super().__init__(input_size, hidden_size, blocks=2)
        self.micro_depth = check_size("micro_depth", micro_depth)
        rows = 2 * self.hidden_size
        self.weight_hh = nn.ParameterList(
            torch.empty(rows, hidden_size) for _ in range(self.micro_depth)
        )
        self.bias_hh = nn.ParameterList(torch.empty(rows) for _ in range(self.micro_depth - 1))
        self.reset_parameters()

    def step(self, projected: Tensor, state: State) -> State:
        """The equations above."""
        (s,) = state
        for k in range(self.micro_depth):
            from_input = projected if k == 0 else self.bias_hh[k - 1]
            h, g = (from_input + F.linear(s, self.weight_hh[k])).chunk(2, -1)
            g = torch.sigmoid(g)
            s = g * torch.tanh(h) + (1 - g) * s
        return (s,)

    def reset_parameters(self) -> None:
        """Draw weights from U(-0.04, 0.04); the gates' biases are -2, so that s is carried at first.

        These are the source's values for Penn Treebank; the other biases are zero.
        """
        for weight in (self.weight_ih, *self.weight_hh):
            nn.init.uniform_(weight, -0.04, 0.04)
        for bias in (self.bias, *self.bias_hh):
            nn.init.zeros_(bias)
            nn.init.constant_(bias[self.hidden_size :], -2)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, micro_depth={self.micro_depth}"
