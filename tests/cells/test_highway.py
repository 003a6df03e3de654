"""The recurrent highway network against its equations, at several micro depths."""

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
    jacobian,
    sigmoid,
)
from unrolled.cells import RecurrentHighway

depths = pytest.mark.parametrize("micro_depth", [1, 2, 3])


def highway(micro_depth):
    def step(w, x, s):
        u_h, u_g = blocks(w["weight_ih"], 2)
        for layer in range(1, micro_depth + 1):
            r_h, r_g = blocks(w[f"weight_hh.{layer - 1}"], 2)
            b_h, b_g = blocks(w["bias"] if layer == 1 else w[f"bias_hh.{layer - 2}"], 2)
            first = layer == 1
            h = np.tanh(first * (x @ u_h.T) + s @ r_h.T + b_h)
            g = sigmoid(first * (x @ u_g.T) + s @ r_g.T + b_g)
            s = h * g + s * (1 - g)
        return (s,)

    return step


@depths
def test_it_is_its_equations(micro_depth: int) -> None:
    check_equations(RecurrentHighway(D, H, micro_depth=micro_depth), highway(micro_depth))


@depths
def test_its_gradients_are_those_of_finite_differences(micro_depth: int) -> None:
    check_gradients(RecurrentHighway(2, 2, micro_depth=micro_depth))


def test_each_micro_step_has_weights_of_its_own() -> None:
    names = set(dict(RecurrentHighway(D, H, micro_depth=2).named_parameters()))
    assert names == {"weight_ih", "bias", "weight_hh.0", "weight_hh.1", "bias_hh.0"}


def test_shut_gates_carry_the_state_and_its_gradient_through_all_micro_steps() -> None:
    cell = drawn(RecurrentHighway(D, H))
    with torch.no_grad():
        for bias in (cell.bias, *cell.bias_hh):
            bias[H:] = -1e3
    x, (s,) = inputs(cell)
    assert torch.equal(cell.step(cell.project(x[0]), (s,))[0], s)
    assert torch.equal(jacobian(cell, x[0, 0], (s[0],)), torch.eye(H).double())


def test_weights_are_small_and_gates_are_nearly_shut_at_the_start() -> None:
    cell = RecurrentHighway(50, 100)
    for weight in (cell.weight_ih, *cell.weight_hh):
        assert_uniform(weight.detach(), -0.04, 0.04)
    for bias in (cell.bias, *cell.bias_hh):
        assert bias.tolist() == [0.0] * 100 + [-2.0] * 100


def test_a_micro_depth_of_none_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^micro_depth: got 0, expected at least 1"):
        RecurrentHighway(D, H, micro_depth=0)


def test_it_shows_its_micro_depth() -> None:
    assert repr(RecurrentHighway(D, H)).startswith("RecurrentHighway(\n  8, 5, micro_depth=3\n")
