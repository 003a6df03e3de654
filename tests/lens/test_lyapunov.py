"""The long run: networks whose exponents are known, and a singular value decomposition where T is small."""

import math

import pytest
import torch
from torch import nn

from tests.lens.nets import KINDS, D, H, T, eye, inputs, linear, make, orthogonal
from unrolled import Recurrent, cells, lens


@pytest.mark.parametrize("a", [0.5, 1.0, -1.5])
def test_a_step_that_stretches_all_alike(a):
    x = inputs(30)
    found = lens.lyapunov(linear(a * eye()), x)
    expected = torch.full((H,), math.log(abs(a)), dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)
    assert lens.log_condition(linear(a * eye()), x) == pytest.approx(0.0, abs=1e-12)


def test_an_orthogonal_linear_network():
    layer, x = linear(orthogonal(7)), inputs(200)
    assert lens.lyapunov(layer, x).abs().max() < 1e-13
    assert lens.log_condition(layer, x) < 200 * 1e-14  # each step rounds by some eps


def test_a_symmetric_network_has_the_logarithms_of_its_eigenvalues():
    """After a warm-up in which the directions turn into eigenvectors, up to rounding."""
    values = torch.tensor([1.2, -0.9, 0.6, 0.3], dtype=torch.float64)
    turn = orthogonal()
    layer, x = linear(turn @ values.diag() @ turn.T), inputs(160, 1)
    found = lens.lyapunov(layer, x, warmup=140)
    torch.testing.assert_close(found, values.abs().log(), rtol=0, atol=1e-12)
    leading = lens.lyapunov(layer, x, 2, warmup=140)
    torch.testing.assert_close(leading, found[:2], rtol=0, atol=1e-12)
    # Without it the error falls as 1 / steps, log(condition of the start) / 160 at most.
    torch.testing.assert_close(lens.lyapunov(layer, x), found, rtol=0, atol=0.05)


def test_units_that_do_not_touch():
    """Unit vectors would stay what they are, and the first of them need not grow most."""
    layer = linear(torch.tensor([0.2, 1.3, 0.7, 0.5], dtype=torch.float64).diag())
    found = lens.lyapunov(layer, inputs(300), 1, warmup=100)
    assert found.item() == pytest.approx(math.log(1.3), abs=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_all_exponents_add_up_to_the_determinants(kind):
    layer, x = make(kind, bidirectional=True), inputs(20)
    for direction in range(2):
        found = lens.lyapunov(layer, x, direction=direction, warmup=3)
        jacobians = lens.recurrences(layer, x)[direction].jacobians(3)
        expected = torch.linalg.slogdet(jacobians).logabsdet.mean()
        if kind == "relu" and found[-1] == -math.inf:  # a dead unit
            continue
        assert found.sum().item() == pytest.approx(expected.item(), rel=1e-9, abs=1e-9)
        assert torch.equal(found, found.sort(descending=True).values)


@pytest.mark.parametrize("kind", KINDS)
def test_the_condition_number_where_it_can_be_computed_at_once(kind):
    layer, x = make(kind), inputs(T)
    jacobians = lens.recurrences(layer, x)[0].jacobians()
    whole = jacobians[0]
    for step in jacobians[1:]:
        whole = step @ whole
    singular = torch.linalg.svdvals(whole)
    if (singular[:, -1] < 1e-9 * singular[:, 0]).any():
        assert lens.log_condition(layer, x) > math.log(1e8)
        return
    expected = (singular[:, 0] / singular[:, -1]).log().mean()
    # The smallest singular value is known to eps * condition, here under 1e-6.
    assert lens.log_condition(layer, x) == pytest.approx(expected.item(), rel=1e-6)


def test_nothing_overflows():
    values = torch.tensor([3.0, 2.0, 0.5, 0.1], dtype=torch.float64)
    turn, steps = orthogonal(), 1500
    for layer in (linear(values.diag()), linear(turn @ values.diag() @ turn.T)):
        found = lens.log_condition(layer, inputs(steps, 1))
        assert found == pytest.approx(steps * math.log(30), rel=1e-12)
        exponents = lens.lyapunov(layer, inputs(steps, 1))
        torch.testing.assert_close(exponents, values.log(), rtol=0, atol=1e-2)


def test_a_dead_unit_is_forgotten_at_once():
    layer = Recurrent(cells.Elman, D, H, activation="relu").double()
    with torch.no_grad():
        layer.cells[0].weight_hh.copy_(0.9 * eye())
        layer.cells[0].bias_ih.copy_(torch.tensor([9.0, 9.0, 9.0, -99.0]))
    x = inputs(20)
    found = lens.lyapunov(layer, x)
    torch.testing.assert_close(found[:3], torch.full((3,), math.log(0.9)).double())
    assert found[3] == -math.inf
    assert lens.log_condition(layer, x) == math.inf


def test_a_step_that_is_singular_to_rounding():
    values = torch.tensor([1.0, 0.8, 0.5, 0.0], dtype=torch.float64)
    layer, x = linear(orthogonal() @ values.diag() @ orthogonal()), inputs(20)
    assert lens.lyapunov(layer, x).isinf().tolist() == [False, False, False, True]
    assert lens.log_condition(layer, x) == math.inf


def test_one_step_and_one_sequence():
    layer, x = nn.GRU(D, H).double(), inputs(1, 1)
    whole = lens.recurrences(layer, x)[0].jacobians()[0]
    found = lens.lyapunov(layer, x)
    assert found.sum().item() == pytest.approx(torch.linalg.slogdet(whole).logabsdet.item())


def test_bad_arguments():
    layer, x = make("LSTM"), inputs()
    with pytest.raises(ValueError, match=f"k: got 9, expected at most {2 * H}"):
        lens.lyapunov(layer, x, 9)
    with pytest.raises(ValueError, match=f"warmup: got {T}, expected at most {T - 1}"):
        lens.lyapunov(layer, x, warmup=T)
