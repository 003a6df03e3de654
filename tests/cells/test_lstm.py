"""The LSTM's step against its equations, and against finite differences."""

import numpy as np
import pytest
import torch

from tests.compare import assert_close_by_name, check_derivatives, run_by_hand
from unrolled.cells import LSTM

T, B, D, H = 3, 2, 3, 5


def sigmoid(z: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-z))


@pytest.mark.parametrize("bias", [True, False])
def test_a_step_is_its_equations_with_gates_in_the_order_i_f_g_o(bias: bool) -> None:
    cell = LSTM(D, H, bias=bias).double()
    x = torch.randn(T, B, D).double()
    start = (torch.randn(B, H).double(), torch.randn(B, H).double())
    y, (h_n, c_n) = run_by_hand(cell, x, start)

    weights = {name: p.detach().numpy() for name, p in cell.named_parameters()}
    b = weights["bias_ih"] + weights["bias_hh"] if bias else np.zeros(4 * H)
    rows = {gate: slice(k * H, (k + 1) * H) for k, gate in enumerate("ifgo")}
    (h, c), outputs = (s.numpy() for s in start), []
    for x_t in x.numpy():
        z = {
            gate: x_t @ weights["weight_ih"][r].T + h @ weights["weight_hh"][r].T + b[r]
            for gate, r in rows.items()
        }
        c = sigmoid(z["f"]) * c + sigmoid(z["i"]) * np.tanh(z["g"])
        h = sigmoid(z["o"]) * np.tanh(c)
        outputs.append(h)
    expected = {"y": np.stack(outputs), "h_n": h, "c_n": c}
    expected = {name: torch.tensor(value) for name, value in expected.items()}
    assert_close_by_name({"y": y, "h_n": h_n, "c_n": c_n}, expected, T)


def test_first_and_second_derivatives_are_those_of_finite_differences() -> None:
    cell = LSTM(2, 2).double()
    x, h, c = (torch.randn(*shape).double() for shape in ((T, B, 2), (B, 2), (B, 2)))
    check_derivatives(cell, lambda cell, x, h, c: run_by_hand(cell, x, (h, c)), x, h, c)


def test_it_carries_a_hidden_and_a_cell_state_of_h_units_each() -> None:
    assert LSTM(D, H).state_sizes == (H, H)


def test_an_open_forget_gate_and_a_closed_input_gate_keep_the_cell_state() -> None:
    cell = LSTM(D, H).double()
    with torch.no_grad():
        cell.bias_ih[:H] = -1e3  # i = 0
        cell.bias_ih[H : 2 * H] = 1e3  # f = 1
    c = torch.randn(B, H).double()
    x = torch.randn(T, B, D).double()
    _, (_, c_n) = run_by_hand(cell, x, (torch.randn(B, H).double(), c))
    assert torch.equal(c_n, c)
