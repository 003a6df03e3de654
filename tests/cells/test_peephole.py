"""The LSTM with peepholes against its equations, and against the LSTM without."""

import numpy as np
import torch

from tests.cells.papers import (
    D,
    H,
    assert_uniform,
    blocks,
    check_equations,
    check_gradients,
    drawn,
    inputs,
    sigmoid,
)
from tests.compare import assert_close_by_name, run_by_hand
from unrolled.cells import LSTM, PeepholeLSTM


def peephole_lstm(w, x, h, c):
    b = w.get("bias_ih", np.zeros(4 * H)) + w.get("bias_hh", np.zeros(4 * H))
    z = x @ w["weight_ih"].T + h @ w["weight_hh"].T + b
    z_i, z_f, z_g, z_o = np.split(z, 4, axis=1)
    p_i, p_f, p_o = blocks(w["weight_peephole"], 3)
    i = sigmoid(z_i + c * p_i)
    f = sigmoid(z_f + c * p_f)
    c = f * c + i * np.tanh(z_g)
    o = sigmoid(z_o + c * p_o)  # the output gate alone sees the new c
    return o * np.tanh(c), c


def test_it_is_its_equations() -> None:
    check_equations(PeepholeLSTM(D, H), peephole_lstm)
    check_equations(PeepholeLSTM(D, H, bias=False), peephole_lstm)


def test_its_gradients_are_those_of_finite_differences() -> None:
    check_gradients(PeepholeLSTM(2, 2))


def test_with_peepholes_of_zero_it_is_the_lstm() -> None:
    cell, plain = drawn(PeepholeLSTM(D, H)), LSTM(D, H).double()
    plain.load_state_dict({n: p for n, p in cell.state_dict().items() if n != "weight_peephole"})
    x, start = inputs(cell)
    for value, same in ((0.0, True), (0.5, False)):
        torch.nn.init.constant_(cell.weight_peephole, value)
        y, expected = run_by_hand(cell, x, start)[0], run_by_hand(plain, x, start)[0]
        assert torch.allclose(y, expected, 1e-12, 1e-12) is same


def test_a_closed_output_gate_opens_by_the_cell_state_alone() -> None:
    # What LSTM without peepholes cannot do: h = 0 tells it nothing of c.
    cell = PeepholeLSTM(1, 1, bias=False).double()
    for parameter in cell.parameters():
        torch.nn.init.zeros_(parameter)
    with torch.no_grad():
        cell.weight_peephole[2] = 100.0
    c = torch.tensor([[1.0], [-1.0]], dtype=torch.float64)
    h, kept = cell.step(torch.zeros(2, 4).double(), (torch.zeros_like(c), c))
    assert_close_by_name({"c": kept}, {"c": c / 2}, 1)
    assert h[0] > 0.4 and -1e-20 < h[1] <= 0


def test_every_parameter_is_drawn_from_torch_nns_range() -> None:
    for parameter in PeepholeLSTM(200, 25).parameters():
        assert_uniform(parameter.detach(), -0.2, 0.2)
