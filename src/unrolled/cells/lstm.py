"""Long short-term memory."""

from typing import Unpack

import torch
from torch import Tensor, nn

from unrolled.cells.cell import GatedCell, Norm, Options, State
from unrolled.cells.facts import Onnx, Retain


class LSTM(GatedCell):
    """Long short-term memory: a cell state c that is added to, so that its gradient need not decay.

        i = σ(U_i x_t + W_i h_{t-1} + b_i)        g = tanh(U_g x_t + W_g h_{t-1} + b_g)
        f = σ(U_f x_t + W_f h_{t-1} + b_f)        c_t = f ⊙ c_{t-1} + i ⊙ g
        o = σ(U_o x_t + W_o h_{t-1} + b_o)        h_t = o ⊙ tanh(c_t)

    Gate order i, f, g, o; ``weight_ih`` ``[4H, D]``, ``weight_hh`` ``[4H, H]``, biases ``[4H]``, as
    in ``torch.nn.LSTM``. State: ``(h, c)``, both ``[B, H]``.

    Source: Hochreiter & Schmidhuber, "Long Short-Term Memory", Neural Computation 9 (1997), with
    the forget gate of Gers, Schmidhuber & Cummins, "Learning to Forget", Neural Computation 12 (2000).

    Args:
        input_size: D, the features of one input.
        hidden_size: H, the hidden units.
        forget_bias: what b_f is at first, in both its parts together; by default it is drawn like the
            others. With 1 a new network remembers (Jozefowicz, Zaremba & Sutskever, "An Empirical
            Exploration of Recurrent Network Architectures", ICML 2015).
        options: ``bias``, ``layer_norm`` (with it c_t goes through ``norm_c`` on its way to tanh, and is
            carried on as it is), ``recurrent_dropout``, ``zoneout``; see ``GatedCell``.
    """

    blocks, candidate, symbols = ("i", "f", "g", "o"), "g", ("h", "c")
    retain = Retain("f", written="i")
    kernel, onnx = "lstm", Onnx("LSTM", ("i", "o", "f", "g"))
    forget_bias: float | None = None

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        forget_bias: float | None = None,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(input_size, hidden_size, **options)
        if forget_bias is not None and self.bias_ih is None:
            raise ValueError(f"forget_bias: got {forget_bias!r} with bias=False, expected a bias")
        self.forget_bias = forget_bias
        if self.layer_norm:
            self.norm_c = Norm([hidden_size], bias=self.bias_ih is not None)
        self._set_forget_bias()

    def reset_parameters(self) -> None:
        """As ``GatedCell`` does; then b_f is ``forget_bias``, if there is one."""
        super().reset_parameters()
        self._set_forget_bias()

    def _set_forget_bias(self) -> None:
        if self.forget_bias is not None and self.bias_ih is not None and self.bias_hh is not None:
            nn.init.constant_(self.bias_ih.chunk(4)[1], self.forget_bias)
            nn.init.zeros_(self.bias_hh.chunk(4)[1])

    @property
    def state_sizes(self) -> tuple[int, ...]:
        return (self.hidden_size, self.hidden_size)

    def project(self, x: Tensor) -> Tensor:
        """U x_t + b for every gate and step: ``[..., D] -> [..., 4H]``."""
        return self.of_input(x, self.bias())

    def equations(self, u: Tensor, w: Tensor, state: State) -> State:
        """The equations above, from u = U x_t + b and w = W h_{t-1}."""
        _, c = state
        i, f, g, o = (u + w).chunk(4, -1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(self.norm_c(c) if self.layer_norm else c), c
