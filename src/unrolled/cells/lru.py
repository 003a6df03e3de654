"""The linear recurrent unit."""

import math

import torch
from torch import Tensor, nn

from unrolled.cells.cell import Cell, State
from unrolled.cells.linear import linear_scan
from unrolled.shapes import check_number


class LRU(Cell):
    """The linear recurrent unit: complex and diagonal, so that all steps can be had at once.

        λ = exp(-exp(ν) + i exp(θ))
        s_t = λ ⊙ s_{t-1} + exp(γ) ⊙ (B x_t)
        y_t = Re(C s_t)

    ``|λ|`` < 1 whatever ν is. The source adds D x_t to y_t, a connection past the cell; that is the
    layer's to make, so the cell leaves it out. State: ``(re, im)`` of s, both ``[B, H]``; the output
    ``[B, H]`` is ``read`` of them. ``weight_ih`` B ``[2H, D]`` and ``weight_ho`` C ``[2H, H]``, real
    parts first; ``nu`` ν, ``theta`` θ and ``gamma`` γ, each ``[H]``.

    Source: Orvieto et al., "Resurrecting Recurrent Neural Networks for Long Sequences", ICML 2023.

    Args:
        input_size: D, the features of one input.
        hidden_size: H, the hidden units.
        r_min: the least ``|λ|`` at the start.
        r_max: the greatest ``|λ|`` at the start.
        max_phase: the greatest argument of λ at the start.

    Raises:
        ValueError: not 0 ≤ r_min < r_max ≤ 1.
    """

    symbols = ("s",)

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        r_min: float = 0.0,
        r_max: float = 1.0,
        max_phase: float = 2 * math.pi,
    ) -> None:
        super().__init__(input_size, hidden_size)
        self.r_max = check_number("r_max", r_max, most=1)
        self.r_min = check_number("r_min", r_min, most=1)
        if self.r_min >= self.r_max:
            raise ValueError(f"r_min: got {r_min!r}, expected less than r_max = {r_max!r}")
        self.max_phase = check_number("max_phase", max_phase)
        self.weight_ih = nn.Parameter(torch.empty(2 * hidden_size, input_size))
        self.weight_ho = nn.Parameter(torch.empty(2 * hidden_size, hidden_size))
        self.nu = nn.Parameter(torch.empty(hidden_size))
        self.theta = nn.Parameter(torch.empty(hidden_size))
        self.gamma = nn.Parameter(torch.empty(hidden_size))
        self.reset_parameters()

    @property
    def state_sizes(self) -> tuple[int, ...]:
        return (self.hidden_size, self.hidden_size)

    def eigenvalues(self) -> tuple[Tensor, Tensor]:
        """The real and the imaginary part of λ, both ``[H]``."""
        radius, phase = torch.exp(-torch.exp(self.nu)), torch.exp(self.theta)
        return radius * torch.cos(phase), radius * torch.sin(phase)

    def project(self, x: Tensor) -> Tensor:
        """B x_t for every step, its real part and its imaginary part: ``[..., D] -> [..., 2H]``."""
        return x @ self.weight_ih.T

    def step(self, projected: Tensor, state: State) -> State:
        """s_t = λ ⊙ s_{t-1} + exp(γ) ⊙ projected_t."""
        re, im = state
        u_re, u_im = projected.chunk(2, -1)
        a_re, a_im = self.eigenvalues()
        scale = torch.exp(self.gamma)
        return a_re * re - a_im * im + scale * u_re, a_re * im + a_im * re + scale * u_im

    def parallel(self, projected: Tensor, state: State) -> State:
        """The same for all steps, by ``linear_scan``, at least in float32."""
        dtype = torch.promote_types(projected.dtype, self.nu.dtype)
        wide = torch.promote_types(dtype, torch.float32)  # there are no narrower complex numbers
        u = torch.complex(*projected.to(wide).chunk(2, -1)) * torch.exp(self.gamma)
        a = torch.complex(*(part.to(wide) for part in self.eigenvalues()))
        start = torch.complex(*(part.to(wide) for part in state))
        s = linear_scan(a.expand_as(u), u, start)
        return s.real.to(dtype), s.imag.to(dtype)

    def read(self, states: State) -> Tensor:
        """The outputs y = Re(C s): two ``[..., H]`` to ``[..., H]``."""
        re, im = states
        c_re, c_im = self.weight_ho.chunk(2)
        return re @ c_re.T - im @ c_im.T

    @property
    def output_size(self) -> int:
        return self.hidden_size

    def reset_parameters(self) -> None:
        """Draw λ uniformly from the ring r_min ≤ ``|λ|`` ≤ r_max, with arguments from 0 to max_phase.

        B is drawn from N(0, 1/2D), C from N(0, 1/H), in each part; exp(2γ) = 1 - λ λ̄.
        """
        nn.init.normal_(self.weight_ih, std=1 / math.sqrt(2 * self.input_size))
        nn.init.normal_(self.weight_ho, std=1 / math.sqrt(self.hidden_size))
        tiny = torch.finfo(self.nu.dtype).eps  # neither λ = 0, nor |λ| = 1, has a logarithm here
        with torch.no_grad():
            square = self.nu.uniform_(self.r_min**2, self.r_max**2).clamp(tiny, 1 - tiny)
            self.gamma.copy_(torch.log1p(-square) / 2)
            self.nu.copy_(torch.log(-torch.log(square) / 2))
            self.theta.uniform_(0, self.max_phase).clamp_(min=tiny).log_()

    def extra_repr(self) -> str:
        options = f"r_min={self.r_min:g}, r_max={self.r_max:g}, max_phase={self.max_phase:g}"
        return f"{super().extra_repr()}, {options}"
