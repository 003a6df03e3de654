"""The independently recurrent network against its equation; its units do not mix."""

import math

import numpy as np
import torch

from tests.cells.papers import (
    B,
    D,
    H,
    T,
    assert_uniform,
    check_equations,
    check_gradients,
    drawn,
    inputs,
    jacobian,
)
from tests.compare import leaves
from unrolled.cells import IndRNN
from unrolled.scan import ScanOptions, scan


def indrnn(w, x, h):
    return (np.maximum(x @ w["weight_ih"].T + w["weight_hh"] * h + w["bias"], 0),)


def test_it_is_its_equation() -> None:
    check_equations(IndRNN(D, H), indrnn)


def test_its_gradients_are_those_of_finite_differences() -> None:
    check_gradients(IndRNN(2, 3))


def test_its_units_do_not_mix() -> None:
    cell = drawn(IndRNN(D, H))
    x, (h,) = inputs(cell)
    found = jacobian(cell, x[0, 0], (h[0],))
    assert torch.equal(found, torch.diag(found.diagonal()))
    assert found.any()


def test_the_gradient_of_a_unit_that_stays_on_is_the_power_of_its_weight() -> None:
    cell = drawn(IndRNN(D, H))
    with torch.no_grad():
        cell.weight_hh.abs_()
        cell.bias.fill_(100)
    x, (h,) = inputs(cell)
    (h,) = leaves(h.abs())
    (_,), (h_n,) = scan(cell, x, (h,), ScanOptions(backend="reference"))
    (gradient,) = torch.autograd.grad(h_n.sum(), h)
    torch.testing.assert_close(gradient, (cell.weight_hh**T).expand(B, H))


def test_its_weights_are_drawn_as_in_the_authors_code() -> None:
    cell = IndRNN(200, 500)
    bound = math.sqrt(6 / (1 + 8**2) / 200)
    assert_uniform(cell.weight_ih.detach(), -bound, bound)
    assert_uniform(cell.weight_hh.detach(), 0, 1)
    assert not cell.bias.any()
