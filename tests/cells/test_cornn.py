"""The coupled oscillators against their equations, and against the energy of free ones."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.cells.papers import D, H, assert_uniform, check_equations, check_gradients
from unrolled.cells import CoRNN, State

DT, GAMMA, EPSILON = 0.3, 1.7, 0.6
OPTIONS = {"dt": DT, "gamma": GAMMA, "epsilon": EPSILON}


def cornn(w, x, y, z):
    drive = np.tanh(y @ w["weight_y"].T + z @ w["weight_z"].T + x @ w["weight_ih"].T + w["bias"])
    z = z + DT * drive - DT * GAMMA * y - DT * EPSILON * z
    return y + DT * z, z


def test_it_is_its_equations() -> None:
    check_equations(CoRNN(D, H, **OPTIONS), cornn)


def test_its_gradients_are_those_of_finite_differences() -> None:
    check_gradients(CoRNN(2, 2, **OPTIONS))


def energies(cell: CoRNN, steps: int) -> Tensor:
    """The energy of each free oscillator at each step: what the scheme keeps where ε is 0.

    It is γ y² + z², up to a term of the order of Δt.
    """
    for parameter in cell.double().parameters():
        torch.nn.init.zeros_(parameter)
    state: State = (torch.randn(1, H).double(), torch.randn(1, H).double())
    found = []
    for _ in range(steps):
        y, z = state
        found.append(cell.gamma * y**2 + z**2 - cell.dt * cell.gamma * y * z)
        state = cell.step(torch.zeros_like(y), state)
    return torch.cat(found)


def test_free_oscillators_keep_their_energy_and_damped_ones_lose_it() -> None:
    free = energies(CoRNN(D, H, dt=0.1, gamma=2, epsilon=0), 1000)
    torch.testing.assert_close(free, free[:1].expand_as(free))
    damped = energies(CoRNN(D, H, dt=0.1, gamma=2, epsilon=0.5), 200)
    assert (damped[100:] < 0.1 * damped[:1]).all()


def test_its_weights_are_drawn_as_those_of_one_linear_map() -> None:
    cell = CoRNN(25, 300)
    bound = 1 / math.sqrt(25 + 2 * 300)
    for parameter in cell.parameters():
        assert_uniform(parameter.detach(), -bound, bound)


@pytest.mark.parametrize("name", OPTIONS)
def test_a_constant_below_zero_is_refused_by_name(name: str) -> None:
    with pytest.raises(ValueError, match=rf"^{name}: got -1, expected a number of at least 0$"):
        CoRNN(D, H, **{name: -1})


def test_it_shows_its_constants() -> None:
    assert repr(CoRNN(D, H)) == "CoRNN(8, 5, dt=0.042, gamma=2.7, epsilon=4.7)"
