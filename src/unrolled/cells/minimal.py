"""The minimal GRU and LSTM: gates that see the input alone, and so need not wait for the state."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unrolled.cells.linear import LinearCell


class MinimalCell(LinearCell):
    """What MinGRU and MinLSTM share: the candidate's g, and parameters drawn as a linear layer's."""

    @staticmethod
    def g(v: Tensor) -> Tensor:
        """v + 1/2 where v ≥ 0, σ(v) elsewhere: positive, monotone and continuous."""  # noqa: D403
        return torch.where(v >= 0, v + 0.5, torch.sigmoid(v))

    def reset_parameters(self) -> None:
        """Draw every parameter from U(-1/√D, 1/√D), as ``torch.nn.Linear``, which the source uses."""
        bound = 1 / math.sqrt(self.input_size)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)


class MinGRU(MinimalCell):
    """The minimal GRU: a running mean whose rate and whose new value depend on the input alone.

        z = σ(U_z x_t + b_z)
        h̃ = g(U_h x_t + b_h)
        h_t = (1 - z) ⊙ h_{t-1} + z ⊙ h̃

    with g(v) = v + 1/2 where v ≥ 0, and σ(v) elsewhere. Block order z, h; ``weight_ih`` ``[2H, D]``,
    ``bias`` ``[2H]``. State: ``(h,)``, ``[B, H]``.

    g is that of the source's log-space version, with which its figures were measured; its plain
    version has h̃ linear. g keeps h positive, which the logarithm needs. ``parallel`` here takes no
    logarithm, since the doubling of ``linear_scan`` is more accurate and starts from any state.

    Source: Feng, Tung, Ahmed, Bengio & Hajimirsadeghi, "Were RNNs All We Needed?", 2024
    (arXiv:2410.01201).
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size, blocks=2)
        self.reset_parameters()

    def coefficients(self, projected: Tensor) -> tuple[Tensor, Tensor]:
        """The pair 1 - z, z ⊙ h̃."""
        u_z, u_h = projected.chunk(2, -1)
        return torch.sigmoid(-u_z), torch.sigmoid(u_z) * self.g(u_h)


class MinLSTM(MinimalCell):
    """The minimal LSTM: forget and input gates that depend on the input alone and add up to 1.

        f = σ(U_f x_t + b_f)        f' = f / (f + i)
        i = σ(U_i x_t + b_i)        i' = i / (f + i)
        h̃ = g(U_h x_t + b_h)        h_t = f' ⊙ h_{t-1} + i' ⊙ h̃

    with g as in ``MinGRU``, and for its reasons. Block order f, i, h; ``weight_ih`` ``[3H, D]``,
    ``bias`` ``[3H]``. State: ``(h,)``, ``[B, H]``. f' is computed as σ(log f - log i), which is the
    same and does not divide 0 by 0 where both gates are shut.

    Source: Feng, Tung, Ahmed, Bengio & Hajimirsadeghi, "Were RNNs All We Needed?", 2024
    (arXiv:2410.01201).
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size, blocks=3)
        self.reset_parameters()

    def coefficients(self, projected: Tensor) -> tuple[Tensor, Tensor]:
        """The pair f', i' ⊙ h̃."""
        u_f, u_i, u_h = projected.chunk(3, -1)
        ratio = F.softplus(-u_i) - F.softplus(-u_f)  # log f - log i
        return torch.sigmoid(ratio), torch.sigmoid(-ratio) * self.g(u_h)
