"""Long short-term memory in continuous time."""

from typing import Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unrolled.cells.cell import GatedCell, Options, State
from unrolled.cells.facts import Retain
from unrolled.shapes import check_size


class ContinuousTimeLSTM(GatedCell):
    """Long short-term memory in continuous time: between two rows its cell state decays to a target.

        ĉ = e_{t-1} + (c_{t-1} - e_{t-1}) ⊙ exp(-d_{t-1} Δ_t)        ĥ = o_{t-1} ⊙ tanh(ĉ)

        i = σ(U_i x_t + W_i ĥ + b_i)        j = σ(U_j x_t + W_j ĥ + b_j)
        f = σ(U_f x_t + W_f ĥ + b_f)        k = σ(U_k x_t + W_k ĥ + b_k)
        g = 2σ(U_g x_t + W_g ĥ + b_g) - 1   d_t = softplus(U_d x_t + W_d ĥ + b_d)
        c_t = f ⊙ ĉ + i ⊙ g                 e_t = k ⊙ e_{t-1} + j ⊙ g
        o_t = σ(U_o x_t + W_o ĥ + b_o)      h_t = o_t ⊙ tanh(c_t)

    where Δ_t is the time since the row before. A row in which nothing is seen is no event: c_t is ĉ, and
    o, e and d stay as they are. So two gaps one after another are one as long as both, whatever rows
    without a value stand between them: exp(-d a) exp(-d b) = exp(-d (a + b)).

    The last two features of the input are Δ_t and whether anything is seen, 1 or 0, as ``observed`` gives
    them; all others are x_t. A level above reads the two as well.

    Gate order i, f, g, o, j, k, d; ``weight_ih`` ``[7H, D - 2]``, ``weight_hh`` ``[7H, H]``, biases
    ``[7H]``, of which only the sum counts. State: ``(o, c, e, d)``, each ``[B, H]``; the output h
    ``[B, H]`` is ``read`` of them. In the source's letters e is c̄, d is δ, j and k are i and f with a
    bar, g is z.

    Source: Mei & Eisner, "The Neural Hawkes Process: A Neurally Self-Modulating Multivariate Point
    Process", NeurIPS 2017, equations 5 to 7; there the input is the kind of an event.

    Args:
        input_size: D, at least 3: what the cell reads, the gap, and whether anything is seen.
        hidden_size: H, the hidden units.
        options: ``bias``, ``layer_norm`` (of U x and W ĥ), ``recurrent_dropout``, ``zoneout`` (of the state
            when an event comes: without events nothing is drawn upon); see ``GatedCell``.
    """

    blocks, candidate, symbols = ("i", "f", "g", "o", "j", "k", "d"), "g", ("o", "c", "e", "d")
    retain = Retain("f", written="i")
    beside = 2

    def __init__(self, input_size: int, hidden_size: int, **options: Unpack[Options]) -> None:
        check_size("input_size", input_size, least=3)
        super().__init__(input_size, hidden_size, **options)
        self.weight_ih = nn.Parameter(torch.empty(7 * hidden_size, input_size - 2))
        self.reset_parameters()

    @property
    def state_sizes(self) -> tuple[int, ...]:
        return (self.hidden_size,) * 4

    def project(self, x: Tensor) -> Tensor:
        """The gap and whether anything is seen, H wide each, then U x_t + b: ``[..., D] -> [..., 9H]``."""
        own, gap, seen = torch.split(x, [self.input_size - 2, 1, 1], -1)
        wide = [part.expand(*x.shape[:-1], self.hidden_size) for part in (gap, seen)]
        return torch.cat([*wide, self.of_input(own, self.bias())], -1)

    def faded(self, projected: Tensor, state: State) -> State:
        """The state when the step begins: with ĉ."""
        o, c, e, d = state
        gap = projected[..., : self.hidden_size]
        return o, e + (c - e) * torch.exp(-d * gap), e, d

    def step(self, projected: Tensor, state: State) -> State:
        """The equations above where anything is seen, else the decay alone."""
        before = self.faded(projected, state)
        seen = projected[..., self.hidden_size : 2 * self.hidden_size] > 0.5
        after = super().step(projected[..., 2 * self.hidden_size :], before)
        return tuple(torch.where(seen, new, old) for new, old in zip(after, before, strict=True))

    def next_state(self, u: Tensor, h: Tensor, state: State) -> State:
        """``equations``, where W sees ĥ; ``h`` is o, as recurrent dropout may have left it."""
        return self.equations(u, self.of_state(h * torch.tanh(state[1])), state)

    def equations(self, u: Tensor, w: Tensor, state: State) -> State:
        """The equations above, from u = U x_t + b and w = W ĥ; ``state`` has ĉ."""
        _, c, e, _ = state
        i, f, g, o, j, k, d = (u + w).chunk(7, -1)
        g = 2 * torch.sigmoid(g) - 1
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * g
        e = torch.sigmoid(k) * e + torch.sigmoid(j) * g
        return torch.sigmoid(o), c, e, F.softplus(d)

    def read(self, states: State) -> Tensor:
        """The outputs h = o ⊙ tanh(c): four ``[..., H]`` to ``[..., H]``."""
        o, c, _, _ = states
        return o * torch.tanh(c)
