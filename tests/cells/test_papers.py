"""The checks can fail."""

import numpy as np
import pytest
import torch

from tests.cells.papers import (
    D,
    H,
    assert_normal,
    assert_uniform,
    check_equations,
    check_gradients,
    jacobian,
)
from unrolled.cells import Cell, Elman


def elman(w, x, h):
    u = x @ w["weight_ih"].T + w["bias_ih"] + w["bias_hh"]
    return (np.tanh(u + h @ w["weight_hh"].T),)


def test_equations_that_are_the_cells_pass_and_others_do_not() -> None:
    check_equations(Elman(D, H), elman)
    with pytest.raises(AssertionError, match="state 0, step 0"):
        check_equations(Elman(D, H), lambda w, x, h: (elman(w, x, h)[0] + 1e-11,))
    with pytest.raises(AssertionError, match="state 0, step 0"):
        check_equations(Elman(D, H), lambda w, x, h: elman(w, x, h @ w["weight_hh"]))


def test_a_gradient_that_is_stopped_is_found() -> None:
    class Stopped(Elman):
        def step(self, projected, state):
            return super().step(projected, (state[0].detach(),))

    check_gradients(Elman(2, 2))
    with pytest.raises(Exception, match="Jacobian mismatch"):
        check_gradients(Stopped(2, 2))


def test_the_jacobian_of_a_linear_step_is_its_matrix() -> None:
    cell = Elman(D, H, activation="identity")
    got = jacobian(cell, torch.randn(D), (torch.randn(H),))
    torch.testing.assert_close(got, cell.weight_hh)


def test_draws_from_another_distribution_are_found() -> None:
    assert_uniform(torch.rand(10_000), 0, 1)
    assert_normal(torch.randn(10_000), 1)
    for wrong in (0.9 * torch.rand(10_000), torch.rand(10_000) ** 1.2, torch.randn(10_000)):
        with pytest.raises(AssertionError):
            assert_uniform(wrong, 0, 1)
    uniform = (2 * torch.rand(10_000) - 1) * 3**0.5  # of the same spread
    for wrong in (1.1 * torch.randn(10_000), torch.randn(10_000) + 0.1, uniform):
        with pytest.raises(AssertionError):
            assert_normal(wrong, 1)


def test_the_base_class_has_no_parallel_form() -> None:
    with pytest.raises(NotImplementedError, match=r"^Cell has no parallel form; take it step"):
        Cell(D, H).parallel(torch.zeros(1, 1, H), (torch.zeros(1, H),))
