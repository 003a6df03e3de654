"""Long expressive memory."""

import torch
from torch import Tensor, nn

from unrolled.cells.affine import AffineCell
from unrolled.cells.cell import State
from unrolled.shapes import check_number


class LEM(AffineCell):
    """Long expressive memory: two states, each with its own step sizes, which the network learns.

        a = Δt σ(W_a y_{t-1} + V_a x_t + b_a)
        e = Δt σ(W_e y_{t-1} + V_e x_t + b_e)
        z_t = (1 - a) ⊙ z_{t-1} + a ⊙ tanh(W_z y_{t-1} + V_z x_t + b_z)
        y_t = (1 - e) ⊙ y_{t-1} + e ⊙ tanh(W_y z_t + V_y x_t + b_y)

    Block order a, e, z, y; ``weight_ih`` V ``[4H, D]``, ``bias`` ``[4H]``; ``weight_hh`` ``[3H, H]``, which
    y meets, in the order a, e, z; ``weight_zy`` W_y ``[H, H]``, which z meets. All are drawn from
    U(-1/√H, 1/√H). State: ``(y, z)``, both ``[B, H]``.

    Source: Rusch, Mishra, Erichson & Mahoney, "Long Expressive Memory for Sequence Modeling", ICLR
    2022; a and e are its Δt_n and Δt̄_n.

    Args:
        input_size: D, the features of one input.
        hidden_size: H, the hidden units.
        dt: Δt, the greatest step size; from 0 to 1 keeps both states between -1 and 1.
    """

    symbols = ("y", "z")

    def __init__(self, input_size: int, hidden_size: int, *, dt: float = 1.0) -> None:
        super().__init__(input_size, hidden_size, blocks=4)
        self.dt = check_number("dt", dt)
        self.weight_hh = nn.Parameter(torch.empty(3 * hidden_size, hidden_size))
        self.weight_zy = nn.Parameter(torch.empty(hidden_size, hidden_size))
        self.reset_parameters()

    @property
    def state_sizes(self) -> tuple[int, ...]:
        return (self.hidden_size, self.hidden_size)

    def step(self, projected: Tensor, state: State) -> State:
        """The equations above."""
        y, z = state
        v_a, v_e, v_z, v_y = projected.chunk(4, -1)
        w_a, w_e, w_z = (y @ self.weight_hh.T).chunk(3, -1)
        a = self.dt * torch.sigmoid(v_a + w_a)
        e = self.dt * torch.sigmoid(v_e + w_e)
        z = (1 - a) * z + a * torch.tanh(v_z + w_z)
        y = (1 - e) * y + e * torch.tanh(v_y + z @ self.weight_zy.T)
        return y, z

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, dt={self.dt:g}"
