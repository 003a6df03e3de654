"""The gated recurrent unit."""

import torch
from torch import Tensor

from unrolled.cells.cell import GatedCell, State, affine
from unrolled.cells.facts import Onnx, Retain


class GRU(GatedCell):
    """The gated recurrent unit: one gate mixes the old state with a new one.

        r = σ(U_r x_t + W_r h_{t-1} + b_r)
        z = σ(U_z x_t + W_z h_{t-1} + b_z)
        n = tanh(U_n x_t + b_n + r ⊙ (W_n h_{t-1} + b'_n))
        h_t = (1 - z) ⊙ n + z ⊙ h_{t-1}

    Gate order r, z, n; ``weight_ih`` ``[3H, D]``, ``weight_hh`` ``[3H, H]``, biases ``[3H]``, as in
    ``torch.nn.GRU``. ``bias_hh`` stays in the step, since r multiplies its last third. State:
    ``(h,)``, ``[B, H]``.

    Source: Cho et al., "Learning Phrase Representations using RNN Encoder-Decoder", EMNLP 2014, in
    the variant with the reset gate after the product (its first version on arXiv, 1406.1078v1).

    Options: ``bias``, ``layer_norm``, ``recurrent_dropout``, ``zoneout``; see ``GatedCell``.
    """

    blocks, candidate = ("r", "z", "n"), "n"
    retain = Retain("z")
    kernel, onnx = "gru", Onnx("GRU", ("z", "r", "n"), {"linear_before_reset": 1})
    normed = (2, 1)  # r and z together, n by itself

    def project(self, x: Tensor) -> Tensor:
        """U x_t + bias_ih for every gate and step: ``[..., D] -> [..., 3H]``."""
        return self.of_input(x, self.bias_ih)

    def of_state(self, h: Tensor) -> Tensor:
        """W h_{t-1} + bias_hh: ``[B, H] -> [B, 3H]``."""
        return affine(h, self.weight_hh, self.bias_hh, self.norm_hh if self.layer_norm else None)

    def equations(self, u: Tensor, w: Tensor, state: State) -> State:
        """The equations above, from u = U x_t + b and w = W h_{t-1} + b'."""
        (h,) = state
        gates = [2 * self.hidden_size, self.hidden_size]  # r and z go together, n waits for r
        u_rz, u_n = torch.split(u, gates, -1)
        w_rz, w_n = torch.split(w, gates, -1)
        r, z = torch.sigmoid(u_rz + w_rz).chunk(2, -1)
        n = torch.tanh(u_n + r * w_n)
        return (n + z * (h - n),)
