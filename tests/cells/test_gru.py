"""The GRU's step against its equations, and against finite differences."""

import numpy as np
import pytest
import torch

from tests.compare import assert_close_by_name, check_derivatives, run_by_hand
from unrolled.cells import GRU

T, B, D, H = 3, 2, 3, 5


def sigmoid(z: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-z))


@pytest.mark.parametrize("bias", [True, False])
def test_a_step_is_its_equations_with_gates_in_the_order_r_z_n(bias: bool) -> None:
    cell = GRU(D, H, bias=bias).double()
    x, start = torch.randn(T, B, D).double(), torch.randn(B, H).double()
    y, (h_n,) = run_by_hand(cell, x, (start,))

    weights = {name: p.detach().numpy() for name, p in cell.named_parameters()}
    rows = {gate: slice(k * H, (k + 1) * H) for k, gate in enumerate("rzn")}
    zeros = np.zeros(3 * H)
    b_u, b_w = (weights.get(name, zeros) for name in ("bias_ih", "bias_hh"))
    h, outputs = start.numpy(), []
    for x_t in x.numpy():
        u = {gate: x_t @ weights["weight_ih"][r].T + b_u[r] for gate, r in rows.items()}
        w = {gate: h @ weights["weight_hh"][r].T + b_w[r] for gate, r in rows.items()}
        r, z = sigmoid(u["r"] + w["r"]), sigmoid(u["z"] + w["z"])
        n = np.tanh(u["n"] + r * w["n"])
        h = (1 - z) * n + z * h
        outputs.append(h)
    expected = {"y": torch.tensor(np.stack(outputs)), "h_n": torch.tensor(h)}
    assert_close_by_name({"y": y, "h_n": h_n}, expected, T)


def test_first_and_second_derivatives_are_those_of_finite_differences() -> None:
    cell = GRU(2, 2).double()
    x, h = torch.randn(T, B, 2).double(), torch.randn(B, 2).double()
    check_derivatives(cell, lambda cell, x, h: run_by_hand(cell, x, (h,)), x, h)


def test_an_open_update_gate_keeps_the_state() -> None:
    cell = GRU(D, H).double()
    with torch.no_grad():
        cell.bias_ih[H : 2 * H] = 1e3  # z = 1
    x, h = torch.randn(T, B, D).double(), torch.randn(B, H).double()
    _, (h_n,) = run_by_hand(cell, x, (h,))
    # n + z (h - n) need not be h to the last bit.
    assert_close_by_name({"h": h_n}, {"h": h}, T)
