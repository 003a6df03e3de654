"""The gated recurrent unit for series with missing values."""

from collections.abc import Sequence
from typing import Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unrolled.cells.cell import GatedCell, Options, State
from unrolled.cells.facts import Retain
from unrolled.shapes import check_numbers, check_size


class GRUD(GatedCell):
    """GRU-D: a value that is missing fades from the last one to the mean, and the state fades with time.

        γ_x = exp(-max(0, w_x ⊙ δ_t + b_x))          γ_h = exp(-max(0, W_γ δ_t + b_γ))
        x̂ = m_t ⊙ x_t + (1 - m_t) ⊙ (γ_x ⊙ x' + (1 - γ_x) ⊙ x̃)
        ĥ = γ_h ⊙ h_{t-1}
        r = σ(U_r x̂ + W_r ĥ + V_r m_t + b_r)
        z = σ(U_z x̂ + W_z ĥ + V_z m_t + b_z)
        n = tanh(U_n x̂ + W_n (r ⊙ ĥ) + V_n m_t + b_n)
        h_t = (1 - z) ⊙ ĥ + z ⊙ n

    where x' is a variable's last value, m_t its mask, δ_t the time since it was seen and x̃ its mean:
    ``observed`` makes the first three of a series with NaN. The input is ``[others, x', m, δ, gap, seen]``:
    what is always there, V of each, and two more. ``others`` go the way of x̂. With ``variables=0``, as in
    the levels above the first, all is always there: x̂ is the input, m is empty, and δ is the gap.

    A row without any value is a step all the same, and b_γ makes two short gaps other than a long one:
    where splitting a gap must change nothing, take ``ContinuousTimeLSTM``.

    Gate order r, z, n. ``weight_ih`` ``[3H, D - V - 2]`` is U and V, for others, x̂ and m; of D - 2
    features without variables. ``weight_hh`` ``[3H, H]``; biases ``[3H]``, of which only the sum counts.
    ``weight_dx`` w_x and ``bias_dx`` b_x, ``[V]``; ``weight_dh`` W_γ, ``[H, V]`` (``[H, 1]`` without
    variables), and ``bias_dh`` b_γ, ``[H]``. ``mean`` x̃, ``[V]``, is a buffer. State: ``(h,)``, ``[B, H]``.

    Source: Che, Purushotham, Cho, Sontag & Liu, "Recurrent Neural Networks for Multivariate Time Series
    with Missing Values", Scientific Reports 8 (2018).

    Args:
        input_size: D, at least 3: 3V + 2 for V variables, and as many others in front as there are.
        hidden_size: H, the hidden units.
        variables: V; by default as many as there is room for, (D - 2) // 3.
        mean: x̃, one number or one a variable: the mean of the training data. By default 0, as of data
            that were standardised.
        options: ``bias`` (of the decays too), ``layer_norm`` (W_r and W_z together, W_n by itself),
            ``recurrent_dropout``, ``zoneout`` (of ĥ); see ``GatedCell``.

    Raises:
        TypeError, ValueError: ``input_size`` has no room for the variables; or as ``GatedCell``.
    """

    blocks, candidate = ("r", "z", "n"), "n"
    retain = Retain("z", keeps=False)
    normed = (2, 1)  # r and z together, n by itself
    beside, above = 2, {"variables": 0, "mean": 0.0}
    weight_dx: nn.Parameter | None
    bias_dx: nn.Parameter | None
    bias_dh: nn.Parameter | None
    mean: Tensor

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        variables: int | None = None,
        mean: float | Sequence[float] | Tensor = 0.0,
        **options: Unpack[Options],
    ) -> None:
        check_size("input_size", input_size, least=3)
        room = (input_size - 2) // 3
        count = (
            room if variables is None else check_size("variables", variables, least=0, most=room)
        )
        super().__init__(input_size, hidden_size, **options)
        self.variables = count
        self.others = input_size - 2 - 3 * count
        self.weight_ih = nn.Parameter(torch.empty(3 * hidden_size, self.others + 2 * count))
        self.weight_dh = nn.Parameter(torch.empty(hidden_size, count or 1))
        has_bias = self.bias_ih is not None
        sizes = {"weight_dx": count, "bias_dx": count * has_bias, "bias_dh": hidden_size * has_bias}
        for name, size in sizes.items():
            self.register_parameter(name, nn.Parameter(torch.empty(size)) if size else None)
        dtype = torch.get_default_dtype()
        means = check_numbers("mean", mean, f"a number, or {count}, one a variable", dtype)
        if means.shape not in ((), (count,)):
            raise ValueError(
                f"mean: got shape {list(means.shape)}, expected [{count}], or a number"
            )
        self.register_buffer("mean", means.expand(count).clone())
        self.reset_parameters()

    def project(self, x: Tensor) -> Tensor:
        """W_γ δ_t + b_γ, then U x̂ + V m_t + b for every gate and step: ``[..., D] -> [..., 4H]``."""
        count = self.variables
        others, last, mask, since, gap, _ = torch.split(x, [self.others, *[count] * 3, 1, 1], -1)
        filled = last
        if self.weight_dx is not None:
            kept = _decay(self.weight_dx * since, self.bias_dx)
            filled = last - (1 - mask) * (last - self.mean) * (1 - kept)
        u = self.of_input(torch.cat([others, filled, mask], -1), self.bias())
        return torch.cat([F.linear(since if count else gap, self.weight_dh, self.bias_dh), u], -1)

    def faded(self, projected: Tensor, state: State) -> State:
        """ĥ, the state when the step begins."""
        return (_decay(projected[..., : self.hidden_size]) * state[0],)

    def step(self, projected: Tensor, state: State) -> State:
        """The equations above; the options work on ĥ."""
        return super().step(projected[..., self.hidden_size :], self.faded(projected, state))

    def next_state(self, u: Tensor, h: Tensor, state: State) -> State:
        """The equations above, from u = U x̂ + V m_t + b; W_r, W_z and W_n see ``h``."""
        (before,) = state
        gates = [2 * self.hidden_size, self.hidden_size]  # r and z go together, n waits for r
        u_rz, u_n = torch.split(u, gates, -1)
        r, z = torch.sigmoid(u_rz + self._of_state(0, h)).chunk(2, -1)
        n = torch.tanh(u_n + self._of_state(1, r * h))
        return ((1 - z) * before + z * n,)

    def _of_state(self, group: int, h: Tensor) -> Tensor:
        """W_r h and W_z h, or W_n h, normalised if asked."""
        rows = [2 * self.hidden_size, self.hidden_size]
        w = h @ torch.split(self.weight_hh, rows)[group].T
        return self.norm_hh.of_group(group, w) if self.layer_norm else w

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, variables={self.variables}"


def _decay(waited: Tensor, bias: Tensor | None = None) -> Tensor:
    """What is left: exp(-max(0, waited + b))."""
    return torch.exp(-torch.relu(waited if bias is None else waited + bias))
