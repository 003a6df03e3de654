"""The LSTM with coupled gates against its equations, and against an LSTM tied to it."""

import numpy as np
import torch

from tests.cells.papers import (
    D,
    H,
    assert_normal,
    check_equations,
    check_gradients,
    drawn,
    inputs,
    sigmoid,
)
from tests.compare import assert_close_by_name, run_by_hand
from unrolled.cells import LSTM, CoupledLSTM


def coupled_lstm(w, x, h, c):
    b = w.get("bias_ih", np.zeros(3 * H)) + w.get("bias_hh", np.zeros(3 * H))
    z_f, z_g, z_o = np.split(x @ w["weight_ih"].T + h @ w["weight_hh"].T + b, 3, axis=1)
    i = 1 - sigmoid(z_f)
    c = (1 - i) * c + i * np.tanh(z_g)
    return sigmoid(z_o) * np.tanh(c), c


def test_it_is_its_equations() -> None:
    check_equations(CoupledLSTM(D, H), coupled_lstm)
    check_equations(CoupledLSTM(D, H, bias=False), coupled_lstm)


def test_its_gradients_are_those_of_finite_differences() -> None:
    check_gradients(CoupledLSTM(2, 2))


def test_it_is_the_lstm_whose_input_gate_has_the_forget_gates_weights_negated() -> None:
    cell, plain = drawn(CoupledLSTM(D, H)), LSTM(D, H).double()
    plain.load_state_dict({n: torch.cat([-p[:H], p]) for n, p in cell.state_dict().items()})
    x, start = inputs(cell)
    (y, (h, c)), (expected, (h_n, c_n)) = (run_by_hand(k, x, start) for k in (cell, plain))
    assert_close_by_name({"y": y, "h": h, "c": c}, {"y": expected, "h": h_n, "c": c_n}, len(x))


def test_the_cell_state_stays_between_minus_one_and_one() -> None:
    cell = drawn(CoupledLSTM(D, H))
    x = 10 * torch.randn(50, 3, D, dtype=torch.float64)
    state = cell.initial_state(3, x)
    for projected in cell.project(x):
        state = cell.step(projected, state)
        assert state[1].abs().max() <= 1


def test_every_parameter_is_drawn_with_a_standard_deviation_of_a_tenth() -> None:
    for parameter in CoupledLSTM(100, 200).parameters():
        assert_normal(parameter.detach(), 0.1)
