"""The antisymmetric network against its equations; its eigenvalues have the real part -γ."""

import math
from functools import partial

import numpy as np
import pytest
import torch

from tests.cells.papers import (
    D,
    H,
    assert_normal,
    blocks,
    check_equations,
    check_gradients,
    drawn,
    inputs,
    jacobian,
    sigmoid,
)
from unrolled.cells import AntisymmetricRNN

EPSILON, GAMMA = 0.3, 0.2
kinds = pytest.mark.parametrize("gated", [False, True])
make = partial(AntisymmetricRNN, epsilon=EPSILON, gamma=GAMMA)


def antisymmetric(w, x, h):
    a = h @ (w["weight_hh"] - w["weight_hh"].T - GAMMA * np.eye(H)).T
    if len(w["bias"]) == H:
        return (h + EPSILON * np.tanh(a + x @ w["weight_ih"].T + w["bias"]),)
    (v_h, v_z), (b_h, b_z) = blocks(w["weight_ih"], 2), blocks(w["bias"], 2)
    z = sigmoid(a + x @ v_z.T + b_z)
    return (h + EPSILON * z * np.tanh(a + x @ v_h.T + b_h),)


@kinds
def test_it_is_its_equations(gated: bool) -> None:
    check_equations(make(D, H, gated=gated), antisymmetric)


@kinds
def test_its_gradients_are_those_of_finite_differences(gated: bool) -> None:
    check_gradients(make(2, 3, gated=gated))


@kinds
def test_the_eigenvalues_of_its_equation_have_the_real_part_minus_gamma(gated: bool) -> None:
    cell = drawn(make(D, H, gated=gated))
    torch.nn.init.zeros_(cell.bias)
    step = jacobian(cell, torch.zeros(D).double(), (torch.zeros(H).double(),))
    rate = EPSILON * (
        0.5 if gated else 1
    )  # at zero the gate is half open, and tanh is the identity
    found = torch.linalg.eigvals((step - torch.eye(H)) / rate)
    torch.testing.assert_close(found.real, torch.full((H,), -GAMMA).double())
    assert found.imag.abs().max() > 0.5


def test_a_small_step_keeps_the_norm_of_a_small_state() -> None:
    cell = drawn(AntisymmetricRNN(D, H, epsilon=1e-4, gamma=0))
    torch.nn.init.zeros_(cell.bias)
    h = 1e-3 * inputs(cell)[1][0]
    before = h.norm(dim=1)
    for _ in range(1000):
        (h,) = cell.step(torch.zeros_like(h), (h,))
    # The state has turned by ε·1000·|W - Wᵀ|, about 0.1; Euler's error is its square times ε.
    torch.testing.assert_close(h.norm(dim=1), before, rtol=1e-4, atol=0)


def test_its_weights_are_drawn_by_the_width_of_what_they_meet() -> None:
    cell = AntisymmetricRNN(100, 200, gated=True)
    assert_normal(cell.weight_ih.detach(), 1 / math.sqrt(100))
    above = torch.ones(200, 200).triu(1).bool()
    assert_normal(cell.weight_hh.detach()[above], 1 / math.sqrt(200))
    assert not cell.weight_hh[~above].any()
    assert not cell.bias.any()


def test_a_step_size_that_is_no_number_of_at_least_zero_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^epsilon: got -0\.1, expected a number of at least 0"):
        AntisymmetricRNN(D, H, epsilon=-0.1)


def test_it_shows_its_options() -> None:
    assert repr(make(D, H)) == "AntisymmetricRNN(8, 5, gated=False, epsilon=0.3, gamma=0.2)"
