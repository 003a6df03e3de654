"""The coupled oscillatory network."""

import math

import torch
from torch import Tensor, nn

from unrolled.cells.affine import AffineCell
from unrolled.cells.cell import State
from unrolled.shapes import check_number


class CoRNN(AffineCell):
    """The coupled oscillatory network: damped oscillators, driven by the input and by each other.

        z_t = z_{t-1} + Δt (tanh(W y_{t-1} + W' z_{t-1} + V x_t + b) - γ y_{t-1} - ε z_{t-1})
        y_t = y_{t-1} + Δt z_t

    This is the source's IMEX scheme of y'' = tanh(…) - γ y - ε y' with z = y': implicit in y, which
    takes the new z, and explicit in the damping ε z. ``weight_ih`` V ``[H, D]``, ``weight_y`` W and
    ``weight_z`` W' ``[H, H]``, ``bias`` ``[H]``. State: ``(y, z)``, both ``[B, H]``.

    Source: Rusch & Mishra, "Coupled Oscillatory Recurrent Neural Network (coRNN)", ICLR 2021. The
    constants below are its choice for sequential MNIST; they depend on the task.

    Args:
        input_size: D, the features of one input.
        hidden_size: H, the hidden units.
        dt: Δt, the step size.
        gamma: γ, the square of the frequency.
        epsilon: ε, the damping.
    """

    symbols = ("y", "z")

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        dt: float = 0.042,
        gamma: float = 2.7,
        epsilon: float = 4.7,
    ) -> None:
        super().__init__(input_size, hidden_size)
        self.dt = check_number("dt", dt)
        self.gamma = check_number("gamma", gamma)
        self.epsilon = check_number("epsilon", epsilon)
        self.weight_y = nn.Parameter(torch.empty(hidden_size, hidden_size))
        self.weight_z = nn.Parameter(torch.empty(hidden_size, hidden_size))
        self.reset_parameters()

    @property
    def state_sizes(self) -> tuple[int, ...]:
        return (self.hidden_size, self.hidden_size)

    def step(self, projected: Tensor, state: State) -> State:
        """The equations above."""
        y, z = state
        force = torch.tanh(projected + y @ self.weight_y.T + z @ self.weight_z.T)
        z = z + self.dt * (force - self.gamma * y - self.epsilon * z)
        return y + self.dt * z, z

    def reset_parameters(self) -> None:
        """Draw every parameter from U(-1/√(D + 2H), 1/√(D + 2H)), as the source's one linear map."""
        bound = 1 / math.sqrt(self.input_size + 2 * self.hidden_size)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def extra_repr(self) -> str:
        options = f"dt={self.dt:g}, gamma={self.gamma:g}, epsilon={self.epsilon:g}"
        return f"{super().extra_repr()}, {options}"
