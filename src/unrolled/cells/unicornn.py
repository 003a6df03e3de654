"""The undamped independent controlled oscillatory network."""

import torch
from torch import Tensor, nn

from unrolled.cells.affine import AffineCell
from unrolled.cells.cell import State
from unrolled.shapes import check_number


class UnICORNN(AffineCell):
    """The undamped independent controlled oscillatory network: a Hamiltonian system in each unit.

        τ = Δt σ(c)
        z_t = z_{t-1} - τ ⊙ (tanh(w ⊙ y_{t-1} + V x_t + b) + α y_{t-1})
        y_t = y_{t-1} + τ ⊙ z_t

    A symplectic Euler step: it can be inverted, and preserves the volume of (y, z). Units mix from
    layer to layer only, hence use several. ``weight_ih`` V ``[H, D]``; ``weight_hh`` w, ``bias`` b and
    ``time`` c, each ``[H]``, so that every unit learns its own step size. State: ``(y, z)``, both
    ``[B, H]``.

    Source: Rusch & Mishra, "UnICORNN: A Recurrent Model for Learning Very Long Time Dependencies",
    ICML 2021. Its Δt and α are tuned to the task, for permuted MNIST 0.19 and 30.65.

    Args:
        input_size: D, the features of one input.
        hidden_size: H, the hidden units.
        dt: Δt, the greatest step size.
        alpha: α, the part of the squared frequency that is not learned.
    """

    symbols = ("y", "z")

    def __init__(
        self, input_size: int, hidden_size: int, *, dt: float = 0.1, alpha: float = 1.0
    ) -> None:
        super().__init__(input_size, hidden_size)
        self.dt = check_number("dt", dt)
        self.alpha = check_number("alpha", alpha)
        self.weight_hh = nn.Parameter(torch.empty(hidden_size))
        self.time = nn.Parameter(torch.empty(hidden_size))
        self.reset_parameters()

    @property
    def state_sizes(self) -> tuple[int, ...]:
        return (self.hidden_size, self.hidden_size)

    def step(self, projected: Tensor, state: State) -> State:
        """The equations above."""
        y, z = state
        tau = self.dt * torch.sigmoid(self.time)
        z = z - tau * (torch.tanh(self.weight_hh * y + projected) + self.alpha * y)
        return y + tau * z, z

    def reset_parameters(self) -> None:
        """Draw w from U(0, 1), c from U(-0.1, 0.1); b is zero.

        V is drawn from He's uniform distribution with slope 8. All as in the authors' code.
        """
        nn.init.kaiming_uniform_(self.weight_ih, a=8)
        nn.init.uniform_(self.weight_hh, 0, 1)
        nn.init.uniform_(self.time, -0.1, 0.1)
        nn.init.zeros_(self.bias)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, dt={self.dt:g}, alpha={self.alpha:g}"
