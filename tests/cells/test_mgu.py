"""The minimal gated unit against its equations."""

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
from unrolled.cells import GRU, MGU


def mgu(w, x, h):
    zeros = np.zeros(2 * H)
    (u_f, u_h), (w_f, w_h) = blocks(w["weight_ih"], 2), blocks(w["weight_hh"], 2)
    b_f, b_h = blocks(w.get("bias_ih", zeros) + w.get("bias_hh", zeros), 2)
    f = sigmoid(x @ u_f.T + h @ w_f.T + b_f)
    candidate = np.tanh(x @ u_h.T + (f * h) @ w_h.T + b_h)
    return ((1 - f) * h + f * candidate,)


def test_it_is_its_equations() -> None:
    check_equations(MGU(D, H), mgu)
    check_equations(MGU(D, H, bias=False), mgu)


def test_its_gradients_are_those_of_finite_differences() -> None:
    check_gradients(MGU(2, 2))


def test_a_shut_gate_keeps_the_state() -> None:
    cell = drawn(MGU(D, H))
    with torch.no_grad():
        cell.bias_ih[:H] = -1e3
    x, (h,) = inputs(cell)
    _, (h_n,) = run_by_hand(cell, x, (h,))
    assert_close_by_name({"h": h_n}, {"h": h}, len(x))


def test_it_has_two_thirds_of_the_gated_recurrent_units_parameters() -> None:
    count, of_gru = (sum(p.numel() for p in cell(D, H).parameters()) for cell in (MGU, GRU))
    assert 3 * count == 2 * of_gru


def test_every_parameter_is_drawn_from_torch_nns_range() -> None:
    for parameter in MGU(200, 25).parameters():
        assert_uniform(parameter.detach(), -0.2, 0.2)
