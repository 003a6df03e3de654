"""The antisymmetric recurrent network."""

import math

import torch
from torch import Tensor, nn

from unrolled.cells.affine import AffineCell
from unrolled.cells.cell import State
from unrolled.shapes import check_number


class AntisymmetricRNN(AffineCell):
    """The antisymmetric network: an Euler step of a differential equation that neither grows nor decays.

        a = (W - Wᵀ - γ I) h_{t-1}
        h_t = h_{t-1} + ε tanh(a + V_h x_t + b_h)

    and if ``gated``, with a gate that shares the matrix:

        z = σ(a + V_z x_t + b_z)
        h_t = h_{t-1} + ε z ⊙ tanh(a + V_h x_t + b_h)

    The eigenvalues of W - Wᵀ - γ I have the real part -γ, whatever W is; γ makes good the error of
    the Euler step. ``weight_ih`` V ``[H, D]``, or ``[2H, D]`` in the order h, z; ``weight_hh`` W
    ``[H, H]``; ``bias`` as wide as V. State: ``(h,)``, ``[B, H]``.

    Source: Chang, Chen, Haber & Chi, "AntisymmetricRNN: A Dynamical System View on Recurrent Neural
    Networks", ICLR 2019.

    Args:
        input_size: D, the features of one input.
        hidden_size: H, the hidden units.
        gated: whether there is a z.
        epsilon: ε, the step size.
        gamma: γ, the diffusion.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        gated: bool = False,
        epsilon: float = 0.01,
        gamma: float = 0.01,
    ) -> None:
        super().__init__(input_size, hidden_size, blocks=2 if gated else 1)
        self.gated = gated
        self.epsilon = check_number("epsilon", epsilon)
        self.gamma = check_number("gamma", gamma)
        self.weight_hh = nn.Parameter(torch.empty(hidden_size, hidden_size))
        self.reset_parameters()

    def step(self, projected: Tensor, state: State) -> State:
        """The equations above."""
        (h,) = state
        a = h @ (self.weight_hh - self.weight_hh.T).T - self.gamma * h
        if not self.gated:
            return (h + self.epsilon * torch.tanh(a + projected),)
        v_h, v_z = projected.chunk(2, -1)
        return (h + self.epsilon * torch.sigmoid(a + v_z) * torch.tanh(a + v_h),)

    def reset_parameters(self) -> None:
        """Draw V from N(0, 1/D), W above its diagonal from N(0, 1/H); all else is zero."""
        nn.init.normal_(self.weight_ih, std=1 / math.sqrt(self.input_size))
        nn.init.normal_(self.weight_hh, std=1 / math.sqrt(self.hidden_size))
        nn.init.zeros_(self.bias)
        with torch.no_grad():
            self.weight_hh.triu_(1)

    def extra_repr(self) -> str:
        options = f"epsilon={self.epsilon:g}, gamma={self.gamma:g}"
        return f"{super().extra_repr()}, gated={self.gated}, {options}"
