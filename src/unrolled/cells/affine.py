"""Cells that see the input through one weight and one bias."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unrolled.cells.cell import Cell


class AffineCell(Cell):
    """A cell whose projection is U x_t + b, in ``blocks`` blocks of H rows.

    Parameters: ``weight_ih`` ``[blocks*H, D]``, ``bias`` ``[blocks*H]``. A subclass adds its own,
    and then calls ``reset_parameters``.
    """

    def __init__(self, input_size: int, hidden_size: int, *, blocks: int = 1) -> None:
        super().__init__(input_size, hidden_size)
        self.weight_ih = nn.Parameter(torch.empty(blocks * hidden_size, input_size))
        self.bias = nn.Parameter(torch.empty(blocks * hidden_size))

    def project(self, x: Tensor) -> Tensor:
        """U x_t + b for every block and step: ``[..., D] -> [..., blocks*H]``."""
        return F.linear(x, self.weight_ih, self.bias)
