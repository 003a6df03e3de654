"""The minimal GRU and LSTM against their equations, step by step and all at once."""

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
from unrolled.cells import Cell, MinGRU, MinLSTM

both = pytest.mark.parametrize("kind", [MinGRU, MinLSTM])


def g(v):
    return np.where(v >= 0, v + 0.5, sigmoid(v))


def min_gru(w, x, h):
    (u_z, u_h), (b_z, b_h) = blocks(w["weight_ih"], 2), blocks(w["bias"], 2)
    z = sigmoid(x @ u_z.T + b_z)
    return ((1 - z) * h + z * g(x @ u_h.T + b_h),)


def min_lstm(w, x, h):
    (u_f, u_i, u_h), (b_f, b_i, b_h) = blocks(w["weight_ih"], 3), blocks(w["bias"], 3)
    f, i = sigmoid(x @ u_f.T + b_f), sigmoid(x @ u_i.T + b_i)
    return (f / (f + i) * h + i / (f + i) * g(x @ u_h.T + b_h),)


@pytest.mark.parametrize(("kind", "step"), [(MinGRU, min_gru), (MinLSTM, min_lstm)])
def test_it_is_its_equations(kind: type[Cell], step: object) -> None:
    check_equations(kind(D, H), step)


@both
def test_its_gradients_are_those_of_finite_differences(kind: type[Cell]) -> None:
    check_gradients(kind(2, 2))


@both
def test_nothing_of_the_state_reaches_a_gate(kind: type[Cell]) -> None:
    cell = drawn(kind(D, H))
    x, (h,) = inputs(cell)
    u = cell.project(x[0])
    zero, one, two = (cell.step(u, (k * h,))[0] for k in (0, 1, 2))
    torch.testing.assert_close(two - one, one - zero)


@both
def test_from_a_positive_state_every_state_is_positive(kind: type[Cell]) -> None:
    cell = drawn(kind(D, H))
    x, (h,) = inputs(cell, steps=100)
    (states,) = cell.parallel(cell.project(x), (h.abs(),))
    assert (states > 0).all()


@both
@pytest.mark.parametrize("size", [1e2, 1e4])
def test_gates_that_are_shut_or_open_altogether_leave_every_number_finite(
    kind: type[Cell], size: float
) -> None:
    cell = kind(D, H)
    u = (size * torch.randn(50, 2, cell.bias.numel())).requires_grad_()
    for states in (cell.parallel(u, cell.initial_state(2, u)), cell.step(u, (u[..., :H],))):
        (gradient,) = torch.autograd.grad(states[0].sum(), u)
        assert states[0].isfinite().all() and gradient.isfinite().all()


@both
def test_every_parameter_is_drawn_as_a_linear_layers(kind: type[Cell]) -> None:
    for parameter in kind(25, 300).parameters():
        assert_uniform(parameter.detach(), -0.2, 0.2)
