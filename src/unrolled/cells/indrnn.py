"""The independently recurrent network."""

import torch
from torch import Tensor, nn

from unrolled.cells.affine import AffineCell
from unrolled.cells.cell import State


class IndRNN(AffineCell):
    """The independently recurrent network: each unit hears of the past from itself alone.

        h_t = relu(U x_t + w ⊙ h_{t-1} + b)

    So over k steps the gradient of a unit is w^k, or 0 where it was off: it neither vanishes nor
    explodes as long as w is near 1. The source keeps ``|w|`` below γ^(1/T), as for γ = 2, by clipping it
    after each update; the cell leaves that to the training. Units mix from layer to layer only, hence
    use several. ``weight_ih`` U ``[H, D]``, ``weight_hh`` w and ``bias`` ``[H]``. State: ``(h,)``,
    ``[B, H]``.

    Source: Li, Li, Cook, Zhu & Gao, "Independently Recurrent Neural Network (IndRNN): Building A
    Longer and Deeper RNN", CVPR 2018.
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        self.weight_hh = nn.Parameter(torch.empty(hidden_size))
        self.reset_parameters()

    def step(self, projected: Tensor, state: State) -> State:
        """h_t = relu(projected_t + w ⊙ h_{t-1})."""
        (h,) = state
        return (torch.relu(projected + self.weight_hh * h),)

    def reset_parameters(self) -> None:
        """Draw w from U(0, 1), so that some units remember long and others briefly; b is zero.

        U is drawn from He's uniform distribution with slope 8, as in the authors' code.
        """
        nn.init.kaiming_uniform_(self.weight_ih, a=8)
        nn.init.uniform_(self.weight_hh, 0, 1)
        nn.init.zeros_(self.bias)
