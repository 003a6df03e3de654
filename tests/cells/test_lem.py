"""Long expressive memory against its equations; its states stay bounded."""

import numpy as np
import pytest
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
from unrolled.cells import LEM

DT = 0.7


def lem(w, x, y, z):
    v_1, v_2, v_z, v_y = blocks(w["weight_ih"], 4)
    b_1, b_2, b_z, b_y = blocks(w["bias"], 4)
    w_1, w_2, w_z = blocks(w["weight_hh"], 3)
    dt = DT * sigmoid(y @ w_1.T + x @ v_1.T + b_1)
    dt_bar = DT * sigmoid(y @ w_2.T + x @ v_2.T + b_2)
    z = (1 - dt) * z + dt * np.tanh(y @ w_z.T + x @ v_z.T + b_z)
    y = (1 - dt_bar) * y + dt_bar * np.tanh(z @ w["weight_zy"].T + x @ v_y.T + b_y)
    return y, z


def test_it_is_its_equations() -> None:
    check_equations(LEM(D, H, dt=DT), lem)


def test_its_gradients_are_those_of_finite_differences() -> None:
    check_gradients(LEM(2, 2, dt=DT))


def test_both_states_stay_between_minus_one_and_one() -> None:
    cell = drawn(LEM(D, H))
    x = 10 * torch.randn(50, 3, D, dtype=torch.float64)
    state = cell.initial_state(3, x)
    for projected in cell.project(x):
        state = cell.step(projected, state)
        assert max(s.abs().max() for s in state) <= 1


def test_step_sizes_of_zero_keep_both_states() -> None:
    cell = drawn(LEM(D, H))
    with torch.no_grad():
        cell.bias[: 2 * H] = -1e3
    x, (y, z) = inputs(cell)
    _, (y_n, z_n) = run_by_hand(cell, x, (y, z))
    assert_close_by_name({"y": y_n, "z": z_n}, {"y": y, "z": z}, len(x))


def test_every_parameter_is_drawn_from_torch_nns_range() -> None:
    for parameter in LEM(200, 25).parameters():
        assert_uniform(parameter.detach(), -0.2, 0.2)


def test_a_step_size_that_is_no_number_is_refused() -> None:
    with pytest.raises(TypeError, match=r"^dt: got '1', expected a number"):
        LEM(D, H, dt="1")


def test_it_shows_its_step_size() -> None:
    assert repr(LEM(D, H)) == "LEM(8, 5, dt=1)"
