"""The simple network's step against its equation, and against finite differences."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from tests.compare import assert_close_by_name, check_derivatives, run_by_hand
from unrolled.cells import Elman
from unrolled.cells.elman import ACTIVATIONS, Activation

T, B, D, H = 3, 2, 3, 5

# Each activation written once more, for numpy.
FORMULAS = {
    "tanh": lambda z: (np.exp(z) - np.exp(-z)) / (np.exp(z) + np.exp(-z)),
    "relu": lambda z: np.where(z > 0, z, 0),
    "sigmoid": lambda z: 1 / (1 + np.exp(-z)),
    "identity": lambda z: z,
    F.softplus: lambda z: np.log1p(np.exp(z)),
}


def name_of(activation: str | Activation) -> str:
    return activation if isinstance(activation, str) else activation.__name__


def test_every_named_activation_is_tested() -> None:
    assert set(ACTIVATIONS) == {a for a in FORMULAS if isinstance(a, str)}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("activation", FORMULAS, ids=name_of)
def test_a_step_is_f_of_u_x_plus_w_s_plus_b(activation: str | Activation, bias: bool) -> None:
    cell = Elman(D, H, activation=activation, bias=bias).double()
    x, start = torch.randn(T, B, D).double(), torch.randn(B, H).double()
    y, (final,) = run_by_hand(cell, x, (start,))

    f = FORMULAS[activation]
    u, w = cell.weight_ih.detach().numpy(), cell.weight_hh.detach().numpy()
    b = (cell.bias_ih + cell.bias_hh).detach().numpy() if bias else 0
    s, outputs = start.numpy(), []
    for x_t in x.numpy():
        s = f(x_t @ u.T + s @ w.T + b)
        outputs.append(s)
    expected = {"y": torch.tensor(np.stack(outputs)), "s": torch.tensor(s)}
    assert_close_by_name({"y": y, "s": final}, expected, T)


@pytest.mark.parametrize("activation", FORMULAS, ids=name_of)
def test_first_and_second_derivatives_are_those_of_finite_differences(
    activation: str | Activation,
) -> None:
    cell = Elman(2, 3, activation=activation).double()
    x, s = torch.randn(T, B, 2).double(), torch.randn(B, 3).double()
    check_derivatives(cell, lambda cell, x, s: run_by_hand(cell, x, (s,)), x, s)


def test_the_activation_is_tanh_unless_told_otherwise() -> None:
    cell = Elman(D, H)
    s, projected = torch.zeros(B, H), torch.randn(B, H)
    assert torch.equal(cell.step(projected, (s,))[0], torch.tanh(projected))


def test_an_unknown_activation_is_refused_with_those_that_are_known() -> None:
    expected = r"expected 'tanh', 'relu', 'sigmoid', 'identity', or a function$"
    with pytest.raises(ValueError, match=rf"^activation: got 'Tanh', {expected}"):
        Elman(D, H, activation="Tanh")


@pytest.mark.parametrize("activation", [None, 3])
def test_an_activation_that_is_neither_name_nor_function_is_refused(activation: object) -> None:
    with pytest.raises(
        TypeError, match=rf"^activation: got {activation}, expected a name or a function$"
    ):
        Elman(D, H, activation=activation)


def test_it_shows_its_activation() -> None:
    assert repr(Elman(D, H, activation="relu")) == "Elman(3, 5, activation=relu)"
    assert repr(Elman(D, H, activation=F.softplus)) == "Elman(3, 5, activation=softplus)"


def test_an_activation_without_a_name_is_shown_as_it_is() -> None:
    assert "activation=Tanh()" in repr(Elman(3, 5, activation=torch.nn.Tanh()))
